"""Fixtures that more than one test file uses."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image

from dip_env.scenes import ToyScenes

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run beside each other on as many cores; before anything loads torch.
    os.environ["OMP_NUM_THREADS"] = "1"

# The same examples on every machine and run; no deadline, since the machines differ in speed.
settings.register_profile("dip", deadline=None, derandomize=True)
settings.load_profile("dip")


@pytest.fixture
def toy() -> ToyScenes:
    return ToyScenes()


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a COCO folder and returns its root."""

    def write(
        annotations: list[dict[str, Any]],
        images: list[dict[str, Any]] | None = None,
        categories: list[dict[str, Any]] | None = None,
        size: tuple[int, int] = (100, 80),
    ) -> Path:
        if images is None:
            images = [{"id": 0, "file_name": "a.png", "width": 100, "height": 80}]
        if categories is None:
            categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
        (tmp_path / "images").mkdir(exist_ok=True)
        for row in images:
            if isinstance(row.get("file_name"), str):
                Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "images" / row["file_name"])
        data = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "annotations.json").write_text(json.dumps(data))
        return tmp_path

    return write
