"""Plug in your own policy: any ``str -> str``, or a class that sees the pixels too.

    python examples/own_policy.py --scenes toy

Both are played on the same scenes, so the table ends with the paired gain of the second over the
first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tyro
from scipy import ndimage

from dip_agents.evaluate import evaluate, print_results
from dip_agents.policy import CallablePolicy, Completion
from dip_env import EpisodeConfig, Observation, make_source
from dip_env.actions import Answer, Grammar, Look, Think


def text_only(transcript: str) -> str:
    """Return the next action, given the conversation so far as text.

    A call to any language model fits here. This one looks at the middle, and then answers that
    three people stand side by side.
    """
    width, height = map(int, re.search(r"image (\d+)x(\d+)", transcript).groups())
    if "[assistant]" not in transcript:
        look = [width // 4, height // 4, 3 * width // 4, 3 * height // 4]
        return f"<think>the middle first</think><look>[{look}]</look>"
    third = width // 3
    boxes = [[k * third + third // 4, height // 4, (k + 1) * third, height] for k in range(3)]
    return f"<think>three, I guess</think><answer>{boxes}</answer>"


class BlobPolicy:
    """Answers one box for each blob that stands out from its row of pixels.

    Args:
        config: the rules of the episodes.
        contrast: how far a pixel must be from the median of its row to stand out, 0..255.
        min_pixels: smallest blob in view pixels.
    """

    def __init__(self, config: EpisodeConfig, contrast: float = 40.0, min_pixels: int = 12) -> None:
        """Keep the settings."""
        self.grammar = Grammar(config.max_regions, config.max_boxes)
        self.max_boxes = config.max_boxes
        self.contrast = contrast
        self.min_pixels = min_pixels

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Return one completion for each observation; a chance policy would use the seeds."""
        return [Completion(self.decide(observation)) for observation in observations]

    def decide(self, observation: Observation) -> str:
        """Look once at the most crowded part, then answer."""
        # The overview is the one image of the first message; crops are in observation.crops.
        overview = observation.messages[0].images[0].astype(np.float64)
        difference = np.abs(overview - np.median(overview, axis=1, keepdims=True)).max(axis=2)
        labels, _ = ndimage.label(difference > self.contrast)
        slices = ndimage.find_objects(labels)
        pixels = np.bincount(labels.ravel())[1:]
        boxes = [
            [x.start, y.start, x.stop, y.stop]
            for (y, x), count in zip(slices, pixels, strict=True)
            if count >= self.min_pixels
        ][: self.max_boxes]
        # Boxes of pixels are in the view frame; what is printed is in the text frame.
        printed = np.round(observation.view.view_to_text(boxes))
        if observation.looks_left and observation.turns_left > 1 and not observation.crops:
            if len(printed):
                region = [*printed[:, :2].min(axis=0), *printed[:, 2:].max(axis=0)]
            else:
                region = [0, 0, *observation.view.text_size]
            return self.grammar.format((Think("where all the blobs are"), Look([region])))
        return self.grammar.format((Think(f"{len(printed)} blobs"), Answer(printed)))


@dataclass(frozen=True)
class Settings:
    """What to play."""

    scenes: str = "toy"
    """A preset (easy, crowd, night, drone, dense), or toy."""
    n: int = 16
    """Scenes, at most those there are."""


def main(settings: Settings) -> None:
    config = EpisodeConfig()
    source = make_source(settings.scenes, split="val")
    scenes = [source[index] for index in range(min(settings.n, len(source)))]
    policies = {"text only": CallablePolicy(text_only), "blobs": BlobPolicy(config)}
    results = {
        name: evaluate(policy, scenes, range(len(scenes)), config)
        for name, policy in policies.items()
    }
    print_results(results)


if __name__ == "__main__":
    main(tyro.cli(Settings))
