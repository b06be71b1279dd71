import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import gcd

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dip_env.errors import ConfigError
from dip_env.scenes.procedural.source import ProceduralCrowd
from dip_env.scenes.readers.coco import CocoScenes
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.hash_split import HashSplit
from dip_env.scenes.transforms.mixed import (
    MixedScenes,
    interleave,
    items_per_period,
    shuffled_index,
)
from dip_env.testing import check_dip_env


class Numbered:
    """As many scenes as asked for, all of the same empty street."""

    def __init__(self, length, **notes):
        self.length, self.notes = length, notes

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return replace(ToyScenes()[2], scene_id=str(index), notes=self.notes)

    def __repr__(self):
        return f"Numbered({self.length})"


def test_counts_are_shares_rounded_by_the_largest_remainder():
    assert items_per_period([1, 1]) == (1, 1)
    assert items_per_period([0.9, 0.1]) == (9, 1)
    assert items_per_period([0.37, 0.63]) == (37, 63)
    assert items_per_period([2, 1, 1]) == (2, 1, 1)
    assert items_per_period([1 / 3, 2 / 3]) == (1, 2)
    # 25200 / 11 is 2290.91: ten parts are rounded up and the last of the eleven down.
    assert items_per_period([1] * 11) == (2291,) * 10 + (2290,)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_counts_are_within_one_of_the_exact_share(weights):
    counts = items_per_period(weights)
    period = sum(counts)
    assert 25_200 % period == 0
    assert gcd(*counts) == 1
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count / period - weight / sum(weights)) < 1 / 25_200 + 1e-12


def test_parts_take_turns():
    assert interleave([1, 1]) == [0, 1]
    assert interleave([3, 1]) == [0, 0, 1, 0]
    assert interleave([2, 1, 1]) == [0, 1, 2, 0]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_no_stretch_from_the_start_is_off_by_a_whole_item(counts):
    order, period, seen = interleave(counts), sum(counts), Counter()
    for m, part in enumerate(order, start=1):
        seen[part] += 1
        for k, count in enumerate(counts):
            assert abs(seen[k] * period - m * count) < period
    assert [seen[k] for k in range(len(counts))] == list(counts)


