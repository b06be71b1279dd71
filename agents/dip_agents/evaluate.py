"""Play a policy on scenes and say how good it is, with intervals, files and paired comparison."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dip_agents.coco_files import add_scene, coco_detections, new_truth
from dip_agents.intervals import (
    METRICS,
    TALLIES,
    Interval,
    Tallies,
    measure,
    paired_difference,
    stack,
)
from dip_agents.policy import Policy
from dip_agents.seeds import derived_seed
from dip_env.actions import Answer, Look
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode, Turn
from dip_env.group import EpisodeGroup
from dip_env.rewards import MIN_GROUP
from dip_env.scenes.base import SceneSource
from dip_wrappers.traces import GroupRecorder, TraceWriter, describe_source


@dataclass(frozen=True)
class EvalResult:
    """What an evaluation found.

    Args:
        metrics: an interval for each name in ``intervals.METRICS``.
        tallies: sums per scene, each (S,), for paired comparison.
        scene_indices: the scenes, in the order of the tallies.
        group_size: rollouts per scene.
        look_reference: what the look term was measured against, ``siblings`` or ``prior``.
        seed: seed of the policy's randomness.
        config: the rules that were played.
    """

    metrics: dict[str, Interval]
    tallies: Tallies
    scene_indices: tuple[int, ...]
    group_size: int
    look_reference: str
    seed: int
    config: EpisodeConfig

    @property
    def n(self) -> int:
        """Number of scenes."""
        return len(self.scene_indices)

    def to_json(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds: plain values, no NaN, null where undefined.

        Returns:
            Each metric by name, ``n``, ``intervals`` (95 %, low and high), ``undefined`` (the
            reason behind each null) and how it was measured.
        """
        metrics = self.metrics
        return {
            **{name: interval.value for name, interval in metrics.items()},
            "n": self.n,
            "intervals": {name: [m.low, m.high] for name, m in metrics.items()},
            "undefined": {name: m.reason for name, m in metrics.items() if m.reason},
            "interval_level": 0.95,
            "interval_method": "bootstrap over scenes, percentile",
            "iou_threshold": 0.5,
            "group_size": self.group_size,
            "episodes": self.n * self.group_size,
            "look_reference": self.look_reference,
            "seed": self.seed,
            "scene_indices": list(self.scene_indices),
            "config": asdict(self.config),
        }


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
        last: the last turn of each member, which holds its matches and terms.

    Returns:
        A number for each name in ``intervals.TALLIES``, summed over the members.
    """
    sums = dict.fromkeys(TALLIES, 0.0)
    for episode, turn in zip(group.episodes, last, strict=True):
        outcome, matches = episode.outcome, turn.info["matches"]
        turns = outcome.segments_per_turn
        counted = {
            "tp": len(matches.pred),
            "fp": len(matches.unmatched_pred),
            "fn": len(matches.unmatched_truth),
            "boxes": len(outcome.answer),
            "truth": len(group.scene.truth),
            "looks": sum(isinstance(s, Look) for segments in turns for s in segments or ()),
            "parse_failures": sum(segments is None for segments in turns),
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
    on_batch: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Play a policy on scenes and measure it.

    Args:
        policy: who acts.
        source: where the scenes come from.
        indices: which scenes, each at most once.
        config: the rules.
        group_size: rollouts per scene; from three on, the look term reads the siblings.
        batch_size: most observations handed to the policy at once.
        out: folder for ``metrics.json``, ``detections.json`` (the first rollout of each scene),
            ``truth.json`` and ``traces/``; nothing is written without it.
        seed: seed of the policy's randomness and of the bootstrap.
        on_batch: called with (scenes done, scenes in all) after each batch.

    Returns:
        The metrics with intervals, and the sums per scene behind them.

    Raises:
        ValueError: for a repeated index or a size under 1.
    """
    if len(set(indices)) != len(indices):
        raise ValueError("indices: expected each scene at most once, got a repeated index")
    if group_size < 1 or batch_size < 1:
        raise ValueError(
            f"group_size, batch_size: expected numbers >= 1, got {group_size}, {batch_size}"
        )
    folder = None if out is None else Path(out)
    writer = (
        None if folder is None else TraceWriter(folder / "traces", source=describe_source(source))
    )
    sums: list[dict[str, float]] = []
    detections: list[dict[str, Any]] = []
    truth = new_truth()
    try:
        for chunk in _chunks(indices, max(1, batch_size // group_size)):
            groups = [EpisodeGroup(source[i], config, group_size, scene_index=i) for i in chunk]
            ends = play(policy, groups, batch_size=batch_size, seed=seed, writer=writer)
            for index, group, last in zip(chunk, groups, ends, strict=True):
                sums.append(tally(group, last))
                first = group.episodes[0]
                boxes = first.outcome.answer
                detections += coco_detections(index, boxes, answer_scores(first))
                add_scene(truth, index, group.scene)
            if on_batch is not None:
                on_batch(len(sums), len(indices))
    finally:
        if writer is not None:
            writer.close()
    tallies = stack(sums)
    result = EvalResult(
        metrics=measure(tallies, seed=seed),
        tallies=tallies,
        scene_indices=tuple(indices),
        group_size=group_size,
        look_reference="siblings" if group_size >= MIN_GROUP else "prior",
        seed=seed,
        config=config,
    )
    if folder is not None:
        _write_json(folder / "metrics.json", result.to_json())
        _write_json(folder / "detections.json", detections)
        _write_json(folder / "truth.json", truth)
    return result


def paired_gain(before: EvalResult, after: EvalResult, *, seed: int = 0) -> dict[str, Interval]:
    """Compare two evaluations of the same scenes.

    Args:
        before: the first.
        after: the second.
        seed: seed of the bootstrap.

    Returns:
        For each metric, after minus before with its 95 % interval, resampling scenes in pairs.

    Raises:
        ValueError: when the scenes differ.
    """
    if before.scene_indices != after.scene_indices:
        raise ValueError("paired_gain: expected the same scenes in the same order, got others")
    return paired_difference(before.tallies, after.tallies, seed=seed)


def show(interval: Interval, *, sign: bool = False) -> str:
    """Print an interval in one line, such as ``0.512 [0.430, 0.594]``."""
    form = "+.3f" if sign else ".3f"
    if interval.value is None:
        return f"undefined: {interval.reason}"
    if interval.low is None or interval.high is None:
        return format(interval.value, form)
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"


def print_results(results: Mapping[str, EvalResult], console: Console | None = None) -> None:
    """Print evaluations side by side; two of the same scenes also get their paired gain.

    Args:
        results: evaluations by name, in the order of the columns.
        console: where to, standard output by default.
    """
    names = list(results)
    gain = None
    if len(names) == 2:
        first, second = results.values()
        if first.scene_indices == second.scene_indices:
            gain = paired_gain(first, second)
    table = Table(title="mean [95 % interval over scenes]", title_justify="left")
    table.add_column("metric")
    for name in names:
        table.add_column(f"{name} (n={results[name].n})", justify="right")
    if gain:
        table.add_column(f"{names[1]} - {names[0]}, paired", justify="right")
    for metric in METRICS:
        cells = [show(result.metrics[metric]) for result in results.values()]
        table.add_row(metric, *cells, *([show(gain[metric], sign=True)] if gain else []))
    (console or Console()).print(table)
