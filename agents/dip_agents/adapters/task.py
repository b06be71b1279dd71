"""What every adapter plays: scenes and rules, told as to ``gym.make("DIPCrowd-v0", ...)``."""

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
        """See to it that a processor shows images in the size that the prompts speak of.

        Args:
            processor: of a Qwen-VL model, which rounds sides to multiples of an image token's and
                keeps images within limits of their area.
            mm_processor_kwargs: what the trainer will call it with, such as other limits.

        Raises:
            ConfigError: when it would resize what the rules let a policy see.
        """
        images = processor.image_processor
        patch, multiple = int(images.patch_size), self.config.size_multiple
        side = patch * int(images.merge_size)
        if multiple % side:
            raise ConfigError(
                f"size_multiple: expected a multiple of {side} for this processor, got {multiple}"
            )
        told = _resizing(mm_processor_kwargs or {})
        if not told.pop("do_resize", getattr(images, "do_resize", True)):
            return
        for what, width, height in self._extremes():
            expected = width * height // patch**2
            got = images.get_number_of_image_patches(height, width, told)
            if got != expected:
                areas = [w * h for _, w, h in self._extremes()]
                low = min(*areas, told.get("min_pixels", images.size["shortest_edge"]))
                high = max(*areas, told.get("max_pixels", images.size["longest_edge"]))
                # verl hands on a nested `size` as a type that transformers does not take.
                remedy = (
                    f"processor.image_processor.size to shortest_edge {low}, longest_edge {high}"
                    if mm_processor_kwargs is None
                    else f"mm_processor_kwargs to min_pixels {low}, max_pixels {high}"
                )
                raise ConfigError(
                    f"processor: expected {expected} patches for {what} of {width}x{height}, "
                    f"got {got}, as it resizes; set {remedy}"
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

    def checked(self, scene: int) -> int:
        """Return a scene's index.

        Raises:
            IndexError: for a scene that the source does not have.
            TypeError: for an index that is not an integer.
        """
        return pick_scene(self.source, seeding.np_random(0)[0], scene)

    def episode(self, scene: int) -> Episode:
        """Start an episode on its own; its look term is measured by the annotation prior."""
        index = self.checked(scene)
        return Episode(self.source[index], self.config, index)

    def group(self, scene: int, size: int) -> EpisodeGroup:
        """Start a group; with three members or more the look term is measured on siblings."""
        index = self.checked(scene)
        return EpisodeGroup(self.source[index], self.config, size, scene_index=index)

    def played(self, scene: int, actions: Sequence[Sequence[str]]) -> EpisodeGroup:
        """Play a whole group by given words.

        Args:
            scene: index of the scene.
            actions: what each of the G members says, turn by turn; one that has not ended then
                has not answered.

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
    """Return what a processor's keywords say about sizes, as its count of patches takes it."""
    told = {**kwargs, **kwargs.get("images_kwargs", {})}
    size = told.get("size") or {}
    found = {
        "do_resize": told.get("do_resize"),
        "min_pixels": told.get("min_pixels", size.get("shortest_edge")),
        "max_pixels": told.get("max_pixels", size.get("longest_edge")),
    }
    return {name: value for name, value in found.items() if value is not None}
