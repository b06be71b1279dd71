"""Play a policy on scenes and measure it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dip_agents.evaluation.files import write_evaluation
from dip_agents.evaluation.play import EvalCondition, EvalRecord, play
from dip_agents.evaluation.result import EvalResult
from dip_agents.evaluation.scores import score_answers
from dip_agents.policies.base import Policy
from dip_agents.runtime.memory import trim_memory
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.formats.coco_json import as_detections, as_truth
from dip_env.group import EpisodeGroup
from dip_env.rewards import look_reference
from dip_env.scenes.base import Scene, SceneSource
from dip_env.scenes.transforms.streamed import stream_scenes
from dip_wrappers.controlled import Control
from dip_wrappers.controls import own_looks
from dip_wrappers.traces import TraceWriter, describe_source


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
    about: Mapping[str, Any] | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> EvalResult:
    """Play a policy on scenes and measure it.

    Metrics of boxes are those of ``dip_env.metrics.unscored``, every rollout an image of its own,
    so that with one rollout a scene ``metrics.json`` can be recomputed from ``truth.json`` and
    ``detections.json``. Both are clipped to the image, as in the reward. The metrics differ from
    the reward's accuracy in one point: a reward never matches an exact repeat of a box.

    Args:
        policy: who acts.
        source: where the scenes come from.
        indices: which scenes, each at most once.
        config: the rules.
        group_size: rollouts per scene; from three on, the look term reads the siblings unless
            ``config.reward.ambiguity`` is ``annotation``.
        batch_size: most observations handed to the policy at once.
        out: folder for ``metrics.json``, ``detections.json`` (the first rollout of each scene),
            ``truth.json`` and ``traces/``; nothing is written without it.
        seed: seed of the policy's randomness and of the bootstrap.
        workers: processes that prepare scenes ahead; the results are the same with any number.
        control: changes what the policy sees or where it looks, see ``dip_wrappers.controls``.
        about: JSON values that ``metrics.json`` keeps beside the source, such as the model's name.
        on_batch: called with (scenes done, scenes in all) after each batch.

    Returns:
        The metrics with intervals, and the per-scene counts behind them.

    Raises:
        ConfigError: for no scenes, a repeated index or a size under 1.
        SceneError: for two scenes with the same image id.
    """
    condition = EvalCondition(config, control or own_looks())
    folder = None if out is None else Path(out)
    writer = None if folder is None else TraceWriter(folder / "traces", describe_source(source))
    try:
        ((record, result),) = _measure(
            policy,
            source,
            indices,
            {condition.control.name: condition},
            group_size=group_size,
            batch_size=batch_size,
            seed=seed,
            workers=workers,
            writer=writer,
            on_batch=on_batch,
        ).values()
    finally:
        if writer is not None:
            writer.close()
    result = replace(result, about={"source": describe_source(source), **(about or {})})
    if folder is not None:
        write_evaluation(folder, record, result)
    return result


def evaluate_conditions(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    conditions: Mapping[str, EvalCondition],
    *,
    batch_size: int = 16,
    seed: int = 0,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
    on_group: Callable[[str, EpisodeGroup], None] | None = None,
) -> dict[str, EvalResult]:
    """Evaluate a policy under several conditions on the same scenes, each scene drawn once.

    Args:
        policy: who acts.
        source: where the scenes come from.
        indices: which scenes, each at most once.
        conditions: by name; all with the same seeds, one rollout a scene.
        batch_size: most observations handed to the policy at once.
        seed: seed of the policy's randomness and of the bootstrap.
        workers: processes that prepare scenes ahead; the results are the same with any number.
        on_batch: called with (scenes done, scenes in all) after each batch.
        on_group: called with the condition's name and each finished group, scenes in order.

    Returns:
        What ``evaluate`` returns for each condition alone, by name.

    Raises:
        ConfigError: for no scenes, a repeated index or a size under 1.
        SceneError: for two scenes with the same image id.
    """
    measured = _measure(
        policy,
        source,
        indices,
        conditions,
        group_size=1,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        on_batch=on_batch,
        on_group=on_group,
    )
    return {name: result for name, (_, result) in measured.items()}


def _measure(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    conditions: Mapping[str, EvalCondition],
    *,
    group_size: int,
    batch_size: int,
    seed: int,
    workers: int,
    writer: TraceWriter | None = None,
    on_batch: Callable[[int, int], None] | None = None,
    on_group: Callable[[str, EpisodeGroup], None] | None = None,
) -> dict[str, tuple[EvalRecord, EvalResult]]:
    """Play every condition on every scene."""
    _check(indices, group_size=group_size, batch_size=batch_size)
    records = {name: EvalRecord(group_size) for name in conditions}
    at_once = max(1, batch_size // group_size)
    stream = stream_scenes(source, indices, workers=workers, ahead=2 * at_once)
    done = 0

    def measure_chunk(chunk: Sequence[int], scenes: Sequence[Scene]) -> None:
        for name, condition in conditions.items():
            groups = [
                condition.group(scene, group_size, index)
                for index, scene in zip(chunk, scenes, strict=True)
            ]
            ends = play(policy, groups, batch_size=batch_size, seed=seed, writer=writer)
            for index, group, ended in zip(chunk, groups, ends, strict=True):
                records[name].add(index, group, ended)
                if on_group is not None:
                    on_group(name, group)

    try:
        for chunk in _chunks(indices, at_once):
            # In a function, so that no scene is held while the next chunk is drawn.
            measure_chunk(chunk, [next(stream) for _ in chunk])
            trim_memory()
            done += len(chunk)
            if on_batch is not None:
                on_batch(done, len(indices))
    finally:
        stream.close()  # ends the workers
    return {
        name: (record, _result(record, conditions[name], indices, seed))
        for name, record in records.items()
    }


def _check(indices: Sequence[int], **sizes: int) -> None:
    """Raise ConfigError for scenes or sizes that cannot be evaluated."""
    if not len(indices):
        raise ConfigError("indices: expected at least one scene, got none")
    for index, count in Counter(indices).items():
        if count > 1:
            raise ConfigError(
                f"indices: expected each scene at most once, got {index} {count} times"
            )
    for name, size in sizes.items():
        if size < 1:
            raise ConfigError(f"{name}: expected at least 1, got {size}")


def _result(
    record: EvalRecord, condition: EvalCondition, indices: Sequence[int], seed: int
) -> EvalResult:
    """Score one condition."""
    # Read from what is written, so that scoring the files gives the same metrics.
    truth = as_truth(record.truth.data, "truth")
    boxes = [as_detections(rows, truth, "detections") for rows in record.answers]
    return EvalResult(
        score=score_answers(record.counters, truth, boxes),
        scene_indices=tuple(indices),
        group_size=record.group_size,
        look_reference=look_reference(condition.config, record.group_size),
        seed=seed,
        config=condition.config,
        control=condition.control.name,
        failures=dict(record.failures.most_common()),
    )


def _chunks(indices: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
