"""How good is what several samples of one model agree on, beside one of them?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dip_agents import Policy, evaluate
from dip_agents.evaluation.consensus import score_consensus
from dip_env import EpisodeConfig, SceneSource
from dip_env.metrics import Interval
from examples.studies.rewards.measure.answers import BATCH, RESULT

Agreement = Mapping[str, Mapping[str, Interval]]
"""Metrics with their intervals, of ``single`` samples and of their ``consensus``."""
SINGLE = ("F1", "precision", "recall")
"""What is also measured of the samples one by one."""


def measure_agreement(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    rules: EpisodeConfig,
    samples: int,
    folder: Path,
) -> None:
    """Let a policy answer each scene several times, and score the consensus of its answers.

    Args:
        policy: who acts, by sampling.
        source: the scenes.
        indices: which of them, each once.
        rules: of the episodes.
        samples: answers of each scene.
        folder: where the metrics go, each with its interval over scenes.
    """
    result = evaluate(policy, source, indices, rules, group_size=samples, batch_size=BATCH)
    agreed = score_consensus(result.score.truth, result.score.answers)
    single = {name: result.metrics[name] for name in SINGLE}
    save_agreement({"single": single, "consensus": agreed.metrics}, folder)


def save_agreement(found: Agreement, folder: Path) -> None:
    """Write the metrics into a folder."""
    data = {
        name: {key: [one.value, one.low, one.high] for key, one in metrics.items()}
        for name, metrics in found.items()
    }
    (folder / RESULT).write_text(json.dumps(data) + "\n", encoding="utf-8")


def load_agreement(folder: Path) -> Agreement:
    """Read the metrics back."""
    data = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return {
        name: {key: Interval(*numbers) for key, numbers in metrics.items()}
        for name, metrics in data.items()
    }
