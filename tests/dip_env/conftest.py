"""Sources that the tests of several environments share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dip_env.errors import SceneError
from dip_env.scenes.base import Scene, SceneSource


class MissingImage:
    """Toy scenes of which the one with nobody has no image."""

    def __init__(self, toy: SceneSource) -> None:
        self.toy = toy

    def __len__(self) -> int:
        return len(self.toy)

    def __getitem__(self, index: int) -> Scene:
        if index != 2:
            return self.toy[index]

        def refuse() -> None:
            raise SceneError("2.png: image file is missing")

        return replace(self.toy[index], load_image=refuse)


@pytest.fixture
def missing_image(toy: SceneSource) -> MissingImage:
    return MissingImage(toy)
