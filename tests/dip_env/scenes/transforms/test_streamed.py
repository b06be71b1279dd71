import copyreg
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from itertools import count, islice

import numpy as np
import pytest

from dip_env.errors import ActionParseError, ConfigError, DipError, SceneError
from dip_env.scenes.procedural.source import ProceduralCrowd
from dip_env.scenes.readers.coco import CocoScenes
from dip_env.scenes.toy import ToyScenes
from dip_env.scenes.transforms.filtered import FilteredScenes
from dip_env.scenes.transforms.mixed import MixedScenes
from dip_env.scenes.transforms.stored import StoredScenes
from dip_env.scenes.transforms.streamed import make_picklable, stream_scenes

ARRAYS = ("boxes", "visible_boxes", "visible_share", "ignore")
EASY = ProceduralCrowd("easy", size=(320, 240))


def assert_same(scene, other):
    for name, value in vars(other).items():
        if name in ARRAYS:
            got = getattr(scene, name)
            assert (got.dtype, got.shape) == (value.dtype, value.shape)
            assert got.tobytes() == value.tobytes()
        elif name == "image":
            assert np.array_equal(np.asarray(scene.image), np.asarray(value))
        elif name != "load_image":
            assert getattr(scene, name) == value, name


def children():
    return {process.pid: process for process in multiprocessing.active_children()}


def wait_until_gone(pid):
    """Return whether a process that is not our child ends within ten seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_scenes_of_every_kind_come_from_workers_unchanged_and_in_order(write_coco, tmp_path):
    row = {"id": 1, "image_id": 0, "category_id": 1, "bbox": [10, 20, 30, 40]}
    mix = MixedScenes(
        [
            (EASY, 1),
            (CocoScenes(write_coco([row])), 1),
            (StoredScenes(ToyScenes(), tmp_path / "stored"), 1),
            (FilteredScenes(ToyScenes(), min_people=1, min_height=50), 1),
        ]
    )
    indices = [7, 0, 1, 2, 3, 11, 0]
    seen = list(stream_scenes(mix, indices, workers=2, ahead=4))
    assert [scene.scene_id for scene in seen] == [mix[index].scene_id for index in indices]
    for scene, index in zip(seen, indices, strict=True):
        expected = mix[index]
        assert expected.image.size == scene.size
        assert_same(scene, expected)
        # A streamed scene can be sent on.
        assert_same(pickle.loads(pickle.dumps(scene)), expected)


def test_without_workers_scenes_are_prepared_here_one_by_one():
    asked = []
    scenes = stream_scenes(EASY, (asked.append(k) or k for k in count()), workers=0)
    for scene, index in zip(islice(scenes, 3), range(3), strict=True):
        assert "image" in vars(scene)
        assert_same(scene, EASY[index])
        assert asked == list(range(index + 1))


def test_workers_look_ahead_so_far_and_end_with_their_stream():
    before = children()
    asked = []
    closed = stream_scenes(EASY, (asked.append(k) or k for k in count()), workers=1, ahead=3)
    dropped = stream_scenes(EASY, count(), workers=1, ahead=3)
    assert next(closed).scene_id == EASY[0].scene_id
    assert asked == [0, 1, 2, 3]
    assert next(closed).scene_id == EASY[1].scene_id
    assert asked == [0, 1, 2, 3, 4]
    next(dropped)
    workers = [process for pid, process in children().items() if pid not in before]
    assert len(workers) == 2
    closed.close()
    assert sum(process.is_alive() for process in workers) == 1
    del dropped
    gc.collect()
    assert not any(process.is_alive() for process in workers)


def test_a_stream_that_is_never_begun_starts_no_process():
    before = set(children())
    stream_scenes(EASY, count(), workers=4)
    assert set(children()) == before


def test_errors_come_out_in_their_order_as_they_are(write_coco):
    images = [{"id": k, "file_name": f"{k}.png", "width": 100, "height": 80} for k in range(3)]
    root = write_coco([], images=images)
    (root / "images" / "1.png").unlink()
    source, messages = CocoScenes(root), []
    for workers in (0, 1):
        scenes = stream_scenes(source, [0, 2, 1, 0], workers=workers)
        assert [next(scenes).scene_id, next(scenes).scene_id] == ["0", "2"]
        with pytest.raises(SceneError, match=r"1\.png: image file is missing") as caught:
            next(scenes)
        messages.append((type(caught.value), str(caught.value)))
        assert list(scenes) == []
    assert messages[0] == messages[1]
    # The worker's own traceback is kept.
    assert "_prepare" in str(caught.value.__cause__)


def test_an_error_that_pickle_cannot_rebuild_is_made_picklable(monkeypatch):
    error = ActionParseError("expected <look>", position=7)
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(error))
    # Put there only to be taken away after the test.
    monkeypatch.setitem(copyreg.dispatch_table, ActionParseError, ActionParseError.__reduce__)
    make_picklable(error)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is ActionParseError
    assert (str(again), again.position) == ("at character 7: expected <look>", 7)


def test_a_worker_that_dies_is_reported():
    before = children()
    scenes = stream_scenes(EASY, count(), workers=1, ahead=1)
    next(scenes)
    (worker,) = [process for pid, process in children().items() if pid not in before]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(DipError, match="expected workers to live until the end, one died"):
        list(scenes)


# Its own name is not looked at: a script needs no guard for scenes from the library.
KILLED = """
import multiprocessing, os, signal
from dip_env.scenes.procedural.source import ProceduralCrowd
from dip_env.scenes.transforms.streamed import stream_scenes
scenes = stream_scenes(ProceduralCrowd("easy", size=(320, 240)), range(9), workers=1)
print(next(scenes).scene_id, __spec__, __file__)
print(multiprocessing.active_children()[0].pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""

OWN = """
from dip_env.scenes.transforms.streamed import stream_scenes
from dip_env.scenes.toy import ToyScenes
class Own(ToyScenes):
    def __getitem__(self, index):
        if index == 2:
            raise OwnError("no scene", index)
        return super().__getitem__(index)
class OwnError(Exception):
    def __init__(self, text, number):
        super().__init__(f"{text} {number}")
if __name__ == "__main__":
    try:
        for scene in stream_scenes(Own(), range(4), workers=1):
            print(scene.scene_id)
    except OwnError as error:
        print("OwnError", error)
"""


def run_script(text, path):
    path.write_text(text)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60)
    return done.stdout.splitlines(), done.stderr


def test_workers_do_without_the_main_script_and_end_when_it_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    (first, pid), errors = run_script(KILLED, script)
    assert first == f"{EASY[0].scene_id} None {script}", errors
    assert wait_until_gone(int(pid))


def test_a_source_and_an_error_of_the_main_script_are_found_there(tmp_path):
    lines, errors = run_script(OWN, tmp_path / "own.py")
    assert lines == ["toy-0", "toy-1", "OwnError no scene 2"], errors


def test_settings_that_cannot_work_are_refused_at_once():
    with pytest.raises(ConfigError, match="workers: expected an integer >= 0, got -1"):
        stream_scenes(EASY, [0], workers=-1)
    with pytest.raises(ConfigError, match="ahead: expected an integer >= 1, got 0"):
        stream_scenes(EASY, [0], ahead=0)

    class Local(ToyScenes):
        pass

    with pytest.raises(ConfigError, match=r"expected a source that can be pickled .* workers=0"):
        stream_scenes(Local(), [0])
    assert [scene.scene_id for scene in stream_scenes(Local(), [3], workers=0)] == ["toy-3"]
