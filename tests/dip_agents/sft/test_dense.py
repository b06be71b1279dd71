import math

import numpy as np
import pytest
import torch

from dip_agents.models.tiny.tokenizer import INTEGER_ROLES, JOINED
from dip_agents.sft.dense import (
    DenseHead,
    coordinate_mask,
    dense_target,
    smoothed_loss,
    stacked,
)
from dip_agents.tokens.buffer import EncodedImage, TokenBuffer

NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


def test_only_integers_inside_look_and_answer_are_coordinates(micro):
    vlm = micro("qwen3_vl")
    buffer = TokenBuffer(vlm.image_token_id)
    ids = vlm.chat.policy_ids("<think>3 people.</think><look>[[1,2,30,40]]</look>")
    buffer.append_policy(ids, [0.0] * len(ids))
    buffer.append_env(vlm.chat.tokenizer.encode("[5,6,7,8]"))
    flags = coordinate_mask(buffer, vlm)
    marked = [vlm.chat.tokenizer.decode([i]) for i, f in zip(buffer.ids, flags, strict=True) if f]
    assert marked == ["1", ",2", ",30", ",40"]


def test_sigma_zero_is_cross_entropy_and_smoothing_is_a_normalised_gaussian():
    logp = torch.log_softmax(torch.randn(2, 2100, generator=torch.Generator().manual_seed(0)), -1)
    targets, coordinate = torch.tensor([500, 2050]), torch.tensor([True, False])
    plain = smoothed_loss(logp, targets, coordinate, 0.0)
    assert plain.tolist() == pytest.approx([-float(logp[0, 500]), -float(logp[1, 2050])])
    # sigma 1: reach 3, weights exp(-k^2/2) over k = -3..3, normalised.
    weights = np.array([math.exp(-0.5 * k * k) for k in range(-3, 4)])
    weights /= weights.sum()
    expected = -sum(w * float(logp[0, 497 + k]) for k, w in enumerate(weights))
    smooth = smoothed_loss(logp, targets, coordinate, 1.0)
    assert smooth.tolist() == pytest.approx([expected, -float(logp[1, 2050])], rel=1e-5)


def test_at_the_edge_of_the_range_no_weight_falls_outside():
    logp = torch.full((1, 2100), -7.0)
    loss = smoothed_loss(logp, torch.tensor([0]), torch.tensor([True]), 1.5)
    assert float(loss) == pytest.approx(7.0, rel=1e-6)


def test_smoothing_stays_within_the_role_of_an_integer():
    # ",0" is followed by ",1": its left neighbour is the bare 1000, another role.
    logp = torch.full((1, 2100), -9.0)
    first = INTEGER_ROLES[","].start
    logp[0, first : first + 10] = -7.0
    loss = smoothed_loss(logp, torch.tensor([first]), torch.tensor([True]), 1.5)
    assert float(loss) == pytest.approx(7.0, rel=1e-6)


def grid(rows, columns):
    """An image of so many tokens of 32 x 32 pixels."""
    return EncodedImage((1, 2 * rows, 2 * columns), rows * columns, b"k", NO_PIXELS)


def test_the_dense_target_marks_the_quarter_of_the_centre():
    boxes = np.array([[30.0, 10.0, 50.0, 60.0]])
    target = dense_target(boxes, boxes * 2 + 0.4, grid(2, 3), cell=32)
    # Centre (40, 35): token of row 1 and column 1, in it the top left quarter (32-48, 32-48).
    assert np.argwhere(target.flags).tolist() == [[4, 0]]
    assert target.own.tolist() == [[30, 10, 50, 60]]
    assert target.view.tolist() == [[60, 20, 100, 120]]


def test_people_are_in_the_order_of_the_flags():
    boxes = np.array([[40.0, 40.0, 60.0, 60.0], [0.0, 0.0, 10.0, 20.0], [20.0, 0.0, 30.0, 12.0]])
    target = dense_target(boxes, boxes, grid(2, 2), cell=32)
    assert np.argwhere(target.flags).tolist() == [[0, 0], [0, 1], [3, 3]]
    assert target.own.tolist() == [boxes[i].tolist() for i in (1, 2, 0)]


def test_of_two_people_in_a_quarter_the_larger_counts_and_a_speck_never():
    boxes = np.array([[0.0, 0.0, 14.0, 14.0], [3.0, 3.0, 11.0, 11.0], [20.0, 20.0, 24.0, 25.9]])
    target = dense_target(boxes, boxes, grid(1, 1), cell=32)
    assert target.own.tolist() == [[0, 0, 14, 14]]


def test_a_perfect_head_has_almost_no_loss_and_a_wrong_one_much():
    width = 8
    head = DenseHead(width)
    integers = torch.zeros(JOINED, width)
    integers[:4] = 30 * torch.eye(4, width)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.zero_()
        # The state says in its last number whether the first quarter is taken.
        head.quarters.weight[:width] = torch.eye(width)
        head.flag.weight[0, width - 1] = 40.0
        head.flag.bias[0] = -20.0
        # Edges 0, 1, 2, 3, whatever the state.
        head.edges.bias.view(4, width)[:, :4] = torch.eye(4)
    state = torch.zeros(2, width)
    state[0, width - 1] = 1.0
    flags = np.zeros((2, 4), bool)
    flags[0, 0] = True
    right, wrong = np.array([[0, 1, 2, 3]]), np.array([[1, 0, 2, 3]])
    found, edges = head.losses(state, flags, right, integers, 0.0)
    assert float(found) < 1e-6
    assert float(edges) < 1e-6
    # Two of four edges are off by a logit of 30.
    assert float(head.losses(state, flags, wrong, integers, 0.0)[1]) == pytest.approx(15, rel=1e-3)
    # The set flag weighs four.
    flipped = np.roll(flags, 1, axis=0)
    found, _ = head.losses(state, flipped, right, integers, 0.0)
    assert float(found) == pytest.approx(4 * 20 + 20, rel=1e-3)


def test_targets_of_several_images_are_joined():
    boxes = np.array([[0.0, 0.0, 14.0, 14.0]])
    target = dense_target(boxes, boxes + 100, grid(1, 1), cell=32)
    flags, edges = stacked([target, target], "view")
    assert flags.shape == (2, 4)
    assert edges.tolist() == [[100, 100, 114, 114]] * 2
