"""From images to the features that replace their placeholders, each distinct image once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dip_agents.models.base import Features
from dip_agents.models.feature_cache import FeatureCache
from dip_agents.models.precision import autocast_context
from dip_agents.models.vision_tower import order_of, speed_up_vision
from dip_agents.tokens.buffer import EncodedImage
from dip_agents.tokens.chat import ChatTokens


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Features of some images, from the vision tower.

    Args:
        embeds: per image, (tokens, d).
        deepstack: per layer and image, (tokens, d); no layers for models without deepstack.
    """

    embeds: list[Tensor]
    deepstack: list[list[Tensor]]


class VisionEncoder:
    """The vision tower of a Qwen-VL model, made fast, with a cache while it is frozen.

    Args:
        core: the transformers model; its tower is changed in place.
        chat: makes the patches of images.
        autocast: dtype for matrix products, or None for the weights' own.
    """

    def __init__(self, core: Any, chat: ChatTokens, autocast: torch.dtype | None) -> None:
        """Make the tower fast; the cache begins empty."""
        self.core = core
        self.chat = chat
        self.autocast = autocast
        self.has_deepstack = hasattr(self.tower, "deepstack_merger_list")
        self.fast = speed_up_vision(self.tower)
        """Whether the tower reads image sizes on the CPU, without a synchronisation."""
        self.keeps_features = True
        """Whether features of a frozen tower are kept; a sharded model must not keep them, since
        its ranks would no longer run the tower equally often."""
        self._cache = FeatureCache()

    @property
    def tower(self) -> Any:
        """The vision tower."""
        return self.core.model.visual

    @property
    def learns(self) -> bool:
        """Whether any weight of the tower does."""
        return any(weight.requires_grad for weight in self.tower.parameters())

    def encode(self, images: Sequence[EncodedImage]) -> ImageFeatures:
        """Run the vision tower over images.

        Args:
            images: at least one.

        Returns:
            Features in the order of the images.
        """
        device = self.core.get_input_embeddings().weight.device
        # Images of one size are neighbours, so that they attend as one batch.
        order = order_of([image.grid for image in images])
        with autocast_context(self.autocast, device):
            patches = self.chat.patches([images[i] for i in order])
            grids = torch.tensor([images[i].grid for i in order])
            if not self.fast:
                grids = grids.to(device)
            out = self.core.model.get_image_features(patches.to(device), grids)
        sizes = [images[i].tokens for i in order]
        # 5.17 returns one tensor per deepstack layer, 5.23 a tuple per image.
        layers = getattr(out, "deepstack_features", None) or []
        parts = [
            list(torch.split(layer, sizes) if isinstance(layer, Tensor) else layer)
            for layer in [out.pooler_output, *layers]
        ]
        back = sorted(range(len(order)), key=order.__getitem__)
        embeds, *deepstack = ([part[i] for i in back] for part in parts)
        return ImageFeatures(embeds, deepstack)

    def features_of(self, images: Iterable[EncodedImage]) -> dict[bytes, Features]:
        """Encode each distinct image once, and not again while the tower is frozen.

        Args:
            images: any number, repeats allowed.

        Returns:
            For each image key its embeds (tokens, d) and its deepstack features per layer.
        """
        unique = {image.key: image for image in images}
        if not unique:
            return {}
        frozen = self.keeps_features and not self.learns
        known: dict[bytes, Features] = {}
        if frozen:
            # torch has no public count of in-place changes; comparing the weights themselves would
            # cost more than most batches of images.
            known = self._cache.known(
                unique, sum(weight._version for weight in self.tower.parameters())
            )
        missing = [image for key, image in unique.items() if key not in known]
        if not missing:
            return known
        out = self.encode(missing)
        made = {
            image.key: (out.embeds[i], [layer[i] for layer in out.deepstack])
            for i, image in enumerate(missing)
        }
        if frozen:
            self._cache.add(made)
        return known | made

    def forget_images(self) -> None:
        """Drop the features of earlier images.

        Called when sampling begins, so that a step is the same after a resume: features depend, in
        their last bits, on the batch that they were computed in.
        """
        self._cache.clear()
