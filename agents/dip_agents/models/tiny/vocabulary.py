"""The texts whose words are single tokens of the tiny tokenizer."""

from __future__ import annotations

from dataclasses import replace

from dip_env import prompts
from dip_env.actions import Grammar
from dip_env.config import EpisodeConfig
from dip_env.views import Crop, View


def tiny_texts() -> list[str]:
    """Return every kind of text in an episode; their words become single tokens."""
    view = View((1280, 960), (256, 192))
    crop = Crop(image=None, region=view.text_to_scene([[0, 0, 9, 9]])[0], magnification=2.0)  # type: ignore[arg-type]
    grammar = Grammar(3)
    texts = []
    for looks in (0, 1, 2):
        config = EpisodeConfig(max_looks=looks, max_turns=looks + 1)
        texts.append(prompts.task_prompt(view, config, grammar))
        texts.append(prompts.crops_message([crop], view, looks, looks))
        texts.append(prompts.task_prompt(view, replace(config, minimal_prompt=True), grammar))
        texts.append(prompts.crops_message([crop], view, looks, looks, minimal_prompt=True))
    norm = EpisodeConfig(coordinate_format="norm1000")
    texts.append(prompts.task_prompt(view, norm, grammar))
    texts.append(prompts.nudge_message(1, 2))
    texts.append(prompts.error_message(ValueError("expected a look or an answer, got text"), 1, 1))
    # What the oracle thinks in its demonstrations.
    return [*texts, "3 people, 1 unclear."]
