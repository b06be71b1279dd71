"""Evaluate a model as it is now, and report what training gained."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dip_agents.evaluation.evaluator import evaluate
from dip_agents.evaluation.result import EvalResult, paired_gain
from dip_env.config import EpisodeConfig
from dip_env.scenes.base import SceneSource

if TYPE_CHECKING:
    from dip_agents.engines.base import Engine
    from dip_agents.models.base import VisionLanguageModel


def evaluate_model(
    vlm: VisionLanguageModel,
    source: SceneSource,
    indices: Sequence[int],
    rules: EpisodeConfig,
    *,
    max_new_tokens: int,
    token_budget: int,
    temperature: float = 0.0,
    out: Path | None = None,
    batch_size: int | None = None,
    engine: Engine | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Evaluate a model.

    Args:
        vlm: the model.
        source: scenes.
        indices: which of them.
        rules: of the episodes.
        max_new_tokens: tokens of one turn.
        token_budget: tokens of one episode.
        temperature: of sampling, with the same seeds in every evaluation; 0 is greedy decoding.
        out: folder for the results, or None.
        batch_size: episodes in progress at once, each with its scene in memory; by default 32 on a
            CPU and 128 on a GPU.
        engine: samples; by default the model itself.
        on_batch: called with (scenes done, scenes in all) after each batch.

    Returns:
        The result.
    """
    from dip_agents.engines.choose import engine_for
    from dip_agents.policies.vlm import VLMPolicy

    if batch_size is None:
        batch_size = 32 if vlm.device.type == "cpu" else 128
    policy = VLMPolicy(
        engine or engine_for(vlm), temperature, max_new_tokens, token_budget, batch_size
    )
    return evaluate(
        policy, source, indices, rules, batch_size=batch_size, out=out, on_batch=on_batch
    )


def write_gain(before: EvalResult, after: EvalResult, out: Path) -> dict[str, Any]:
    """Keep two evaluations of the same scenes with their paired gain as ``result.json``.

    Args:
        before: of the model that training started from.
        after: of the trained one.
        out: folder of the run.

    Returns:
        What the file holds.
    """
    gain = paired_gain(before, after)
    result = {
        "before": before.to_json(),
        "after": after.to_json(),
        "paired_gain": {name: asdict(interval) for name, interval in gain.items()},
    }
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return result
