"""Episodes in which only what a policy sees, or where it really looks, is changed.

The conversation stays consistent: where a look is replaced, the transcript shows the replaced
regions as the policy's text, and reward, traces and arrays are those of the looks really taken. A
control cannot make a policy look that answers at once. ``controls`` has the standard ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from dip_env.actions import Look, Segment
from dip_env.boxes import Boxes
from dip_env.config import EpisodeConfig
from dip_env.env import DIPCrowdEnv
from dip_env.episode import Episode
from dip_env.errors import ActionParseError, ActionRefusedError, ConfigError
from dip_env.messages import Message, Turn
from dip_env.scenes.base import Scene
from dip_env.views import Crop

Pixels = NDArray[np.uint8]

_LOOK = re.compile(r"<look>.*?</look>", re.DOTALL)


def _own_regions(regions: Boxes, episode: Episode, taken: int) -> Boxes:
    return regions


def _own_overview(image: Pixels, episode: Episode) -> Pixels:
    return image


def _own_crop(crop: Crop, episode: Episode) -> Pixels:
    return crop.image


@dataclass(frozen=True)
class Control:
    """One way to change an episode; what is not given stays as it is.

    Args:
        name: short, as in a table.
        regions: from the regions (R, 4) of one look, text frame, the episode, and the number of
            regions taken before, to those that are looked at instead, text frame.
        overview: from the overview, RGB uint8 (h, w, 3), and the episode to the image that is shown
            instead, of the same shape.
        crop: from a crop and the episode to the image that is shown instead, of the crop's shape;
            the message still names the requested region.
    """

    name: str
    regions: Callable[[Boxes, Episode, int], Boxes] = _own_regions
    overview: Callable[[Pixels, Episode], Pixels] = _own_overview
    crop: Callable[[Crop, Episode], Pixels] = _own_crop

    @property
    def changes_pixels(self) -> bool:
        """Whether it shows other images than the environment, and not just other regions."""
        return self.overview is not _own_overview or self.crop is not _own_crop

    def episode(
        self,
        scene: Scene,
        config: EpisodeConfig | None = None,
        scene_index: int | None = None,
        **options: Any,
    ) -> Episode:
        """Start an episode under this control.

        Args:
            scene: as for ``Episode``.
            config: as for ``Episode``.
            scene_index: as for ``Episode``.
            **options: further keywords of ``Episode``; an ``opening`` is shown as it is.

        Returns:
            The episode.
        """
        return ControlledEpisode(scene, config, scene_index, control=self, **options)


class ControlledEpisode(Episode):
    """An episode under a control; see ``Episode`` for the other arguments.

    Args:
        control: what is changed.
    """

    def __init__(
        self,
        scene: Scene,
        config: EpisodeConfig | None = None,
        scene_index: int | None = None,
        *,
        control: Control,
        **options: Any,
    ) -> None:
        """Start the episode."""
        self.control = control
        super().__init__(scene, config, scene_index, **options)

    @cached_property
    def opening(self) -> Message:
        """The first message: the overview, or its replacement, and the task."""
        plain = super().opening
        (image,) = plain.images
        return replace(plain, images=(self._shown("overview", image),))

    def advance(self, action: str) -> Turn:
        """Take one action, its looks replaced; see ``Episode.advance``.

        Raises:
            ConfigError: when the control looks where the rules do not allow it.
        """
        return super().advance(self._controlled(action))

    def _controlled(self, action: str) -> str:
        """Return an action with its looks replaced; one that would not be taken stays as it is."""
        if not isinstance(action, str) or self.done:
            return action
        try:
            segments = self.grammar.parse(action)
            self.regions_of(segments)
        except (ActionParseError, ActionRefusedError):
            return action
        taken, texts = len(self.looks), []
        for look in (segment for segment in segments if isinstance(segment, Look)):
            regions = self.control.regions(look.regions, self, taken)
            taken += len(regions)
            same = np.array_equal(regions, look.regions)
            texts.append(None if same else self._look_text(regions))
        # An answer comes last and a think holds no tags, so the first matches are the looks.
        new = iter(texts)
        return _LOOK.sub(lambda old: next(new) or old[0], action, len(texts)) if texts else action

    def _look_text(self, regions: Boxes) -> str:
        """Return the text of a look that replaces the policy's."""
        try:
            segments: tuple[Segment, ...] = (Look(regions),)
            text = self.grammar.format(segments)
            self.regions_of(segments)
        except (ActionParseError, ActionRefusedError) as error:
            raise ConfigError(
                f"control {self.control.name!r}: expected regions that the rules allow, "
                f"got {np.asarray(regions).tolist()}: {error}"
            ) from error
        return text

    def cut(self, regions: Boxes) -> tuple[Crop, ...]:
        """Cut crops, then replace their images as the control does; see ``Episode.cut``."""
        return tuple(
            replace(crop, image=self._shown("crop", crop.image, crop))
            for crop in super().cut(regions)
        )

    def _shown(self, what: str, image: Pixels, crop: Crop | None = None) -> Pixels:
        """Return the image that the control shows instead, after a check."""
        control = self.control
        shown = control.overview(image, self) if crop is None else control.crop(crop, self)
        if shown.shape != image.shape or shown.dtype != np.uint8:
            raise ConfigError(
                f"control {control.name!r}: {what}: expected uint8 {image.shape}, "
                f"got {shown.dtype} {shown.shape}"
            )
        return shown


class LookControl(gym.Wrapper[Any, str, Any, str], gym.utils.RecordConstructorArgs):
    """Play an environment under a control, from its next reset on.

    The environment itself makes controlled episodes, so that wrappers inside this one see the same.

    Args:
        env: a ``DIPCrowdEnv``, wrapped or not.
        control: what is changed.

    Raises:
        ConfigError: for another environment, or one that is under a control already.
    """

    def __init__(self, env: gym.Env[Any, str], control: Control) -> None:
        """Let the environment make controlled episodes."""
        gym.utils.RecordConstructorArgs.__init__(self, control=control)
        gym.Wrapper.__init__(self, env)
        base = env.unwrapped
        if not isinstance(base, DIPCrowdEnv):
            raise ConfigError(f"LookControl: expected a DIPCrowdEnv, got {type(base).__name__}")
        if base.new_episode is not Episode:
            raise ConfigError("LookControl: expected an environment without a control, got one")
        base.new_episode = control.episode
        self.control = control
