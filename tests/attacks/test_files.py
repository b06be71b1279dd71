from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from tests.attacks import files
from tests.attacks.files import Target, attack, damage, make_targets, one_try, play

from dip_env.errors import SceneError


def test_damaged_files_give_a_result_or_an_error_of_the_library():
    found = attack(np.random.default_rng(0), 320)
    assert {kind: tries for kind, (tries, _) in found.items()} == dict.fromkeys(found, 20)
    assert [failure for _, failures in found.values() for failure in failures] == []


def test_whole_files_are_read(tmp_path):
    for target in make_targets(tmp_path).values():
        target.read()


def test_most_damage_changes_something_and_is_the_same_for_a_seed():
    data = b'{"a": [1, 2], "b": {"c": "d"}}'
    made = [damage(np.random.default_rng(seed), data) for seed in range(100)]
    assert made == [damage(np.random.default_rng(seed), data) for seed in range(100)]
    assert sum(changed != data for changed, _ in made) > 90
    assert {how for _, how in made} >= {"flip_bits", "cut", "change_json", "repeat_key"}


def raising(error):
    raise error


def test_a_file_is_mended_after_each_try_and_every_other_error_is_a_failure(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one two")
    told = one_try(Target((file,), partial(raising, KeyError("id"))), 3)
    assert told is not None
    assert told.startswith("a.txt with ")
    assert told.endswith(": KeyError: 'id'")
    assert one_try(Target((file,), partial(raising, SceneError("so"))), 3) is None
    assert file.read_text() == "one two"


def test_what_takes_too_long_is_a_failure_even_where_errors_are_caught(tmp_path, monkeypatch):
    def forever():
        while True:
            try:
                sum(range(1000))
            except Exception:
                continue

    monkeypatch.setattr(files, "LIMIT_S", 0.05)
    (tmp_path / "a.txt").write_text("one")
    told = one_try(Target((tmp_path / "a.txt",), forever), 0)
    assert told is not None
    assert told.endswith("took over 0.05 s")


@pytest.mark.parametrize("kind", ["coco", "image PNG"])
def test_a_try_can_be_repeated_by_kind_and_seed(kind):
    assert play(kind, 1) is None
