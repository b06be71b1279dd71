"""Rewards for TRL: finds the groups among the rollouts, and scores them as ``EpisodeGroup`` does.

TRL puts the rollouts of a prompt in a row, which may continue from one process into the next, and
passes a reward function those of its own process; this module gathers the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dip_agents.adapters.task import Task
from dip_agents.adapters.trl.environment import DIPEnvironment
from dip_agents.adapters.trl.sampling import check_banned
from dip_agents.runtime.optional import require_extra
from dip_agents.tokens.chat import generation_prompt
from dip_env.errors import ConfigError
from dip_env.rewards import Score, score_group
from dip_wrappers.thoughts import open_think

require_extra("trl", "trl")
# The extra brings it, too.
from accelerate import PartialState
from accelerate.utils import gather_object

if TYPE_CHECKING:
    from trl import GRPOConfig

T = TypeVar("T")
LogMetric = Callable[[str, float], None]
"""TRL's logging function, an argument of every reward function."""


def dip_rewards(task: Task, args: GRPOConfig) -> Callable[..., list[float]]:
    """Return the reward function for ``environment_factory``.

    Args:
        task: scenes and rules, those of the environments.
        args: of the trainer, which hold the group size.

    Returns:
        A function that scores the environments of a batch; a rollout that ended without an answer
        counts as truncated.
    """

    def dip_reward(
        environments: Sequence[DIPEnvironment], log_metric: LogMetric, **_: Any
    ) -> list[float]:
        episodes = [environment.episode for environment in environments]
        for episode in episodes:
            if not episode.done:
                episode.stop()
        refused = sum(episode.looks_without_room for episode in episodes)
        log_metric("looks_without_room", refused / len(episodes))
        scores = _by_group(
            args,
            [episode.scene_index for episode in episodes],
            [episode.outcome for episode in episodes],
            lambda scene, outcomes: score_group(outcomes, task.source[scene], task.config),
        )
        return _log_rewards(task, scores, log_metric)

    return dip_reward


def single_pass_reward(task: Task, processor: Any, args: GRPOConfig) -> Callable[..., list[float]]:
    """Return the reward function for rows of ``trl_dataset(..., "single_pass")``, without tools.

    Args:
        task: scenes and rules; with ``max_turns=1`` the prompt states that there is one message.
        processor: of a Qwen-VL model; a think that its template opens is put before each text.
        args: of the trainer, which hold the group size.

    Returns:
        A function that scores completions with looks and answer in one message each; one without
        an answer counts as truncated.

    Raises:
        ConfigError: when the processor would resize the task's images, or when a placeholder
            could be sampled.
    """
    task.check_processor(processor)
    check_banned(processor, args)
    opened = open_think(generation_prompt(processor))

    def play(scene: int, texts: list[str]) -> list[Score]:
        return task.play(scene, [[text] for text in texts]).scores

    def dip_single_pass(
        completions: Sequence[Any], scene: Sequence[int], log_metric: LogMetric, **_: Any
    ) -> list[float]:
        texts = [opened + _text(completion) for completion in completions]
        scores = _by_group(args, scene, texts, play)
        return _log_rewards(task, scores, log_metric)

    return dip_single_pass


def _by_group(
    args: GRPOConfig,
    scenes: Sequence[int | None],
    own: Sequence[T],
    score: Callable[[Any, list[T]], list[Score]],
) -> list[Score]:
    """Score this process's rollouts among their siblings of all processes."""
    rows = gather_object(list(zip(scenes, own, strict=True)))
    first = PartialState().process_index * len(own)
    size = _group_size(args, [scene for scene, _ in rows])
    scores: list[Score] = []
    for start in range(first - first % size, first + len(own), size):
        group = rows[start : start + size]
        scores += score(group[0][0], [item for _, item in group])
    return scores[first % size :][: len(own)]


def _group_size(args: GRPOConfig, scenes: Sequence[int | None]) -> int:
    """Return how many rollouts of a scene come in a row, in training or in evaluation."""
    sizes = (args.num_generations, args.num_generations_eval or args.num_generations)
    # The larger first: groups of eight on a scene each would pass for groups of four, too.
    for size in sorted(sizes, reverse=True):
        starts = range(0, len(scenes), size)
        if not len(scenes) % size and all(len(set(scenes[i : i + size])) == 1 for i in starts):
            return size
    raise ConfigError(
        f"rollouts: expected {sizes[0]} in a row on one scene, {sizes[1]} in evaluation, "
        f"got scenes {list(scenes)}"
    )


def _log_rewards(task: Task, scores: Sequence[Score], log_metric: LogMetric) -> list[float]:
    """Log every term and return the totals."""
    for name in task.config.reward.weights:
        log_metric(f"reward/{name}", sum(s.terms.as_dict()[name] for s in scores) / len(scores))
    return [score.terms.total(task.config.reward.weights) for score in scores]


def _text(completion: Any) -> str:
    """Return the policy's text in a single pass."""
    if isinstance(completion, str):
        return completion
    (message,) = completion
    if extra := sorted(set(message) - {"role", "content"}):
        raise ConfigError(
            f"completion: expected plain text, got {extra} split off; "
            "set response_template = None on the tokenizer"
        )
    return str(message["content"])
