import math

import numpy as np
import pytest
import torch

from dip_agents.tiny.teaching import DenseHead, coordinate_mask, dense_target, smoothed_loss
from dip_agents.token_buffer import EncodedImage, TokenBuffer

NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


def test_only_integers_inside_look_and_answer_are_coordinates(micro):
    vlm = micro("qwen3_vl")
    buffer = TokenBuffer(vlm.image_token_id)
    ids = vlm.chat.policy_ids("<think>3 people.</think><look>[[1,2,30,40]]</look>")
    buffer.append_policy(ids, [0.0] * len(ids))
    buffer.append_env(vlm.chat.tokenizer.encode("[5,6,7,8]"))
    flags = coordinate_mask(buffer, vlm)
    marked = [vlm.chat.tokenizer.decode([i]) for i, f in zip(buffer.ids, flags, strict=True) if f]
    assert marked == ["1", "2", "30", "40"]


def test_sigma_zero_is_cross_entropy_and_smoothing_is_a_normalised_gaussian():
    logp = torch.log_softmax(torch.randn(2, 1100, generator=torch.Generator().manual_seed(0)), -1)
    targets, coordinate = torch.tensor([500, 1050]), torch.tensor([True, False])
    plain = smoothed_loss(logp, targets, coordinate, 0.0)
    assert plain.tolist() == pytest.approx([-float(logp[0, 500]), -float(logp[1, 1050])])
    # sigma 1: reach 3, weights exp(-k^2/2) over k = -3..3, normalised.
    weights = np.array([math.exp(-0.5 * k * k) for k in range(-3, 4)])
    weights /= weights.sum()
    expected = -sum(w * float(logp[0, 497 + k]) for k, w in enumerate(weights))
    smooth = smoothed_loss(logp, targets, coordinate, 1.0)
    assert smooth.tolist() == pytest.approx([expected, -float(logp[1, 1050])], rel=1e-5)


def test_at_the_edge_of_the_range_no_weight_falls_outside():
    logp = torch.full((1, 1100), -7.0)
    loss = smoothed_loss(logp, torch.tensor([0]), torch.tensor([True]), 1.5)
    assert float(loss) == pytest.approx(7.0, rel=1e-6)


def test_the_dense_target_marks_the_cell_of_the_centre():
    image = EncodedImage(
        np.zeros((24, 6), np.float32), (1, 4, 6), 6, b"k", NO_PIXELS
    )  # 2 x 3 cells
    target = dense_target(np.array([[30.0, 10.0, 50.0, 60.0]]), image, cell=32)
    # Centre (40, 35): column 1, row 1, whose centre is (48, 48); the image is 96 x 64.
    assert np.flatnonzero(target[:, 0]).tolist() == [4]
    np.testing.assert_allclose(target[4, 1:], [-18 / 96, -38 / 64, 2 / 96, 12 / 64], rtol=1e-6)


def test_of_two_people_in_a_cell_the_larger_counts():
    image = EncodedImage(np.zeros((4, 6), np.float32), (1, 2, 2), 1, b"k", NO_PIXELS)
    boxes = np.array([[0.0, 0.0, 30.0, 30.0], [10.0, 10.0, 20.0, 20.0]])
    target = dense_target(boxes, image, cell=32)
    np.testing.assert_allclose(target[0], [1, -0.5, -0.5, 14 / 32, 14 / 32])


def test_a_perfect_head_has_almost_no_loss():
    head = DenseHead(5)
    with torch.no_grad():
        head.out.weight.copy_(torch.diag(torch.tensor([40.0, 1, 1, 1, 1])))
        head.out.bias.copy_(torch.tensor([-20.0, 0, 0, 0, 0]))
    target = np.array([[1, 0.1, 0.2, 0.3, 0.4], [0, 0, 0, 0, 0]], np.float32)
    assert float(head.loss([torch.from_numpy(target)], [target])) < 1e-6
    assert float(head.loss([torch.from_numpy(target[::-1].copy())], [target])) > 10
