import pickle
from dataclasses import replace
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env.errors import ConfigError
from dip_env.scenes.procedural.source import ProceduralCrowd
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.hash_split import HashSplit, group_name, part_of, unit_hash
from dip_env.testing import check_dip_env

THREE = {"train": 0.5, "val": 0.3, "test": 0.2}


class Named(list):
    """Scenes by (name, group) pairs; a group may be None."""

    def __init__(self, names):
        toy = ToyScenes()[2]
        super().__init__(
            replace(toy, scene_id=name, notes={} if group is None else {"group": group})
            for name, group in names
        )

    def __repr__(self):
        return f"Named({[scene.scene_id for scene in self]})"


def names(source):
    return [scene.scene_id for scene in source]


def test_the_position_of_a_name_is_the_first_53_bits_of_its_digest():
    digest = blake2b(b"salt-a", digest_size=8).hexdigest()
    # Worked by hand: 53 bits are 13 hexadecimal digits and one bit of the next.
    bits = bin(int(digest, 16))[2:].zfill(64)[:53]
    assert unit_hash("salt-a") == sum(2.0 ** -(k + 1) for k, bit in enumerate(bits) if bit == "1")
    # Kept as a number too, so that the split of today is that of tomorrow.
    assert unit_hash("") == 0.8931675160897388


def test_parts_lie_side_by_side_in_the_order_of_their_names():
    point = unit_hash("x")
    below, above = {"a": point - 1e-6, "b": 1 - point + 1e-6}, {"a": point + 1e-6, "b": 1 - point}
    assert part_of("x", below) == "b"
    assert part_of("x", above) == "a"
    assert part_of("x", dict(reversed(above.items()))) == "a"


@given(
    st.lists(st.tuples(st.text(max_size=4), st.none() | st.sampled_from("pqr")), max_size=30),
    st.text(max_size=3),
)
def test_parts_are_disjoint_cover_all_and_keep_groups_together(rows, salt):
    source = Named([(f"{k}-{name}", group) for k, (name, group) in enumerate(rows)])
    parts = {part: HashSplit(source, part, THREE, salt) for part in THREE}
    found = [name for part in parts.values() for name in names(part)]
    assert sorted(found) == sorted(names(source))
    for part in parts.values():
        assert part.counts["kept"] + part.counts["other_parts"] == len(source)
        mine = {group_name(scene) for scene in part}
        assert part.counts["groups"] == len(mine)
        for other in parts.values():
            assert other is part or mine.isdisjoint(group_name(scene) for scene in other)


@given(st.lists(st.text(max_size=5), unique=True, max_size=20), st.data())
def test_other_scenes_do_not_move_a_scene(all_names, data):
    some = data.draw(st.permutations(all_names))[: len(all_names) // 2]
    for part in THREE:
        before = set(names(HashSplit(Named([(name, None) for name in all_names]), part, THREE)))
        after = set(names(HashSplit(Named([(name, None) for name in some]), part, THREE)))
        assert after == before & set(some)


def test_shares_hold_on_average():
    source = Named([(f"scene-{k}", None) for k in range(2000)])
    # Three standard deviations of a share p over 2000 scenes: 3 sqrt(2000 p (1 - p)).
    assert abs(len(HashSplit(source, "train")) - 1800) < 3 * 13.5
    assert abs(len(HashSplit(source, "test", THREE)) - 400) < 3 * 17.9


def test_another_salt_is_another_split():
    source = Named([(f"scene-{k}", None) for k in range(50)])
    assert names(HashSplit(source, "val", THREE)) != names(HashSplit(source, "val", THREE, "b"))


def test_names_that_are_no_text_have_a_position():
    assert 0 <= unit_hash("caf\udce9.jpg") < 1


def test_an_endless_source_needs_among():
    with pytest.raises(ConfigError, match="among: expected a number of scenes to read"):
        HashSplit(ProceduralCrowd("easy"), "train")
    split = HashSplit(Named([(str(k), None) for k in range(9)]), "train", among=5)
    assert split.counts["kept"] + split.counts["other_parts"] == 5
    assert split.counts["beyond_among"] == 4


def test_a_part_keeps_the_contract_and_can_be_pickled():
    split = HashSplit(ToyScenes(), "train")
    check_dip_env(split)
    again = pickle.loads(pickle.dumps(split))
    assert names(again) == names(split)
    assert repr(again) == (
        "HashSplit(ToyScenes(), 'train', {'train': 0.9, 'val': 0.1}, salt='', among=None)"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test",), r"part: expected one of \['train', 'val'\], got 'test'"),
        (("a", {"a": 0.5, "b": 0.4}), "shares: expected a sum of 1, got 0.9 from"),
        (("a", {}), "shares: expected a sum of 1, got 0 from"),
        (("a", {"a": 1.0, "b": 0.0}), r"shares\['b'\]: expected a number in \(0, 1\], got 0.0"),
        (("a", {"a": float("nan")}), r"shares\['a'\]: expected a number in \(0, 1\], got nan"),
    ],
)
def test_shares_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        HashSplit(ToyScenes(), *arguments)


def test_indices_outside_are_refused():
    split = HashSplit(ToyScenes(), "train")
    for index in (-1, len(split)):
        with pytest.raises(IndexError, match=f"train scene: expected .*, got {index}"):
            split[index]
