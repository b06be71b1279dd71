"""Scenes and rules for every adapter, given as to ``gym.make("DIPCrowd-v0", ...)``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gymnasium.utils import seeding

from dip_env.config import EpisodeConfig
from dip_env.env import open_source, pick_scene
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.group import EpisodeGroup
from dip_env.scenes.base import SceneSource


class Task:
    """Scenes and rules.

    Args:
        scenes: as for ``DIPCrowdEnv``, like all further arguments.
        root: folder of the data, for readers.
        split: part of the data.
        scene_seed: seed of a procedural source.
        source_kwargs: further arguments of the source.
        **rules: any field of ``EpisodeConfig`` and ``RewardConfig``.

    Raises:
        ConfigError: for an unknown name or a value out of range.
    """

    def __init__(
        self,
        scenes: str | SceneSource = "crowd",
        root: str | None = None,
        split: str = "train",
        scene_seed: int = 0,
        source_kwargs: Mapping[str, Any] | None = None,
        **rules: Any,
    ) -> None:
        """Open the source."""
        self.config = EpisodeConfig.from_keywords(rules)
        self.source = open_source(scenes, root, split, scene_seed, source_kwargs)

    def check_processor(
        self, processor: Any, mm_processor_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """Ensure that a processor keeps images in the size that the prompts name.

        Args:
            processor: of a Qwen-VL model, which rounds sides to multiples of an image token's and
                keeps images within limits of their area.
            mm_processor_kwargs: of the trainer's calls, such as other limits.

        Raises:
            ConfigError: when it would resize an overview or a crop.
        """
        images = processor.image_processor
        patch, multiple = int(images.patch_size), self.config.size_multiple
        side = patch * int(images.merge_size)
        if multiple % side:
            raise ConfigError(
                f"size_multiple: expected a multiple of {side} for this processor, got {multiple}"
            )
        given = _resizing(mm_processor_kwargs or {})
        if not given.pop("do_resize", getattr(images, "do_resize", True)):
            return
        for what, width, height in self._extremes():
            expected = width * height // patch**2
            got = images.get_number_of_image_patches(height, width, given)
            if got != expected:
                areas = [w * h for _, w, h in self._extremes()]
                low = min(*areas, given.get("min_pixels", images.size["shortest_edge"]))
                high = max(*areas, given.get("max_pixels", images.size["longest_edge"]))
                # verl passes on a nested `size` as a type that transformers does not take.
                fix = (
                    f"processor.image_processor.size to shortest_edge {low}, longest_edge {high}"
                    if mm_processor_kwargs is None
                    else f"mm_processor_kwargs to min_pixels {low}, max_pixels {high}"
                )
                raise ConfigError(
                    f"processor: expected {expected} patches for {what} of {width}x{height}, "
                    f"got {got}, as it resizes; set {fix}"
                )

    def _extremes(self) -> Iterator[tuple[str, int, int]]:
        """Yield name, width and height of the largest and smallest images that may be shown."""
        config = self.config
        shown = {"an overview": config.view_size}
        if config.max_looks and config.max_turns > 1:
            shown["a crop"] = config.crop_size
        for what, size in shown.items():
            longest = size // config.size_multiple * config.size_multiple
            yield what, longest, longest
            yield what, longest, config.size_multiple

    def scene_of(self, seed: int) -> int:
        """Return the scene that ``DIPCrowdEnv.reset(seed=seed)`` picks."""
        return pick_scene(self.source, seeding.np_random(seed)[0])

    def check_index(self, scene: int) -> int:
        """Return the index of a scene that the source has.

        Raises:
            IndexError: for a scene that the source does not have.
            TypeError: for an index that is not an integer.
        """
        return pick_scene(self.source, seeding.np_random(0)[0], scene)

    def episode(self, scene: int) -> Episode:
        """Start an episode on its own; its look term is measured by the annotation prior."""
        index = self.check_index(scene)
        return Episode(self.source[index], self.config, index)

    def group(self, scene: int, size: int) -> EpisodeGroup:
        """Start a group; with three members or more the look term is measured on siblings."""
        index = self.check_index(scene)
        return EpisodeGroup(self.source[index], self.config, size, scene_index=index)

    def play(self, scene: int, actions: Sequence[Sequence[str]]) -> EpisodeGroup:
        """Play a whole group with given actions.

        Args:
            scene: index of the scene.
            actions: of each of the G members, turn by turn; a member that has not ended after them
                counts as unanswered.

        Returns:
            The group at its end.
        """
        group = self.group(scene, len(actions))
        for member, texts in enumerate(actions):
            for text in texts:
                group.step_member(member, text)
            if not group.episodes[member].done:
                group.abandon(member)
        return group


def _resizing(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sizes among a processor's keywords, as its count of patches takes them."""
    given = {**kwargs, **kwargs.get("images_kwargs", {})}
    size = given.get("size") or {}
    found = {
        "do_resize": given.get("do_resize"),
        "min_pixels": given.get("min_pixels", size.get("shortest_edge")),
        "max_pixels": given.get("max_pixels", size.get("longest_edge")),
    }
    return {name: value for name, value in found.items() if value is not None}
