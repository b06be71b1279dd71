"""The variants of the study: what each run changes, in words and in settings; runs nothing."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from dip_agents import GRPOConfig
from dip_env import RewardConfig

Learns = Literal["nothing", "demonstrations", "rewards"]


@dataclass(frozen=True)
class Variant:
    """One way to go on from the starting model.

    Args:
        name: in folders and tables.
        says: what it is, in a few words.
        colour: in all plots; told apart also without red and green (source: Okabe and Ito 2008,
            with greys, a brown and a wine).
        learns: from what.
        reward: fields of ``RewardConfig`` that differ from the library's defaults.
        rules: fields of ``EpisodeConfig`` that differ from the starting model's, in training and
            in measurement.
        learning: fields of ``GRPOConfig`` that differ from the study's.
        demonstrations: fields of ``SFTConfig`` that differ from the study's.
    """

    name: str
    says: str
    colour: str = "#000000"
    learns: Learns = "rewards"
    reward: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    learning: Mapping[str, Any] = field(default_factory=dict)
    demonstrations: Mapping[str, Any] = field(default_factory=dict)


BASE = Variant("base", "the starting model, which looks anywhere", "#7f7f7f", "nothing")
SFT_LONGER = Variant(
    "sft_random_looks",
    "fine-tuned further on demonstrations that look anywhere",
    "#e69f00",
    "demonstrations",
    demonstrations={"look": "random_tiles"},
)
SFT_ORACLE = Variant(
    "sft_oracle_looks",
    "fine-tuned on demonstrations of the oracle's looks: an upper bound",
    "#8c6d1f",
    "demonstrations",
    demonstrations={"look": "tiles"},
)
GRPO = Variant(
    "grpo",
    "GRPO, all three rewards, each region credited with what it adds to the look term",
    "#0072b2",
)
NO_LOOK_REWARD = Variant(
    "grpo_no_look_reward", "GRPO, look reward off", "#56b4e9", reward={"look_weight": 0.0}
)
RECIPE = Path(__file__).parents[2] / "recipes" / "dip_r1.toml"


def _reading() -> Variant:
    """Return the reading of DIP-R1 with crops shown: the tiny model cannot do a single pass."""
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    reward = {f.name for f in fields(RewardConfig)} & recipe.keys()
    learning = {f.name for f in fields(GRPOConfig)} & recipe.keys()
    return Variant(
        "dip_r1_reading",
        "recipes/dip_r1.toml, with crops shown and at the temperature of the study",
        "#999933",
        reward={name: recipe[name] for name in sorted(reward)},
        learning={name: recipe[name] for name in sorted(learning)} | {"look_credit": "episode"},
    )


CORE = (
    BASE,
    SFT_LONGER,
    SFT_ORACLE,
    NO_LOOK_REWARD,
    GRPO,
    Variant(
        "grpo_causal",
        "as grpo, the look term credited to the turns that look",
        "#661100",
        learning={"look_credit": "causal"},
    ),
    Variant(
        "grpo_episode",
        "as grpo, the look term credited to the whole episode",
        "#882255",
        learning={"look_credit": "episode"},
    ),
    Variant(
        "grpo_branching",
        "as grpo_causal, two answers after each look",
        "#117733",
        learning={"look_credit": "causal", "answers_per_look": 2},
    ),
    Variant(
        "grpo_crop_value",
        "as grpo_branching, one of the two answers without crops",
        "#44aa99",
        learning={"look_credit": "causal", "answers_per_look": 2, "blank_answers": 1},
    ),
    Variant(
        "grpo_prior_look",
        "as grpo, the look term from the annotation prior",
        "#d55e00",
        reward={"ambiguity": "annotation"},
    ),
    Variant(
        "grpo_invented",
        "as grpo, with the look term of the first version: invented boxes count, no floor",
        "#cc79a7",
        reward={"invented_weight": 1.0, "look_floor": 0.0},
    ),
    _reading(),
)
"""What learning from rewards does, what the look term adds, and to whom it is best credited."""

CHOICE: Mapping[str, Variant] = {variant.name: variant for variant in CORE}
"""Variants that the main table may hold, by name."""

REWARDS = (
    GRPO,
    Variant("f_beta_2", "F-beta, beta 2: recall counts double", "#009e73", reward={"beta": 2.0}),
    *(
        Variant(
            f"weighted_{round(10 * weight):02d}",
            f"weighted sum, {weight:g} P + {1 - weight:g} R",
            colour,
            reward={"accuracy": "weighted_sum", "precision_weight": weight},
        )
        for weight, colour in ((0.3, "#e69f00"), (0.5, "#d55e00"), (0.7, "#cc79a7"))
    ),
    Variant(
        "iou_averaged", "F1 averaged over IoU .5:.05:.95", "#000000", reward={"iou": "0.5:0.95"}
    ),
)
"""Accuracy rewards; the first is the library's default."""

COLOURS: Mapping[str, str] = {
    variant.name: variant.colour for variant in (*CHOICE.values(), *REWARDS)
}
"""Of each variant by name."""
