"""Is the look reward a signal or noise? Measured with two groups of siblings in each scene.

Ambiguity is measured on the few siblings of a rollout. Were it noise, another group of as many
would call other people ambiguous and reward the same look differently.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dip_agents import Engine, Rollout, Sampling, collect_rollouts
from dip_env import Episode, EpisodeConfig, Scene, SceneSource
from dip_env.ambiguity import sibling_ambiguity
from dip_env.boxes import clip_boxes
from dip_env.config import iou_thresholds
from dip_env.rewards import Outcome, score_group
from examples.studies.rewards.measure.answers import RESULT, Columns

Floats = NDArray[np.float64]

AT_ONCE = 4
"""Scenes whose rollouts are sampled together."""


def measure_noise(
    engine: Engine,
    source: SceneSource,
    indices: Sequence[int],
    rules: EpisodeConfig,
    group_size: int,
    sampling: Sampling,
    folder: Path,
) -> None:
    """Play two groups on every scene, as in training, and keep the sums of each scene.

    Args:
        engine: samples.
        source: the scenes.
        indices: which of them, each once.
        rules: of the episodes.
        group_size: G, rollouts of one group.
        sampling: as in training.
        folder: where to.
    """
    rows = []
    for first in range(0, len(indices), AT_ONCE):
        part = list(indices[first : first + AT_ONCE])
        groups = collect_rollouts(
            engine, source, part, 2 * group_size, rules, seed=0, first_index=first,
            sampling=sampling,
        )  # fmt: skip
        for group in groups:
            scene = source[group.scene_index]
            outcomes = [outcome_of(rollout, scene, rules) for rollout in group.rollouts]
            rows.append(scene_columns(outcomes[:group_size], outcomes[group_size:], scene, rules))
    save_noise(rows, indices, folder)


def save_noise(rows: Sequence[Mapping[str, float]], indices: Sequence[int], folder: Path) -> None:
    """Write the sums of each scene."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    data = {"indices": list(indices), "columns": columns}
    (folder / RESULT).write_text(json.dumps(data) + "\n", encoding="utf-8")


def load_noise(folder: Path) -> Columns:
    """Read the sums of each scene back."""
    data = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return {name: np.array(values, dtype=np.float64) for name, values in data["columns"].items()}


def outcome_of(rollout: Rollout, scene: Scene, rules: EpisodeConfig) -> Outcome:
    """Replay the actions of a rollout."""
    episode = Episode(scene, rules)
    for message in rollout.stats.transcript:
        if message["role"] == "assistant":
            episode.step(message["text"])
    return episode.outcome


def scene_columns(
    own: Sequence[Outcome], others: Sequence[Outcome], scene: Scene, rules: EpisodeConfig
) -> dict[str, float]:
    """Return sums of products, centred within the scene, from which correlations are made.

    Args:
        own: G rollouts.
        others: G more of the same model.
        scene: of all.
        rules: of the episodes.

    Returns:
        ``episodes`` (1), and ``<pair>_xy``, ``_xx`` and ``_yy`` for: ``people``, their ambiguity to
        one group and to the other; the look term of own rollouts on their siblings against the
        same on the others (``look``), by the annotation prior (``prior``), and against their
        accuracy term (``accuracy``). ``weighed_look`` and ``weighed_reward``: centred squares of
        the look term's part of the reward and of the whole.
    """
    scores = [score.terms for score in score_group(own, scene, rules)]
    weights = rules.reward.weights
    look, accuracy, reward = (
        np.array(values)
        for values in (
            [terms.look for terms in scores],
            [terms.accuracy for terms in scores],
            [terms.total(weights) for terms in scores],
        )
    )
    again = [score_group([one, *others], scene, rules)[0].terms.look for one in own]
    annotated = replace(rules, reward=replace(rules.reward, ambiguity="annotation"))
    prior = [score.terms.look for score in score_group(own, scene, annotated)]
    found = {"episodes": 1.0}
    for pair, x, y in (
        ("people", _weights(own, scene, rules), _weights(others, scene, rules)),
        ("look", look, np.array(again)),
        ("prior", look, np.array(prior)),
        ("accuracy", look, accuracy),
    ):
        x, y = _centred(x), _centred(y)
        found |= {
            f"{pair}_xy": float(x @ y), f"{pair}_xx": float(x @ x), f"{pair}_yy": float(y @ y)
        }  # fmt: skip
    part, whole = _centred(weights["look"] * look), _centred(reward)
    return found | {"weighed_look": float(part @ part), "weighed_reward": float(whole @ whole)}


def _weights(group: Sequence[Outcome], scene: Scene, rules: EpisodeConfig) -> Floats:
    """Return how ambiguous each person is to a whole group."""
    thresholds = iou_thresholds(rules.reward.iou)
    truth, ignored = (clip_boxes(b, scene.size) for b in (scene.truth, scene.ignore_boxes))
    answers = [clip_boxes(outcome.answer, scene.size) for outcome in group]
    # What is ambiguous to a further rollout is measured on all of them.
    items = sibling_ambiguity([np.zeros((0, 4)), *answers], truth, ignored, thresholds)[0]
    return np.asarray(items.weights[: len(truth)])


def _centred(values: Floats) -> Floats:
    return values - values.mean() if len(values) else values
