"""Parameters of procedural scenes, and the named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from dip_env.errors import ConfigError

REFERENCE_HEIGHT = 960
"""Heights in pixels are stated for an image this high and scale with the image."""

LIGHTS = ("sun", "overcast", "day", "dusk", "night")
CAMERAS = ("portrait", "street", "balcony", "drone")
SETTINGS = ("street", "plaza", "park", "shore", "hall")
LOOKALIKES = ("statue", "poster", "coat_pole", "mannequin")


@dataclass(frozen=True)
class CrowdParameters:
    """What the scenes of a procedural source are like."""

    people: tuple[int, int] = (8, 40)
    """Density: fewest and most people drawn, at most 250."""
    heights: tuple[float, float] = (12.0, 350.0)
    """Scale range: smallest and largest person, pixels of an image 960 high."""
    small_extra: float = 0.0
    """Probability of one additional small person (10 to 15 % of the image height)."""
    occlusion: float = 0.75
    """Largest share of a person that one nearer object may hide when positions are chosen."""
    company: float = 0.3
    """Probability that a person stands close to another one, which makes groups and crowds."""
    furniture: tuple[int, int] = (2, 8)
    """Fewest and most pieces of street furniture."""
    lookalikes: tuple[int, int] = (0, 3)
    """Fewest and most objects that look like people but are not."""
    lookalike_kinds: tuple[str, ...] = LOOKALIKES
    """Kinds of look-alikes to choose from."""
    far_crowd: float = 0.35
    """Probability of a dense far crowd, which is an ignore region."""
    lighting: tuple[str, ...] = ("day", "day", "day", "dusk")
    """Kinds of light to choose from: sun, overcast, day (either), dusk, night."""
    camera: str = "street"
    """Camera: portrait (near people), street (eye height), balcony (looking down) or drone."""
    settings: tuple[str, ...] = SETTINGS
    """Surroundings to choose from: street, plaza, park, shore, hall."""
    noise: tuple[int, int] = (2, 8)
    """Sensor noise, grey levels."""
    background_blur: float = 0.5
    """Blur of ground, walls and sky in pixels; 0 saves a twentieth of the drawing time."""
    blur: tuple[float, float] = (0.0, 0.4)
    """Radius of the lens blur, pixels."""
    jpeg: tuple[int, int] = (70, 95)
    """JPEG quality."""
    compressed: float = 1.0
    """Probability that an image is compressed as JPEG."""
    hidden_share: float = 0.05
    """People with a smaller visible share are ignored."""
    size: tuple[int, int] = (1280, 960)
    """(width, height) of the image, pixels."""

    def __post_init__(self) -> None:
        """Check every value once.

        Raises:
            ConfigError: for a value that cannot work; the message names the field.
        """
        for name in ("people", "furniture", "lookalikes", "noise", "jpeg", "size"):
            low, high = _pair(name, getattr(self, name))
            if any(isinstance(v, bool) or not isinstance(v, int) for v in (low, high)):
                raise ConfigError(f"{name}: expected two integers, got {(low, high)!r}")
        for name in ("people", "heights", "furniture", "lookalikes", "noise", "blur", "jpeg"):
            low, high = _pair(name, getattr(self, name))
            if not 0 <= low <= high < float("inf"):
                raise ConfigError(f"{name}: expected 0 <= low <= high, got {(low, high)!r}")
        for name, top in (("people", 250), ("noise", 60), ("jpeg", 100), ("blur", 20)):
            if getattr(self, name)[1] > top:
                raise ConfigError(f"{name}: expected at most {top}, got {getattr(self, name)[1]!r}")
        if self.heights[0] < 6:
            raise ConfigError(f"heights: expected at least 6 pixels, got {self.heights[0]!r}")
        shares = ("small_extra", "occlusion", "company", "far_crowd", "hidden_share", "compressed")
        for name in shares:
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected 0..1, got {getattr(self, name)!r}")
        if not 0 <= self.background_blur <= 20:
            raise ConfigError(f"background_blur: expected 0..20, got {self.background_blur!r}")
        if not 64 <= min(self.size) <= max(self.size) <= 8192:
            raise ConfigError(f"size: expected two integers from 64 to 8192, got {self.size!r}")
        for name, choices in (
            ("lighting", LIGHTS),
            ("settings", SETTINGS),
            ("lookalike_kinds", LOOKALIKES),
        ):
            got = getattr(self, name)
            if isinstance(got, str) or not got or any(item not in choices for item in got):
                raise ConfigError(f"{name}: expected some of {choices}, got {got!r}")
        if self.camera not in CAMERAS:
            raise ConfigError(f"camera: expected one of {CAMERAS}, got {self.camera!r}")


def _pair(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ConfigError(f"{name}: expected two numbers, got {value!r}")
    if not all(isinstance(v, int | float) for v in value):
        raise ConfigError(f"{name}: expected two numbers, got {value!r}")
    return value[0], value[1]


PRESETS: Mapping[str, CrowdParameters] = MappingProxyType(
    {
        "easy": CrowdParameters(
            people=(1, 5),
            heights=(240.0, 560.0),
            small_extra=0.3,
            occlusion=0.12,
            company=0.12,
            furniture=(0, 2),
            lookalikes=(0, 1),
            lookalike_kinds=("statue", "poster", "coat_pole"),
            far_crowd=0.0,
            lighting=("day",),
            camera="portrait",
            noise=(2, 5),
            background_blur=0.0,
            blur=(0.0, 0.0),
            jpeg=(75, 92),
            compressed=0.5,
        ),
        "crowd": CrowdParameters(),
        "night": CrowdParameters(
            people=(6, 30),
            lighting=("night",),
            settings=("street", "plaza", "street"),
            far_crowd=0.2,
            noise=(9, 16),
            blur=(0.0, 0.9),
            jpeg=(45, 75),
        ),
        "drone": CrowdParameters(
            people=(10, 60),
            heights=(14.0, 150.0),
            occlusion=0.5,
            camera="drone",
            settings=("street", "plaza", "park"),
            lookalikes=(0, 2),
            furniture=(3, 10),
            far_crowd=0.0,
        ),
        "far": CrowdParameters(
            people=(3, 8),
            heights=(36.0, 90.0),
            company=0.8,
            lookalikes=(0, 2),
            far_crowd=0.0,
            lighting=("day",),
        ),
        "dense": CrowdParameters(
            people=(80, 170),
            heights=(12.0, 260.0),
            occlusion=0.9,
            company=0.6,
            camera="balcony",
            settings=("street", "plaza", "park"),
            furniture=(0, 4),
            far_crowd=0.6,
        ),
    }
)
"""Named parameters: ``easy`` and ``crowd`` to train on, the others to test out of domain."""
