"""The files of an evaluation: written by ``evaluate``, and read back for comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dip_agents.evaluation.result import EvalResult
from dip_agents.evaluation.scores import COUNTERS, score_answers
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError, SceneError
from dip_env.formats.box_sets import Truth
from dip_env.formats.coco_json import as_detections, as_truth
from dip_env.formats.files import parse_json

if TYPE_CHECKING:
    from dip_agents.evaluation.consensus import ConsensusScore
    from dip_agents.evaluation.play import EvalRecord

METRICS, DETECTIONS, TRUTH, SCENES = "metrics.json", "detections.json", "truth.json", "scenes.json"
CONSENSUS, CONSENSUS_METRICS = "consensus.json", "consensus_metrics.json"
FORMAT = 1
LATER = ("failed_turns", "turns")
"""Counters that older files lack; there they are 0."""


def write_evaluation(folder: Path, record: EvalRecord, result: EvalResult) -> None:
    """Write everything that an evaluation found.

    Args:
        folder: made when missing. ``metrics.json`` holds the metrics, ``truth.json`` and
            ``detections.json`` (the first rollout of each scene) are COCO's, and ``scenes.json``
            holds what else of each scene the metrics are made of.
        record: the answers.
        result: the metrics.
    """
    scenes = {
        "format": FORMAT,
        "counters": {name: [sums[name] for sums in record.counters] for name in COUNTERS},
        "further_rollouts": record.answers[1:],
    }
    _write(folder / METRICS, result.to_json())
    _write(folder / DETECTIONS, record.answers[0])
    _write(folder / TRUTH, record.truth.data)
    _write(folder / SCENES, scenes)


def write_consensus(folder: Path, found: ConsensusScore, truth: Truth) -> None:
    """Write the fused boxes as COCO's detections, for ``truth.json`` beside them, and the metrics.

    Args:
        folder: of the evaluation.
        found: the consensus.
        truth: of the scenes.
    """
    _write(folder / CONSENSUS, found.rows(truth))
    _write(folder / CONSENSUS_METRICS, found.to_json())


def load_evaluation(folder: Path | str) -> EvalResult:
    """Read an evaluation back; its metrics and comparisons are those of the one that was written.

    Args:
        folder: of ``evaluate``.

    Returns:
        The result.

    Raises:
        ConfigError: for a file that is missing or is no evaluation's; names it.
    """
    folder = Path(folder)
    metrics, scenes = _read(folder / METRICS), _read(folder / SCENES)
    truth = as_truth(_read(folder / TRUTH), str(folder / TRUTH))
    answers = [_read(folder / DETECTIONS), *_field(folder / SCENES, scenes, "further_rollouts")]
    columns = _field(folder / SCENES, scenes, "counters")
    n = len(_field(folder / METRICS, metrics, "scene_indices"))
    try:
        columns = {**{name: [0.0] * n for name in LATER}, **columns}
        sums = [{name: columns[name][scene] for name in COUNTERS} for scene in range(n)]
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(
            f"{folder / SCENES}: counters: expected {n} numbers for each of {', '.join(COUNTERS)}"
        ) from error
    config = dict(_field(folder / METRICS, metrics, "config"))
    reward = dict(config.pop("reward", {}))
    return EvalResult(
        score=score_answers(
            sums, truth, [as_detections(rows, truth, str(folder / DETECTIONS)) for rows in answers]
        ),
        scene_indices=tuple(metrics["scene_indices"]),
        group_size=_field(folder / METRICS, metrics, "group_size"),
        look_reference=_field(folder / METRICS, metrics, "look_reference"),
        seed=_field(folder / METRICS, metrics, "seed"),
        config=EpisodeConfig.from_keywords({**config, **reward}),
        control=_field(folder / METRICS, metrics, "control"),
        failures=metrics.get("failures", {}),
        about=_field(folder / METRICS, metrics, "about"),
    )


def _field(path: Path, values: Any, name: str) -> Any:
    if not isinstance(values, dict) or name not in values:
        raise ConfigError(f"{path}: expected field {name!r}, got none")
    return values[name]


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: expected a file of an evaluation: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected JSON, got: {error}") from error
    try:
        return parse_json(text, str(path))
    except SceneError as error:
        raise ConfigError(str(error)) from error


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, allow_nan=False, indent=2) + "\n")
