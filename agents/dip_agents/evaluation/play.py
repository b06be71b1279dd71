"""Play groups of episodes with a policy and record counters, answers and ground truth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dip_agents.evaluation.coco import CocoTruth, coco_detections
from dip_agents.evaluation.looks import count_looks
from dip_agents.evaluation.scores import COUNTERS
from dip_agents.policies.base import Policy
from dip_agents.runtime.seeds import derived_seed
from dip_env.actions import Answer, Look
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode, Turn
from dip_env.errors import ConfigError
from dip_env.group import EpisodeGroup
from dip_env.scenes.base import Scene
from dip_wrappers.controlled import Control
from dip_wrappers.controls import own_looks
from dip_wrappers.traces import GroupRecorder, TraceWriter


@dataclass(frozen=True)
class EvalCondition:
    """The rules and the control that scenes are played under.

    Args:
        config: the rules.
        control: changes what the policy sees or where it looks.
    """

    config: EpisodeConfig
    control: Control = field(default_factory=own_looks)

    def group(self, scene: Scene, group_size: int, index: int) -> EpisodeGroup:
        """Start a group on a scene.

        Args:
            scene: the scene.
            group_size: number of members.
            index: of the scene in its source.

        Returns:
            The group, before its first step.
        """
        start = self.control.episode
        return EpisodeGroup(scene, self.config, group_size, index, new_episode=start)


@dataclass(frozen=True, eq=False)
class EpisodeEnd:
    """How one episode ended.

    Args:
        reward: of the episode.
        truncated_turns: turns whose text a token limit truncated, or left no room for, or that a
            server stopped.
        failures: why turns failed, one reason for each that did.
    """

    reward: float
    truncated_turns: int
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class EvalRecord:
    """The finished groups of one condition, scene by scene.

    Args:
        group_size: rollouts of a scene.
        counters: of each scene, see ``count_scene``.
        truth: the scenes in COCO's format.
        answers: rows of COCO detections, one list for each rollout of a scene.
        failures: how many turns failed for each reason.
    """

    group_size: int
    counters: list[dict[str, float]] = field(default_factory=list)
    truth: CocoTruth = field(default_factory=CocoTruth)
    answers: list[list[dict[str, Any]]] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Begin an empty list for each rollout."""
        self.answers.extend([] for _ in range(self.group_size))

    def add(self, index: int, group: EpisodeGroup, ended: Sequence[EpisodeEnd]) -> None:
        """Add a finished group.

        Args:
            index: of its scene in the source.
            group: after its end.
            ended: how each member ended.
        """
        self.counters.append(count_scene(group, ended))
        self.failures.update(reason for end in ended for reason in end.failures)
        image = self.truth.add(index, group.scene)
        for rows, episode in zip(self.answers, group.episodes, strict=True):
            rows += coco_detections(image, episode.outcome.answer, answer_scores(episode))


def play(
    policy: Policy,
    groups: Sequence[EpisodeGroup],
    *,
    batch_size: int,
    seed: int,
    writer: TraceWriter | None = None,
) -> list[list[EpisodeEnd]]:
    """Play groups to their end, asking the policy about all unfinished episodes together.

    Args:
        policy: who acts.
        groups: fresh groups, each with its scene's index.
        batch_size: most observations handed to the policy at once.
        seed: seed of the policy's randomness.
        writer: where to record every episode, if anywhere.

    Returns:
        How each member of each group ended.

    Raises:
        ConfigError: when the policy returns another number of completions than observations.
    """
    traces = [GroupRecorder(writer, group, seed) for group in groups] if writer else []
    last: list[list[Turn]] = [[] for _ in groups]
    truncated: Counter[tuple[int, int]] = Counter()
    failures: defaultdict[tuple[int, int], list[str]] = defaultdict(list)
    while True:
        live = [
            (g, m, episode)
            for g, group in enumerate(groups)
            for m, episode in enumerate(group.episodes)
            if not episode.done
        ]
        if not live:
            return [
                [
                    EpisodeEnd(turn.reward, truncated[g, m], tuple(failures[g, m]))
                    for m, turn in enumerate(turns)
                ]
                for g, turns in enumerate(last)
            ]
        texts: dict[tuple[int, int], str] = {}
        for start in range(0, len(live), batch_size):
            batch = live[start : start + batch_size]
            seeds = [derived_seed(seed, e.scene_index or 0, m, e.turn) for _, m, e in batch]
            completions = policy.act([e.observation() for _, _, e in batch], seeds)
            if len(completions) != len(batch):
                raise ConfigError(
                    f"policy: expected {len(batch)} completions, got {len(completions)}"
                )
            for (g, m, _), completion in zip(batch, completions, strict=True):
                texts[g, m] = completion.text
                truncated[g, m] += completion.truncated
                if completion.failed:
                    failures[g, m].append(completion.failed)
        for g in sorted({g for g, _, _ in live}):
            group = groups[g]
            actions = [texts.get((g, m)) for m in range(len(group.episodes))]
            last[g] = group.step(actions)
            if traces:
                traces[g].step(actions, last[g])


def count_scene(group: EpisodeGroup, ended: Sequence[EpisodeEnd]) -> dict[str, float]:
    """Sum the counters of a finished group.

    Args:
        group: after its end.
        ended: how each member ended.

    Returns:
        A number for each name in ``COUNTERS``, summed over the members.
    """
    sums = dict.fromkeys(COUNTERS, 0.0) | count_looks(group)
    for episode, end, terms in zip(group.episodes, ended, group.terms, strict=True):
        outcome = episode.outcome
        turns = outcome.segments_per_turn
        counted = {
            "looks": sum(isinstance(s, Look) for segments in turns for s in segments or ()),
            "parse_failures": sum(segments is None for segments in turns),
            "truncated_turns": end.truncated_turns,
            "failed_turns": len(end.failures),
            "turns": len(turns),
            "boxes": len(outcome.answer),
            "unscored_boxes": sum(score is None for score in answer_scores(episode)),
            "truth": len(group.scene.truth),
            "reward": end.reward,
            "episodes": 1,
            **terms.as_dict(),
        }
        for name, value in counted.items():
            sums[name] += value
    return sums


def answer_scores(episode: Episode) -> Sequence[float | None]:
    """Return the score that the policy gave each box, None where it gave none."""
    last = episode.outcome.segments_per_turn[-1]
    if last and isinstance(last[-1], Answer):
        return last[-1].scores
    return ()
