import copy
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vision_tower import TowerShape, order_of, plan, speed_up_vision

FAMILIES = ["qwen3_vl", "qwen2_5_vl"]
# Qwen2.5-VL attends in windows of 8 by 8 patches: none, one or several, whole and cut off.
GRIDS = {
    "equal": [(1, 4, 6)] * 3,
    "whole windows": [(1, 16, 8), (1, 16, 8)],
    "mixed": [(1, 18, 10), (1, 2, 2), (1, 4, 6), (1, 16, 24), (1, 6, 4), (1, 4, 6), (1, 10, 18)],
    "frames": [(1, 4, 6), (2, 10, 4), (1, 4, 6)],
}


@pytest.fixture(scope="module")
def towers():
    """Return a function that copies the stock model of a family."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = build_tiny(tiny_texts(), size="micro", family=family)[0]
            for name, parameter in made[family].model.visual.named_parameters():
                if "bias" in name:  # zero at first, which would hide one that is left out
                    nn.init.normal_(parameter, std=0.1)
        return copy.deepcopy(made[family])

    return get


def batch(model, grids, seed=0):
    patch = model.config.vision_config.patch_size
    rows = sum(t * h * w for t, h, w in grids)
    pixels = np.random.default_rng(seed).normal(size=(rows, 3 * 2 * patch**2))
    return torch.from_numpy(pixels.astype(np.float32)), torch.tensor(grids)


def features(model, patches, grids):
    """All outputs of the tower, one row per token."""
    out = model.model.get_image_features(patches, grids)
    layers = getattr(out, "deepstack_features", None) or []
    parts = [out.pooler_output, *layers]
    return torch.cat([p if isinstance(p, torch.Tensor) else torch.cat(list(p)) for p in parts])


def outcome(model, patches, grids):
    """Features, and the gradient of each vision parameter that learns."""
    model.zero_grad()
    out = features(model, patches, grids)
    (out.float() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    visual = model.model.visual
    return out.detach(), {n: p.grad for n, p in visual.named_parameters() if p.requires_grad}


def assert_same(fast, stock, atol=1e-6, gradient=1e-5):
    torch.testing.assert_close(fast[0], stock[0], atol=atol, rtol=atol)
    assert fast[1].keys() == stock[1].keys()
    for name, wanted in stock[1].items():
        assert (fast[1][name] - wanted).norm() <= gradient * wanted.norm() + 1e-5, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", GRIDS)
def test_features_and_all_gradients_equal_the_stock_tower(towers, family, case):
    model = towers(family)
    inputs = batch(model, GRIDS[case])
    stock = outcome(model, *inputs)
    assert all(gradient.any() for gradient in stock[1].values())
    assert speed_up_vision(model.model.visual)
    assert_same(outcome(model, *inputs), stock)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_autocast_stays_as_near_to_fp32_as_the_stock_tower(towers, family):
    model = towers(family)
    inputs = batch(model, GRIDS["mixed"])
    with torch.no_grad():
        exact = features(model, *inputs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            stock = (features(model, *inputs) - exact).norm() / exact.norm()
            speed_up_vision(model.model.visual)
            fast = (features(model, *inputs) - exact).norm() / exact.norm()
    assert 0 < fast < 1.2 * stock + 1e-3 < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointed_blocks_give_the_same_gradients(towers, family):
    model = towers(family).train()
    inputs = batch(model, GRIDS["mixed"])
    stock = outcome(model, *inputs)
    speed_up_vision(model.model.visual)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    calls = []
    model.model.visual.blocks[0].norm1.register_forward_pre_hook(lambda *_: calls.append(1))
    assert_same(outcome(model, *inputs), stock)
    assert len(calls) == 2  # once more in the backward pass


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("target", [r".*visual.*\.(qkv|proj)", r".*visual.*\.patch_embed\.proj"])
def test_adapters_put_on_later_take_part(towers, family, target):
    results = []
    for fast in (False, True):
        model = towers(family)
        if fast:
            speed_up_vision(model.model.visual)
        torch.manual_seed(0)
        wrapped = get_peft_model(
            model, LoraConfig(r=2, target_modules=target, init_lora_weights=False)
        )
        results.append(outcome(wrapped.get_base_model(), *batch(model, GRIDS["mixed"])))
        with wrapped.disable_adapter(), torch.no_grad():
            base = features(model, *batch(model, GRIDS["mixed"]))
        assert (base - results[-1][0]).abs().max() > 1e-2
    assert results[0][1] and all("lora_" in name for name in results[0][1])
    # The adapters make features ten times as large.
    assert_same(results[1], results[0], atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_do_not_see_each_other(towers, family):
    model = towers(family)
    speed_up_vision(model.model.visual)
    first, one = batch(model, [(1, 10, 6)], seed=1)
    second, other = batch(model, [(1, 2, 2)], seed=2)
    with torch.no_grad():
        alone = model.model.get_image_features(first, one).pooler_output[0]
        both = model.model.get_image_features(
            torch.cat([second, first, second]), torch.cat([other, one, other])
        ).pooler_output[1]
    torch.testing.assert_close(both, alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_takes_one_kernel_per_length_and_block(towers, family, monkeypatch):
    model = towers(family)
    speed_up_vision(model.model.visual)
    shapes = []
    stock = nn.functional.scaled_dot_product_attention

    def counted(query, *args, **kwargs):
        shapes.append((query.shape[0], query.shape[2]))
        return stock(query, *args, **kwargs)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counted)
    with torch.no_grad():
        features(model, *batch(model, [(1, 10, 8)] * 5))
    # Two blocks; the first of Qwen2.5-VL has windows: 8 by 8, and 2 by 8 below each of them.
    whole = (5, 80)
    assert shapes == ([(5, 16), (5, 64), whole] if family == "qwen2_5_vl" else [whole, whole])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_computes_with_its_own_weights(towers, family):
    model = towers(family)
    speed_up_vision(model.model.visual)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.model.visual.parameters():
            parameter.zero_()
        assert not features(model, *batch(model, GRIDS["equal"])).any()
        assert features(twin, *batch(twin, GRIDS["equal"])).any()


def test_a_tower_of_another_family_is_left_alone_with_a_line_in_the_log(caplog):
    other = nn.Sequential(nn.Linear(2, 2))
    with caplog.at_level(logging.WARNING):
        assert not speed_up_vision(other)
    assert "forward" not in vars(other)
    assert "got Sequential: it keeps the slower forward of transformers" in caplog.text


CPU = torch.device("cpu")
WINDOWS = TowerShape(merge=2, patch=14, window=112)
PLAIN = TowerShape(merge=2, patch=16, table=16)
GRID = st.tuples(
    st.integers(1, 2),
    st.integers(1, 11).map(lambda n: 2 * n),
    st.integers(1, 11).map(lambda n: 2 * n),
)


def neighbours(segments, where):
    """Per patch of the input, the set of patches that it attends to."""
    order = where if segments.order is None else where[segments.order]
    found, at = {}, 0
    for count, length in segments.runs:
        for _ in range(count):
            together = frozenset(order[at : at + length].tolist())
            found.update(dict.fromkeys(together, together))
            at += length
    assert at == len(where) == len(found)
    return found


def places(grids):
    """Image, frame, row and column of each patch, as processors order them: token by token."""
    return [
        (image, frame, 2 * r + i, 2 * c + j)
        for image, (t, h, w) in enumerate(grids)
        for frame in range(t)
        for r in range(h // 2)
        for c in range(w // 2)
        for i in range(2)
        for j in range(2)
    ]


@settings(max_examples=50, deadline=None)
@given(grids=st.lists(GRID, min_size=1, max_size=5).map(tuple))
def test_patches_attend_within_their_frame_and_within_their_window(grids):
    where = places(grids)
    made = plan(grids, WINDOWS, CPU)
    tokens = made["window_index"]
    patches = (tokens[:, None] * 4 + torch.arange(4)).flatten()
    for segments, key in (
        (made["cu_seqlens"], lambda place: place[:2]),
        (made["cu_window_seqlens"], lambda place: (*place[:2], place[2] // 8, place[3] // 8)),
    ):
        groups = {}
        for patch, place in enumerate(where):
            groups.setdefault(key(place), set()).add(patch)
        for patch, together in neighbours(segments, patches).items():
            assert together == groups[key(where[patch])]
        lengths = [length for _, length in segments.runs]
        assert lengths == sorted(set(lengths))  # one run for each


@settings(max_examples=50, deadline=None)
@given(grids=st.lists(GRID, min_size=1, max_size=5))
def test_images_in_order_are_never_rearranged_without_windows(grids):
    order = order_of(grids)
    assert sorted(order) == list(range(len(grids)))
    made = plan(tuple(grids[i] for i in order), PLAIN, CPU)
    assert made["cu_seqlens"].order is None
    positions = [tuple(place[2:]) for place in places([grids[i] for i in order])]
    assert [tuple(pair) for pair in made["position_ids"].tolist()] == positions


def test_unordered_images_are_brought_together_and_back():
    segments = plan(((1, 4, 4), (1, 2, 2), (1, 4, 4)), PLAIN, CPU)["cu_seqlens"]
    assert segments.runs == ((1, 4), (2, 16))
    assert segments.order.tolist() == [*range(16, 20), *range(16), *range(20, 36)]
    assert segments.order[segments.back].tolist() == list(range(36))


def test_the_same_sizes_are_planned_once():
    plan.cache_clear()
    first = plan(((1, 4, 4),), PLAIN, CPU)
    assert plan(((1, 4, 4),), PLAIN, CPU) is first
    assert plan.cache_info().maxsize is not None


def test_the_position_table_is_read_once_for_images_of_one_size():
    grids = ((1, 4, 4), (1, 2, 2), (1, 4, 4))
    taps = plan(grids, TowerShape(merge=2, patch=16, table=8), CPU)["interp_indices"]
    assert taps.indices.shape == taps.weights.shape == (16 + 4, 4)
    assert taps.patches.tolist() == [*range(16), *range(16, 20), *range(16)]
    torch.testing.assert_close(taps.weights.sum(1), torch.ones(20))


@pytest.mark.parametrize("shape", [WINDOWS, PLAIN])
def test_a_plan_made_while_sampling_serves_training(shape):
    plan.cache_clear()
    with torch.inference_mode():
        made = plan(((1, 4, 10), (1, 2, 2)), shape, CPU)
    tensors = [value for value in made.values() if isinstance(value, torch.Tensor)]
    tensors += [made["cu_seqlens"].order]
    assert tensors and not any(t.is_inference() for t in tensors)
