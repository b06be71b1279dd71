"""Cache scenes on disk, so that each scene of a slow source is computed once."""

from __future__ import annotations

import io
import json
import os
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
from PIL import Image

from dip_env.checks import short
from dip_env.errors import SceneError
from dip_env.scenes.base import Scene, SceneSource


class StoredScenes:
    """A source that computes each scene once and reads it from a folder afterwards.

    Images are stored as JPEG, so a stored scene differs from the original by compression; the
    first read already returns the stored one, and all reads agree. Several processes may share a
    folder. Of a scene's notes, only those that JSON can hold are stored.

    Args:
        source: the scenes to store.
        folder: one file per scene; created if missing. Another source needs another folder.
        quality: of the JPEG.

    Raises:
        SceneError: for a folder that holds scenes of another source, a damaged file, or a source
            whose repr does not identify its scenes.
    """

    def __init__(self, source: SceneSource, folder: Path | str, quality: int = 92) -> None:
        """Claim the folder for this source."""
        if type(source).__repr__ is object.__repr__:  # the default repr holds a memory address
            raise SceneError(
                f"{type(source).__name__}: expected a __repr__ that tells its scenes from others"
            )
        self.source, self.folder, self.quality = source, Path(folder), quality
        label, name = self.folder / "source.txt", repr(source)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not label.exists():
                _write(label, f"{name}\n".encode(), replace=False)
            found = label.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SceneError(f"{self.folder}: expected a folder to store in: {error}") from error
        if found != name:
            raise SceneError(f"{label}: expected {name}, got {found}; choose another folder")

    def __len__(self) -> int:
        """Return the number of scenes of the source."""
        return len(self.source)

    def __repr__(self) -> str:
        """Return the wrapped source and the quality."""
        return f"StoredScenes({self.source!r}, quality={self.quality})"

    def __getitem__(self, index: int) -> Scene:
        """Return a scene, computed now if it is not stored yet."""
        path = self.folder / f"{index:09d}.npz"
        if not path.is_file():
            self._store(self.source[index], path)
        try:
            with np.load(path, allow_pickle=False) as data:
                held = {name: data[name] for name in data.files}
            return Scene(
                scene_id=str(held["scene_id"]),
                size=(int(held["size"][0]), int(held["size"][1])),
                boxes=held["boxes"],
                visible_boxes=held["visible_boxes"],
                visible_share=held["visible_share"],
                ignore=held["ignore"],
                labels=tuple(str(label) for label in held["labels"]),
                load_image=partial(_decode, held["jpeg"].tobytes(), path),
                notes=json.loads(str(held["notes"])) if "notes" in held else {},
                target=str(held.get("target", "person")),  # older stores hold people only
            )
        # For damaged files numpy and zipfile raise anything: OSError, RuntimeError, TokenError...
        except Exception as error:
            got = short(str(error) or repr(error))
            raise SceneError(f"{path}: expected a stored scene, got: {got}; delete it") from error

    def _store(self, scene: Scene, path: Path) -> None:
        jpeg = io.BytesIO()
        scene.image.save(jpeg, "JPEG", quality=self.quality)
        held = io.BytesIO()
        np.savez(
            held,
            scene_id=scene.scene_id,
            target=scene.target,
            notes=json.dumps({k: v for k, v in scene.notes.items() if _is_plain(v)}),
            size=scene.size,
            boxes=scene.boxes,
            visible_boxes=scene.visible_boxes,
            visible_share=scene.visible_share,
            ignore=scene.ignore,
            labels=np.array(scene.labels, dtype=np.str_),
            jpeg=np.frombuffer(jpeg.getvalue(), dtype=np.uint8),
        )
        try:
            _write(path, held.getvalue())
        except OSError as error:
            raise SceneError(f"{path}: the scene cannot be stored: {error}") from error


def _write(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file in one move, so that no other process sees half of it.

    Args:
        path: the file.
        data: its contents.
        replace: whether to write over a file that is there.
    """
    whole = path.with_name(f"{path.name}.{uuid4().hex}.partial")
    try:
        whole.write_bytes(data)
        if replace:
            os.replace(whole, path)
        else:
            _claim(whole, path)
    finally:
        whole.unlink(missing_ok=True)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _claim(whole: Path, path: Path) -> None:
    """Give a file its name unless another process was first."""
    try:
        os.link(whole, path)
    except FileExistsError:
        return
    except OSError:  # a file system without links: two sources may then claim it at once
        os.replace(whole, path)


def _decode(jpeg: bytes, path: Path) -> Image.Image:
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            return image.convert("RGB")
    except Exception as error:  # for damaged files Pillow raises anything
        got = short(str(error) or repr(error))
        raise SceneError(f"{path}: jpeg: expected an image, got: {got}") from error
