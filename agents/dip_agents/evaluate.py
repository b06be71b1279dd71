"""Play a policy on scenes and measure it; the result, its table and comparison are re-exported."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dip_agents.coco_files import CocoTruth, coco_detections
from dip_agents.eval_result import EvalResult, paired_gain, print_results, show
from dip_agents.eval_score import TALLIES, score_answers
from dip_agents.policy import Policy
from dip_agents.seeds import derived_seed
from dip_env.actions import Answer, Look
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode, Turn
from dip_env.group import EpisodeGroup
from dip_env.metrics.coco_json import as_detections, as_truth
from dip_env.metrics.intervals import bootstrap
from dip_env.rewards import look_reference
from dip_env.scenes.base import SceneSource
from dip_env.scenes.streamed import stream_scenes
from dip_wrappers.controlled import Control
from dip_wrappers.controls import own_looks
from dip_wrappers.traces import GroupRecorder, TraceWriter, describe_source

__all__ = [
    "EvalResult",
    "answer_scores",
    "evaluate",
    "paired_gain",
    "play",
    "print_results",
    "show",
    "tally",
]


def play(
    policy: Policy,
    groups: Sequence[EpisodeGroup],
    *,
    batch_size: int,
    seed: int,
    writer: TraceWriter | None = None,
) -> list[list[Turn]]:
    """Play groups to their end, asking the policy about all unfinished episodes together.

    Args:
        policy: who acts.
        groups: fresh groups, each with its scene's index.
        batch_size: most observations handed to the policy at once.
        seed: seed of the policy's randomness.
        writer: where to record every episode, if anywhere.

    Returns:
        The last turn of each member of each group, with its reward and, in ``info``, the truth.

    Raises:
        ValueError: when the policy returns another number of completions than observations.
    """
    traces = [GroupRecorder(writer, group, seed) for group in groups] if writer else []
    last: list[list[Turn]] = [[] for _ in groups]
    while True:
        live = [
            (g, m, episode)
            for g, group in enumerate(groups)
            for m, episode in enumerate(group.episodes)
            if not episode.done
        ]
        if not live:
            return last
        texts: dict[tuple[int, int], str] = {}
        for start in range(0, len(live), batch_size):
            batch = live[start : start + batch_size]
            seeds = [derived_seed(seed, e.scene_index or 0, m, e.turn) for _, m, e in batch]
            completions = policy.act([e.observation() for _, _, e in batch], seeds)
            if len(completions) != len(batch):
                raise ValueError(
                    f"policy: expected {len(batch)} completions, got {len(completions)}"
                )
            texts |= {(g, m): c.text for (g, m, _), c in zip(batch, completions, strict=True)}
        for g in sorted({g for g, _, _ in live}):
            group = groups[g]
            actions = [texts.get((g, m)) for m in range(len(group.episodes))]
            last[g] = group.step(actions)
            if traces:
                traces[g].step(actions, last[g])


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, allow_nan=False, indent=2) + "\n")


def tally(group: EpisodeGroup, last: Sequence[Turn]) -> dict[str, float]:
    """Sum up what the members of a finished group did.

    Args:
        group: after its end.
        last: the last turn of each member, which holds its reward and terms.

    Returns:
        A number for each name in ``eval_score.TALLIES``, summed over the members.
    """
    sums = dict.fromkeys(TALLIES, 0.0)
    for episode, turn in zip(group.episodes, last, strict=True):
        outcome = episode.outcome
        turns = outcome.segments_per_turn
        counted = {
            "looks": sum(isinstance(s, Look) for segments in turns for s in segments or ()),
            "parse_failures": sum(segments is None for segments in turns),
            "boxes": len(outcome.answer),
            "unscored_boxes": sum(score is None for score in answer_scores(episode)),
            "truth": len(group.scene.truth),
            "reward": turn.reward,
            "episodes": 1,
            **turn.info["reward_terms"],
        }
        for name in TALLIES:
            sums[name] += counted[name]
    return sums


def answer_scores(episode: Episode) -> Sequence[float | None]:
    """Return the scores the policy gave its boxes, None each where it gave none."""
    last = episode.outcome.segments_per_turn[-1]
    if last and isinstance(last[-1], Answer):
        return last[-1].scores
    return ()


def evaluate(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    config: EpisodeConfig,
    *,
    group_size: int = 1,
    batch_size: int = 16,
    out: str | Path | None = None,
    seed: int = 0,
    workers: int = 0,
    control: Control | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_group: Callable[[EpisodeGroup], None] | None = None,
) -> EvalResult:
    """Play a policy on scenes and measure it.

    Metrics of boxes are those of ``dip_env.metrics.unscored``, every rollout an image of its own,
    so that with one rollout a scene ``metrics.json`` can be had again from ``truth.json`` and
    ``detections.json``. Both are clipped to the image, as in the reward. They
    differ from the reward's accuracy in one point: a reward never matches an exact repeat of a box.

    Args:
        policy: who acts.
        source: where the scenes come from.
        indices: which scenes, each at most once.
        config: the rules.
        group_size: rollouts per scene; from three on, the look term reads the siblings unless
            ``config.reward.ambiguity`` asks for the annotation.
        batch_size: most observations handed to the policy at once.
        out: folder for ``metrics.json``, ``detections.json`` (the first rollout of each scene),
            ``truth.json`` and ``traces/``; nothing is written without it.
        seed: seed of the policy's randomness and of the bootstrap.
        workers: processes that prepare scenes ahead; the results are the same with any number.
        control: changes what the policy sees or where it looks, see ``dip_wrappers.controls``.
        on_batch: called with (scenes done, scenes in all) after each batch.
        on_group: called with each finished group, in the order of the scenes.

    Returns:
        The metrics with intervals, and the score behind them.

    Raises:
        ValueError: for a repeated index or a size under 1.
        SceneError: for two scenes with the same image id.
    """
    if len(set(indices)) != len(indices):
        raise ValueError("indices: expected each scene at most once, got a repeated index")
    if group_size < 1 or batch_size < 1:
        raise ValueError(
            f"group_size, batch_size: expected numbers >= 1, got {group_size}, {batch_size}"
        )
    control = control or own_looks()
    folder = None if out is None else Path(out)
    writer = (
        None if folder is None else TraceWriter(folder / "traces", source=describe_source(source))
    )
    sums: list[dict[str, float]] = []
    truth_file = CocoTruth()
    answers: list[list[dict[str, Any]]] = [[] for _ in range(group_size)]
    at_once = max(1, batch_size // group_size)
    scenes = stream_scenes(source, indices, workers=workers, ahead=2 * at_once)
    try:
        for chunk in _chunks(indices, at_once):
            groups = [
                EpisodeGroup(next(scenes), config, group_size, i, new_episode=control.episode)
                for i in chunk
            ]
            ends = play(policy, groups, batch_size=batch_size, seed=seed, writer=writer)
            for index, group, last in zip(chunk, groups, ends, strict=True):
                sums.append(tally(group, last))
                place = truth_file.add(index, group.scene)
                for rows, episode in zip(answers, group.episodes, strict=True):
                    rows += coco_detections(place, episode.outcome.answer, answer_scores(episode))
                if on_group is not None:
                    on_group(group)
            if on_batch is not None:
                on_batch(len(sums), len(indices))
    finally:
        scenes.close()  # ends the workers
        if writer is not None:
            writer.close()
    # Read from what is written, so that whoever scores the files finds the same.
    truth = as_truth(truth_file.data, "truth")
    boxes = [as_detections(rows, truth, "detections") for rows in answers]
    score = score_answers(sums, truth, boxes)
    result = EvalResult(
        metrics=bootstrap(score.values, len(indices), seed=seed, reasons=score.reasons()),
        score=score,
        scene_indices=tuple(indices),
        group_size=group_size,
        look_reference=look_reference(config, group_size),
        seed=seed,
        config=config,
        control=control.name,
    )
    if folder is not None:
        _write_json(folder / "metrics.json", result.to_json())
        _write_json(folder / "detections.json", answers[0])
        _write_json(folder / "truth.json", truth_file.data)
    return result
