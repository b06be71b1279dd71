"""Rows for verl: the scene of a rollout, and the rewards of the rollouts of a row as a group."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from dip_agents.adapters.task import Task
from dip_agents.runtime.optional import require_extra
from dip_env.errors import ConfigError
from dip_env.prompts import task_prompt

require_extra("pyarrow", "verl")

from pyarrow import Table, parquet

AGENT_NAME = "dip_crowd"


def write_dataset(path: Path | str, indices: Sequence[int], **task: Any) -> None:
    """Write a parquet file for verl's ``data.train_files``, a row for each scene.

    The rows hold no image, since the loop starts the episode itself; verl logs the prompt.

    Args:
        path: of the file.
        indices: of the scenes in the source, at least one.
        **task: scenes and rules as for ``Task``, JSON values only.

    Raises:
        ConfigError: for no indices, an unknown keyword or a value out of range.
        IndexError: for a scene that the source does not have.
        TypeError: for a value that JSON cannot hold.
    """
    if not len(indices):
        raise ConfigError("indices: expected at least one scene, got none")
    keywords = json.dumps(task)
    rows = []
    for index, scene in enumerate(indices):
        episode = _opened(keywords).episode(scene)
        text = task_prompt(episode.view, episode.config, episode.grammar, episode.scene.target)
        rows.append(
            {
                "data_source": AGENT_NAME,
                "agent_name": AGENT_NAME,
                "prompt": [{"role": "user", "content": text}],
                "reward_model": {"style": "rule", "ground_truth": ""},
                "extra_info": {"index": index, "scene": episode.scene_index, "task": keywords},
            }
        )
    parquet.write_table(Table.from_pylist(rows), path)


def task_and_scene(extra_info: Mapping[str, Any] | None) -> tuple[Task, int]:
    """Return the task and scene of a row; the task is opened once for all rows.

    Args:
        extra_info: of the row.

    Raises:
        ConfigError: for a row that ``write_dataset`` did not write.
    """
    info = extra_info or {}
    if not {"scene", "task"} <= set(info):
        raise ConfigError(f"extra_info: expected scene and task, got {sorted(info)}")
    return _opened(info["task"]), info["scene"]


def group_rewards(extra_info: Mapping[str, Any], actions: Sequence[Sequence[str]]) -> list[float]:
    """Score the rollouts of a row as one group, for code that sees all of them.

    Args:
        extra_info: of the row.
        actions: ``extra_fields["actions"]`` of each of its G rollouts.

    Returns:
        G rewards; with three rollouts or more the look term is measured on siblings.
    """
    task, scene = task_and_scene(extra_info)
    group = task.play(scene, actions)
    return [terms.total(task.config.reward.weights) for terms in group.terms]


@lru_cache(maxsize=8)
def _opened(keywords: str) -> Task:
    return Task(**json.loads(keywords))
