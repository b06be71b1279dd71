"""A checkpoint is whole or not there, and never taken for another run's."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

try:
    import resource
except ModuleNotFoundError:  # Windows
    resource = None

from dip_agents.runtime import checkpoints
from dip_agents.runtime.checkpoint_files import write_manifest
from dip_agents.runtime.checkpoints import (
    check_new_run,
    find_checkpoint,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from dip_agents.runtime.errors import CheckpointError, StorageError
from dip_env.errors import ConfigError

CONFIG = {"learning_rate": 0.1, "steps": 10, "betas": (0.9, 0.95)}


def save(root, step, **changes):
    arguments = {
        "weights": {"w": torch.full((2, 3), float(step))},
        "optimizer": {"state": {0: {"step": torch.tensor(float(step))}}, "param_groups": []},
        "config": CONFIG,
        "extra": {"step": step},
        "keep": 2,
    }
    return save_checkpoint(root, step, **(arguments | changes))


def steps_on_disk(root):
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def test_what_was_saved_comes_back(tmp_path):
    weights = {"a": torch.randn(3, 4), "b": torch.arange(3).bfloat16(), "c": torch.tensor(2)}
    parameter = torch.nn.Parameter(torch.randn(4))
    optimizer = torch.optim.AdamW([parameter])
    parameter.grad = torch.randn(4)
    optimizer.step()
    extra = {"scenes": [1, 2], "state": {"t": torch.ones(2)}, "name": "x"}
    path = save(tmp_path, 7, weights=weights, optimizer=optimizer.state_dict(), extra=extra)
    found = load_checkpoint(path, CONFIG)
    assert (found.step, found.path) == (7, path)
    assert found.weights.keys() == weights.keys()
    assert all(torch.equal(found.weights[name], weights[name]) for name in weights)
    assert found.weights["b"].dtype == torch.bfloat16
    assert torch.equal(
        found.optimizer["state"][0]["exp_avg"], optimizer.state[parameter]["exp_avg"]
    )
    assert found.extra["scenes"] == [1, 2]
    assert torch.equal(found.extra["state"]["t"], torch.ones(2))
    state = torch.get_rng_state()
    torch.rand(3)
    assert torch.equal(found.rng["torch"], state)


def test_tied_and_sliced_tensors_are_written_once_and_alone(tmp_path):
    table = torch.randn(100, 100)
    weights = {"embed": table, "head": table, "slice": table[:2], "flipped": table.T}
    path = save(tmp_path, 1, weights=weights)
    found = load_checkpoint(path).weights
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    size = (path / "weights.safetensors").stat().st_size
    assert 2 * 40_000 < size < 2.2 * 40_000  # embed and flipped, not head, and little of slice


class Killed(BaseException):
    """Stands for SIGKILL: no handler in the code under test may run on it."""


FILE_CALLS = [
    (os, "fsync"),
    (os, "rename"),
    (os, "replace"),
    (shutil, "rmtree"),
    (Path, "mkdir"),
    (Path, "unlink"),
    (Path, "write_text"),
    (torch, "save"),
    (checkpoints, "save_file"),
]


def kill_at(monkeypatch, number, torn):
    """Let the process die at the n-th call that touches a file, maybe with half of it done."""
    calls = 0

    def wrap(real, name):
        def maybe_die(*args, **kwargs):
            nonlocal calls
            if name == "save" and not isinstance(args[1], Path):
                return real(*args, **kwargs)  # into memory
            calls += 1
            if calls < number:
                return real(*args, **kwargs)
            if calls == number and torn:
                if name in ("save", "save_file"):
                    Path(args[1]).write_bytes(b"half")
                elif name == "write_text":
                    Path(args[0]).write_bytes(b"ha")
                elif name == "rmtree":
                    next(file for file in Path(args[0]).iterdir()).unlink()
            raise Killed

        return maybe_die

    for owner, name in FILE_CALLS:
        monkeypatch.setattr(owner, name, wrap(getattr(owner, name), name))


def test_a_kill_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch):
    outcomes = []
    for number in range(1, 100):
        for torn in (False, True):
            root = tmp_path / f"{number}-{torn}"
            save(root, 1)
            save(root, 2)
            with monkeypatch.context() as patch:
                kill_at(patch, number, torn)
                try:
                    save(root, 3)
                    died = False
                except Killed:
                    died = True
            found = load_checkpoint(root, CONFIG)
            assert found.step in (2, 3)
            assert found.extra["step"] == found.step
            assert torch.equal(found.weights["w"], torch.full((2, 3), float(found.step)))
            # The run goes on from there, meets the leavings, and cleans them up.
            save(root, 3)
            save(root, 4)
            assert load_checkpoint(root).step == 4
            assert len(steps_on_disk(root)) == 2
            assert not list(root.glob("unfinished*"))
            outcomes.append((died, found.step))
        if not died:
            break
    assert not died, "the loop must reach a save that is not interrupted"
    assert {(True, 2), (True, 3), (False, 3)} == set(outcomes)


def test_the_first_save_cut_short_before_the_pointer_still_counts(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "latest").unlink()
    assert load_checkpoint(tmp_path).step == 1


def test_the_last_k_checkpoints_stay(tmp_path):
    for step in (5, 10, 15, 1_000_000):
        save(tmp_path, step)
    assert steps_on_disk(tmp_path) == ["step_000015", "step_1000000"]
    save(tmp_path, 1_000_001, keep=1)
    assert steps_on_disk(tmp_path) == ["step_1000001"]


def test_going_back_makes_the_later_checkpoints_history(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=5)
    save(tmp_path, 2, keep=5)
    assert load_checkpoint(tmp_path).step == 2
    assert steps_on_disk(tmp_path) == ["step_000001", "step_000002-2"]


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt"])
def test_missing_truncated_and_damaged_files_are_named(tmp_path, file):
    path = save(tmp_path, 1) / file
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"{file}: expected \d+ bytes, got \d+; truncated"):
        load_checkpoint(tmp_path)
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=f"{file}: expected CRC .* damaged"):
        load_checkpoint(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{file}: .*no such file"):
        load_checkpoint(tmp_path)


def test_a_bad_manifest_is_named(tmp_path):
    manifest = save(tmp_path, 1) / "manifest.json"
    whole = manifest.read_text()
    for text, message in (
        ("{", "expected JSON"),
        ("[" * 100_000, "expected JSON"),
        ("[]", "expected a JSON object, got list"),
        (json.dumps({"format": 99}), "expected format 2, got 99"),
        (whole.replace('"step": 1', '"step": 3'), "expected another CRC than .*damaged"),
        (whole.replace('"steps": 10', '"steps": 11'), "expected another CRC than .*damaged"),
        (whole.replace('"crc32"', '"crc33"'), "expected another CRC than .*damaged"),
    ):
        manifest.write_text(text)
        with pytest.raises(CheckpointError, match=rf"manifest.json: {message}"):
            load_checkpoint(tmp_path)
    manifest.unlink()
    with pytest.raises(CheckpointError, match="latest: expected a checkpoint folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"manifest.json: expected a manifest, got: No such"):
        load_checkpoint(tmp_path / "step_000001")


def test_no_single_bit_of_a_manifest_can_flip_unseen(tmp_path):
    manifest = save(tmp_path, 4) / "manifest.json"
    whole = manifest.read_bytes()
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        manifest.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            load_checkpoint(tmp_path)
    manifest.write_bytes(whole)
    assert load_checkpoint(tmp_path).step == 4


def test_a_checkpoint_in_the_place_of_another_is_refused(tmp_path):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    shutil.copytree(first, second, dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match="expected step 2, as the folder is named, got 1"):
        load_checkpoint(tmp_path)
    first.rename(tmp_path / "best")
    assert load_checkpoint(tmp_path / "best").step == 1


def test_a_state_of_another_step_or_form_is_refused_though_its_checksum_is_right(tmp_path):
    folder = save(tmp_path, 1)
    state = torch.load(folder / "state.pt", weights_only=True)
    for wrong, message in (
        (state | {"step": 2}, "expected the state of step 1, got 2"),
        ({"step": 1}, "expected extra, optimizer, rng"),
        ([1, 2], "expected extra, optimizer, rng"),
    ):
        torch.save(wrong, folder / "state.pt")
        write_manifest(folder, {"step": 1, "config": {}, "aliases": {}})
        with pytest.raises(CheckpointError, match=rf"state.pt: {message}"):
            load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"x" * 5000, b"", b"../step_000001", b"step_000009", b"step_000001/"]
)
def test_a_damaged_pointer_is_named_with_a_checkpoint_that_is_whole(tmp_path, content):
    save(tmp_path, 1)
    (tmp_path / "latest").write_bytes(content)
    for reading in (latest_checkpoint, load_checkpoint, check_new_run):
        with pytest.raises(CheckpointError, match="latest: expected") as caught:
            reading(tmp_path)
        assert caught.value.__notes__ == [
            f"{tmp_path / 'step_000001'} is whole: go on from there with resume_from"
        ]


def test_beside_a_damaged_checkpoint_the_newest_whole_one_is_named(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    (tmp_path / "step_000003" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="step_000003/weights") as caught:
        load_checkpoint(tmp_path)
    assert "step_000002 is whole" in caught.value.__notes__[0]
    (tmp_path / "step_000002" / "state.pt").unlink()
    with pytest.raises(CheckpointError, match="step_000003") as caught:
        load_checkpoint(tmp_path)
    assert "step_000001 is whole" in caught.value.__notes__[0]
    (tmp_path / "step_000001" / "manifest.json").write_text("")
    with pytest.raises(CheckpointError, match="step_000003") as caught:
        load_checkpoint(tmp_path)
    assert caught.value.__notes__ == ["no other checkpoint there is whole"]


def test_a_checkpoint_is_found_by_step_name_or_path(tmp_path):
    for step in (1, 2):
        save(tmp_path / "a", step)
    second = tmp_path / "a" / "step_000002"
    shutil.copytree(second, tmp_path / "a" / "step_000002-2")
    assert find_checkpoint(tmp_path / "a", "1") == tmp_path / "a" / "step_000001"
    assert find_checkpoint(tmp_path / "a", 2).name == "step_000002-2"
    assert find_checkpoint(tmp_path / "a", "step_000002") == second
    assert find_checkpoint(tmp_path / "b", second) == second
    for absent in ("3", "latest", "", str(tmp_path), "x" * 5000):
        with pytest.raises(ConfigError, match=r"resume_from: .*\(step_000001, step_000002, "):
            find_checkpoint(tmp_path / "a", absent)


def test_all_files_of_a_checkpoint_can_be_read_by_the_same_people(tmp_path):
    folder = save(tmp_path, 1)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


@pytest.mark.skipif(resource is None, reason="no limits on files")
@pytest.mark.parametrize("room", [0, 100, 1000, 5000, 20_000])
def test_a_checkpoint_that_does_not_fit_is_said_and_leaves_the_one_before(tmp_path, room):
    save(tmp_path, 1)
    weights = {"w": torch.zeros(100, 100)}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(StorageError, match=r"cannot be written: .*File too large"):
            save(tmp_path, 2, weights=weights)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.glob("unfinished*"))
    assert load_checkpoint(tmp_path).step == 1
    save(tmp_path, 2, weights=weights)
    assert load_checkpoint(tmp_path).step == 2


def test_an_empty_or_absent_folder_has_no_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None
    with pytest.raises(CheckpointError, match="absent: expected a checkpoint, got none there"):
        load_checkpoint(tmp_path / "absent")


def test_other_settings_are_named_unless_they_may_differ(tmp_path):
    save(tmp_path, 1)
    wanted = CONFIG | {"learning_rate": 0.2, "steps": 20}
    message = "learning_rate 0.1 there, 0.2 here; steps 10 there, 20 here"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path, wanted)
    with pytest.raises(CheckpointError, match="learning_rate"):
        load_checkpoint(tmp_path, wanted, may_differ={"steps"})
    assert load_checkpoint(tmp_path, CONFIG | {"steps": 20}, may_differ={"steps"}).step == 1


def test_extras_that_could_not_be_loaded_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="extra: expected tensors and plain values"):
        save(tmp_path, 1, extra={"model": torch.nn.Linear(1, 1)})
    assert not list(tmp_path.iterdir())
