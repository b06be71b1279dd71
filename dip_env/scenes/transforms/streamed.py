"""Prepare scenes ahead of their use in worker processes; the scenes stay exactly the same."""

from __future__ import annotations

import copyreg
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cache, partial
from typing import Any

from PIL import Image

from dip_env.checks import check_integer
from dip_env.errors import ConfigError, DipError
from dip_env.scenes.base import Scene, SceneSource


def stream_scenes(
    source: SceneSource, indices: Iterable[int], *, workers: int = 1, ahead: int = 8
) -> Generator[Scene, None, None]:
    """Yield scenes of a source in the given order, their images decoded.

    Worker processes draw or read the scenes while the caller works on earlier ones. An error is
    raised instead of its scene and ends the stream. The workers end with the stream, when it is
    closed or garbage-collected, and when this process is killed; scenes in preparation are
    finished first. Workers are spawned, which takes about a second.

    Args:
        source: the scenes; with workers, the source and the notes of scenes must be picklable.
        indices: which scenes, read ``ahead`` items early; may be endless.
        workers: processes; 0 prepares each scene in this process on demand.
        ahead: upper limit on scenes prepared beyond the one in use.

    Returns:
        An iterator over ``source[i]``; with workers, images are decoded pixels and everything else
        is unchanged.

    Raises:
        ConfigError: for a bad number, or a source that cannot be pickled.
        DipError: from the iterator, when a worker dies. Errors of the source are raised unchanged.
    """
    workers, ahead = (
        check_integer("workers", workers, least=0),
        check_integer("ahead", ahead, least=1),
    )
    if workers == 0:
        return _stream_here(source, indices)
    try:
        pickled = pickle.dumps(source)
    # Objects that cannot be pickled raise one of these three.
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{source!r}: expected a source that can be pickled for workers: {error}; workers=0 "
            "needs no pickling"
        ) from error
    return _stream_from_workers(pickled, indices, workers, ahead)


def _stream_here(source: SceneSource, indices: Iterable[int]) -> Generator[Scene, None, None]:
    for index in indices:
        scene = source[index]
        scene.image.load()
        yield scene


def _stream_from_workers(
    pickled: bytes, indices: Iterable[int], workers: int, ahead: int
) -> Generator[Scene, None, None]:
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_start, initargs=(pickled,)
    )
    # Classes defined in the user's script can be imported from that script only.
    start = nullcontext if b"__main__" in pickled else _start_without_main
    pending: deque[Future[Scene]] = deque()
    try:
        for index in indices:
            with start():
                pending.append(pool.submit(_prepare, index))
            if len(pending) > ahead:
                yield _unpacked(pending.popleft().result())
        while pending:
            yield _unpacked(pending.popleft().result())
    except BrokenProcessPool as error:
        raise DipError(
            "stream of scenes: expected workers to live until the end, one died: killed for its "
            'memory, or started from a script without `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _unpacked(scene: Scene) -> Scene:
    """Return a scene from a worker with its pixels as an image."""
    return replace(scene, load_image=partial(_held, scene.load_image()))


def _held(image: Image.Image) -> Image.Image:
    return image


@contextmanager
def _start_without_main() -> Iterator[None]:
    """Keep new workers from importing the main script, which sources of this library do not need.

    A training script loads torch, which would cost every worker seconds and memory for nothing.
    ``multiprocessing.spawn.get_preparation_data`` finds the script by these two names.
    """
    names = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: names[name] for name in ("__spec__", "__file__") if name in names}
    names.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        names.update(kept)


# Everything below runs in a worker.

_pickled = b""


def _start(pickled: bytes) -> None:
    """Store the source of this worker, and end the worker with its parent."""
    global _pickled
    _pickled = pickled
    # Ctrl-C reaches workers too; the parent decides when they end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Exit as soon as the parent is gone: a killed parent cannot notify its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@cache
def _source() -> SceneSource:
    """Return the source, unpickled at the first scene: an error in ``_start`` breaks the pool."""
    source: SceneSource = pickle.loads(_pickled)
    return source


def _prepare(index: int) -> Scene:
    """Return a picklable scene: its loader holds the decoded pixels."""
    try:
        scene = _source()[index]
        size = (int(scene.size[0]), int(scene.size[1]))
        pixels = scene.image.tobytes()
        return replace(scene, load_image=partial(Image.frombytes, "RGB", size, pixels))
    except Exception as error:
        make_picklable(error)
        raise


def make_picklable(error: Exception) -> None:
    """Make an error picklable whose constructor pickle could not call.

    An error whose ``__init__`` takes other arguments than it passes on (such as
    ``ActionParseError``) can be pickled but breaks the process that unpickles it. Its type is
    registered with ``copyreg``, for all its instances.

    Args:
        error: the error; its type must be importable.
    """
    try:
        same = str(pickle.loads(pickle.dumps(error))) == str(error)
    # The constructor may raise anything when it is called with other arguments.
    except Exception:
        same = False
    if not same:
        copyreg.pickle(type(error), _parts_of)


def _parts_of(error: Exception) -> tuple[Any, ...]:
    return _from_parts, (type(error), error.args, vars(error))


def _from_parts(kind: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error = kind.__new__(kind, *args)
    vars(error).update(state)
    return error
