"""Make the larger model of the GPU part: the tiny one's make, 110 million random weights.

    python -m examples.studies.rewards.measure.larger --out runs/small/untrained

It is then fine-tuned as the tiny model was and is where every variant starts; the commands are at
the end of RESULTS.md.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from dip_agents import VLM, save_model
from dip_agents.models.rules import TINY_RULES
from dip_agents.models.tiny.model import build_tiny, fourier_integers, fourier_positions
from dip_agents.models.tiny.vocabulary import tiny_texts

RULES = replace(TINY_RULES, view_size=448)
"""Of its episodes."""
HEAD = 64
"""Width of an attention head, as in the tiny model."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/small/untrained"))
    parser.add_argument("--hidden", type=int, default=768, help="width of the text model")
    parser.add_argument("--layers", type=int, default=8, help="of the text model")
    parser.add_argument("--vision", type=int, default=512, help="width of the vision tower")
    parser.add_argument("--vision-layers", type=int, default=10, help="of the vision tower")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    small, processor = build_tiny(tiny_texts(), seed=given.seed)
    config = scaled(small.config, given.hidden, given.layers, given.vision, given.vision_layers)
    model = build(config, given.seed)
    model.generation_config = small.generation_config
    save_model(VLM(model, processor), given.out, RULES)
    print(f"{given.out}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million weights")


def scaled(config: Any, hidden: int, layers: int, vision: int, vision_layers: int) -> Any:
    """Return the configuration of a model of the same make and another size.

    Args:
        config: of the tiny model; stays as it is.
        hidden: width of the text model, a multiple of 128.
        layers: of the text model.
        vision: width of the vision tower, a multiple of 64.
        vision_layers: of the vision tower.

    Returns:
        The other configuration.
    """
    config = copy.deepcopy(config)
    text, eyes = config.text_config, config.vision_config
    text.hidden_size, text.intermediate_size, text.num_hidden_layers = hidden, 4 * hidden, layers
    text.num_attention_heads, text.num_key_value_heads = hidden // HEAD, hidden // HEAD // 2
    eyes.hidden_size, eyes.intermediate_size, eyes.depth = vision, 4 * vision, vision_layers
    eyes.num_heads, eyes.out_hidden_size = vision // HEAD, hidden
    eyes.deepstack_visual_indexes = [vision_layers // 2 - 1]
    return config


def build(config: Any, seed: int) -> Any:
    """Return a model with random weights with Fourier features of numbers and positions.

    Args:
        config: of the model.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(config).eval()
    fourier_integers(model.model.language_model.embed_tokens.weight, seed=seed)
    fourier_positions(model.model.visual.pos_embed.weight)
    return model


if __name__ == "__main__":
    main()