@given(
    st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 9)),
        min_size=1,
        max_size=4,
    ),
    st.integers(0, 3),
)
def test_every_block_has_exact_shares_and_every_epoch_each_scene_once(parts, seed):
    # Where the sum divides 25200, whole weights are exact shares.
    weights = [weight for _, weight in parts]
    assume(25_200 % sum(weights) == 0)
    mix = MixedScenes([(Numbered(length), weight) for length, weight in parts], seed)
    assert mix.per_period == tuple(weight // gcd(*weights) for weight in weights)
    origins = [mix.locate(index) for index in range(len(mix))]
    for start in range(0, len(mix) - mix.period + 1, mix.period):
        block = Counter(origin.part for origin in origins[start : start + mix.period])
        assert tuple(block[k] for k in range(len(parts))) == mix.per_period
    for k, (length, _) in enumerate(parts):
        mine = [origin for origin in origins if origin.part == k]
        assert mine == sorted(mine, key=lambda origin: origin.epoch)
        for epoch in range(len(mine) // length):
            numbers = [origin.scene_index for origin in mine if origin.epoch == epoch]
            assert sorted(numbers) == list(range(length))
        assert {origin.scene_index for origin in mine} == set(range(length))


@given(st.lists(st.tuples(st.integers(1, 12), st.sampled_from([1, 2, 3])), min_size=1, max_size=3))
def test_the_mix_ends_with_the_last_new_scene_of_a_finite_part(parts):
    mix = MixedScenes([(Numbered(length), weight) for length, weight in parts])
    scenes = {mix.locate(index)[::2] for index in range(len(mix))}
    assert len(scenes) == sum(length for length, _ in parts)
    shorter = {mix.locate(index)[::2] for index in range(len(mix) - 1)}
    assert len(shorter) == len(scenes) - 1


@given(st.integers(1, 300), st.text(max_size=5))
def test_a_shuffled_order_holds_every_number_once(length, key):
    assert sorted(shuffled_index(k, length, key) for k in range(length)) == list(range(length))


def test_orders_look_random():
    # Over many keys, each number comes first about equally often: 600 +- 3 sqrt(600 * 5 / 6).
    first = Counter(shuffled_index(0, 6, str(key)) for key in range(3600))
    assert all(abs(first[k] - 600) < 3 * 22.4 for k in range(6))
    # All 24 orders of four numbers come up.
    orders = {tuple(shuffled_index(k, 4, str(key)) for k in range(4)) for key in range(1000)}
    assert len(orders) == 24
    # Neighbours are not neighbours any more, and few numbers stay (one on average).
    order = [shuffled_index(k, 1000, "a") for k in range(1000)]
    assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < 10
    assert sum(k == number for k, number in enumerate(order)) < 7


def test_epochs_seeds_and_parts_are_shuffled_differently():
    def order(seed, part, epoch):
        mix = MixedScenes([(Numbered(20), 1), (Numbered(20), 1), (Numbered(60), 1)], seed)
        origins = [mix.locate(index) for index in range(len(mix))]
        return tuple(p.scene_index for p in origins if (p.part, p.epoch) == (part, epoch))

    orders = [order(0, 0, 0), order(0, 0, 1), order(0, 1, 0), order(1, 0, 0)]
    assert len(set(orders)) == 4
    assert all(sorted(numbers) == list(range(20)) for numbers in orders)


def test_endless_parts_go_on_in_their_order_and_do_not_end_the_mix():
    crowd = ProceduralCrowd("easy")
    mix = MixedScenes([(crowd, 3), (Numbered(5), 1)])
    # Parts take turns as 0, 0, 1, 0: the fifth scene of part 1 is the third item of the fifth four.
    assert len(mix) == 4 * 4 + 3
    drawn = [p.scene_index for p in map(mix.locate, range(len(mix))) if p.part == 0]
    assert drawn == list(range(14))
    endless = MixedScenes([(crowd, 3), (ProceduralCrowd("drone"), 1)])
    assert len(endless) == len(crowd)
    # Before the last but one come 2**31 - 4 items, of which three in four are of part 0, and one.
    assert endless.locate(len(endless) - 2) == (0, 0, 3 * (2**31 - 4) // 4 + 1)


def test_names_tell_parts_and_repetitions_apart():
    mix = MixedScenes([(Numbered(1), 1), (Numbered(3), 1)])
    assert len(mix) == 6
    found = [scene.scene_id for scene in mix]
    assert [name for name in found if name.startswith("0")] == ["0/0", "0#1/0", "0#2/0"]
    assert sorted(name for name in found if name.startswith("1")) == ["1/0", "1/1", "1/2"]
    # A mix within a mix, each with repetitions of its own.
    nested = MixedScenes([(mix, 1), (Numbered(12), 1)])
    names = [scene.scene_id for scene in nested]
    assert len(set(names)) == len(names) == 24


def test_notes_are_kept_but_for_the_image_id(write_coco):
    coco = CocoScenes(write_coco([]))
    scene = MixedScenes([(coco, 1)])[0]
    kept = {key: value for key, value in coco[0].notes.items() if key != "image_id"}
    assert scene.notes == {**kept, "group": "0/0"}
    grouped = MixedScenes([(Numbered(1, group="street"), 1)])[0]
    assert grouped.notes == {"group": "street"}


def test_repetitions_stay_in_one_part_of_a_split():
    mix = MixedScenes([(Numbered(4), 1), (Numbered(40), 1)])
    halves = {"a": 0.5, "b": 0.5}
    sides = [
        {
            scene.scene_id.partition("/")[2]
            for scene in HashSplit(mix, part, halves)
            if scene.scene_id.startswith("0")
        }
        for part in halves
    ]
    assert sides[0].isdisjoint(sides[1])
    assert sides[0] | sides[1] == {"0", "1", "2", "3"}


def test_a_mix_keeps_the_contract_and_can_be_pickled():
    mix = MixedScenes([(ToyScenes(), 2), (ToyScenes(), 1)], seed=5)
    check_dip_env(mix, indices=range(len(mix)))
    again = pickle.loads(pickle.dumps(mix))
    assert [scene.scene_id for scene in again] == [scene.scene_id for scene in mix]
    assert repr(again) == "MixedScenes([(ToyScenes(), 2.0), (ToyScenes(), 1.0)], seed=5)"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "parts: expected at least one pair of a source and a weight, got none"),
        ([(Numbered(3), 1), (Numbered(0), 1)], r"parts\[1\]: expected a source with scenes, got N"),
        ([Numbered(3)], r"parts\[0\]: expected \(source, weight\), got Numbered\(3\)"),
        ([(Numbered(3), 0)], r"parts\[0\]: expected a finite weight > 0, got 0.0"),
        ([(Numbered(3), float("inf"))], r"parts\[0\]: expected a finite weight > 0, got inf"),
        (
            [(Numbered(3), 1), (Numbered(3), 1e-6)],
            r"parts\[1\]: expected a weight of at least 1/25200 of the sum 1, got 1e-06",
        ),
    ],
)
def test_parts_that_cannot_be_mixed_are_refused(parts, message):
    with pytest.raises(ConfigError, match=message):
        MixedScenes(parts)


def test_a_seed_is_a_whole_number():
    with pytest.raises(ConfigError, match="seed: expected an integer >= 0, got -1"):
        MixedScenes([(ToyScenes(), 1)], seed=-1)


def test_indices_outside_are_refused():
    mix = MixedScenes([(ToyScenes(), 1)])
    for index in (-1, 4):
        with pytest.raises(IndexError, match=rf"mixed scene: expected 0\.\.3, got {index}"):
            mix[index]
