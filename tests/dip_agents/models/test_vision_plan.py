import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dip_agents.models.vision_plan import TowerShape, order_of, plan

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


@pytest.mark.parametrize("shape", [WINDOWS, PLAIN])
def test_a_plan_made_while_sampling_serves_training(shape):
    plan.cache_clear()
    with torch.inference_mode():
        made = plan(((1, 4, 10), (1, 2, 2)), shape, CPU)
    tensors = [value for value in made.values() if isinstance(value, torch.Tensor)]
    tensors += [made["cu_seqlens"].order]
    assert tensors and not any(t.is_inference() for t in tensors)
