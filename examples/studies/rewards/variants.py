"""The variants of the study: what each run changes, in words and in settings; runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

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
        fresh: each demonstration shows a scene of its own, instead of the scenes that the other
            variants learn from, as often as these play them.
    """

    name: str
    says: str
    colour: str = "#000000"
    learns: Learns = "rewards"
    reward: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    learning: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False


BASE = Variant("base", "the starting model", "#7f7f7f", learns="nothing")
SFT_LONGER = Variant(
    "sft_longer", "fine-tuned further on demonstrations", "#e69f00", learns="demonstrations"
)
GRPO = Variant("grpo", "GRPO, all three rewards", "#0072b2")

CORE = (
    BASE,
    SFT_LONGER,
    Variant(
        "sft_fresh",
        "as sft_longer, every demonstration another scene",
        "#8c6d1f",
        learns="demonstrations",
        fresh=True,
    ),
    GRPO,
    Variant("grpo_no_look_reward", "GRPO, look reward off", "#56b4e9", reward={"look_weight": 0.0}),
    Variant("grpo_no_looks", "GRPO, no looks at all: one turn", "#009e73", rules={"max_looks": 0}),
    Variant(
        "grpo_prior_look",
        "GRPO, look reward from the annotation prior",
        "#d55e00",
        reward={"ambiguity": "annotation"},
    ),
    Variant(
        "grpo_accuracy_only",
        "GRPO, accuracy reward alone",
        "#cc79a7",
        reward={"format_weight": 0.0, "look_weight": 0.0},
    ),
)
"""What training does, and what each reward does."""

LOOK_HEAVY = Variant(
    "grpo_look_heavy",
    "GRPO, the look reward weighs as much as the accuracy reward",
    "#882255",
    reward={"look_weight": 0.45, "accuracy_weight": 0.45},
)
"""Asks whether the default weighs the look reward too little to do anything."""

LOOK_CAUSAL = Variant(
    "grpo_look_causal",
    "as grpo_look_heavy, the look reward credited to the turns that could look",
    "#117733",
    reward=LOOK_HEAVY.reward,
    learning={"look_credit": "causal"},
)
"""Asks whether it is in the way of the answers."""

CHOICE: Mapping[str, Variant] = {
    variant.name: variant for variant in (*CORE, LOOK_HEAVY, LOOK_CAUSAL)
}
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
