"""Cache scenes on disk, so that each scene of a slow source is computed once."""

from __future__ import annotations

import io
import json
import os
import tempfile
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

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
        self.folder.mkdir(parents=True, exist_ok=True)
        label, name = self.folder / "source.txt", repr(source)
        if not label.exists():
            label.write_text(name + "\n", encoding="utf-8")
        if (found := label.read_text(encoding="utf-8").strip()) != name:
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
        except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
            raise SceneError(f"{path}: expected a stored scene, got: {error}") from error

    def _store(self, scene: Scene, path: Path) -> None:
        jpeg = io.BytesIO()
        scene.image.save(jpeg, "JPEG", quality=self.quality)
        # Written to a temporary file and renamed, so that no reader sees half a file.
        handle, partial_name = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        with os.fdopen(handle, "wb") as file:
            np.savez(
                file,
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
        os.replace(partial_name, path)


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _decode(jpeg: bytes, path: Path) -> Image.Image:
    try:
        return Image.open(io.BytesIO(jpeg)).convert("RGB")
    except OSError as error:
        raise SceneError(f"{path}: jpeg: expected an image, got: {error}") from error
