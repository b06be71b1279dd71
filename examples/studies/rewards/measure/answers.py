"""Measure one model on one set of scenes: numbers and actions of each scene.

The numbers are kept per scene, so that any two measurements of the same scenes can be compared in
pairs; the actions are kept, so that any episode can be played and drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dip_agents import VLM, Policy, VLMPolicy, engine_for
from dip_agents.evaluation import EvalCondition
from dip_agents.evaluation.evaluator import evaluate_conditions
from dip_agents.evaluation.scores import EvalScore
from dip_env import Episode, EpisodeConfig, EpisodeGroup, SceneSource

Columns = Mapping[str, NDArray[np.float64]]
"""Numbers of each scene by name, each (S,) or (S, T) for T IoU thresholds."""

RESULT = "result.json"
BATCH = 32
"""Episodes that are played together."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What a model did in S scenes.

    Args:
        indices: of the scenes in their source.
        columns: see ``columns_of``.
        actions: the texts of each scene, turn by turn.
    """

    indices: tuple[int, ...]
    columns: Columns
    actions: tuple[tuple[str, ...], ...]

    @property
    def count(self) -> int:
        """S, the number of scenes."""
        return len(self.indices)

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        data = {
            "indices": list(self.indices),
            "columns": {name: values.tolist() for name, values in self.columns.items()},
            "actions": [list(texts) for texts in self.actions],
        }
        (folder / RESULT).write_text(json.dumps(data) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Measured:
        """Read it back."""
        data = json.loads((folder / RESULT).read_text(encoding="utf-8"))
        return cls(
            tuple(data["indices"]),
            {name: np.array(values, dtype=np.float64) for name, values in data["columns"].items()},
            tuple(tuple(texts) for texts in data["actions"]),
        )

    def play_again(self, position: int, source: SceneSource, rules: EpisodeConfig) -> Episode:
        """Return the finished episode of a scene.

        Args:
            position: of the scene among ``indices``.
            source: the scenes that were measured.
            rules: that were measured under.
        """
        index = self.indices[position]
        episode = Episode(source[index], rules, scene_index=index)
        for text in self.actions[position]:
            episode.step(text)
        return episode


def measure(
    policy: Policy, source: SceneSource, indices: Sequence[int], rules: EpisodeConfig
) -> Measured:
    """Play a policy on scenes, once each.

    Args:
        policy: who acts.
        source: the scenes.
        indices: which of them, each once.
        rules: of the episodes.

    Returns:
        What it did.
    """
    actions: list[tuple[str, ...]] = []

    def note(name: str, group: EpisodeGroup) -> None:
        texts = (m.text for m in group.episodes[0].transcript if m.role == "assistant")
        actions.append(tuple(texts))

    results = evaluate_conditions(
        policy,
        source,
        indices,
        {"own": EvalCondition(rules)},
        batch_size=BATCH,
        on_group=note,
    )
    return Measured(tuple(indices), columns_of(results["own"].score), tuple(actions))


def policy_of(vlm: VLM, limits: Mapping[str, Any], temperature: float = 0.0) -> VLMPolicy:
    """Return a model as a policy.

    Args:
        vlm: the model.
        limits: ``max_new_tokens`` of a turn and ``token_budget`` of an episode.
        temperature: of sampling; 0 is greedy decoding.
    """
    return VLMPolicy(engine_for(vlm), temperature, **limits, batch_size=BATCH)


def columns_of(score: EvalScore) -> dict[str, NDArray[np.float64]]:
    """Return the per-scene numbers that the metrics are sums of.

    Args:
        score: with one rollout a scene.

    Returns:
        The counters of ``evaluation.scores`` by name, among them what looks cover beside random and
        oracle looks, ``people`` to find, ``duplicates``, and at each IoU threshold, (S, T), ``tp``
        and ``counted`` (boxes that ignore regions do not drop).
    """
    found = score.unscored
    return {
        **{name: np.asarray(values, dtype=np.float64) for name, values in score.counters.items()},
        "people": found.people,
        "duplicates": found.duplicates,
        "tp": found.tp.T,
        "counted": (found.boxes - found.dropped).T,
    }
