"""Run an experiment: one policy on the same scenes under every condition.

All conditions play the same scenes with the same seeds, so differences are paired. Conditions are
compared by detection metrics rather than by reward: the look term cannot be earned where no look is
allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from dip_agents.evaluation.evaluator import evaluate_conditions
from dip_agents.evaluation.looks import LookCoverage, look_coverage_of
from dip_agents.evaluation.result import EvalResult
from dip_agents.experiments.kinds import ExperimentKind, Variation, left_out, own_positions
from dip_agents.experiments.measures import (
    compared,
    gain_and_harm,
    mean_look_coverage,
    scene_f1,
)
from dip_agents.experiments.report import ConditionReport, ExperimentReport, defined
from dip_agents.policies.base import Policy, RememberingPolicy
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.group import EpisodeGroup
from dip_env.metrics.intervals import bootstrap, paired
from dip_env.scenes.base import SceneSource


@dataclass(frozen=True, eq=False)
class PlayedConditions:
    """The episodes of every condition, measured scene by scene.

    Args:
        results: an evaluation of each condition, by name.
        look_coverages: one entry per scene for each condition, by name.
    """

    results: Mapping[str, EvalResult]
    look_coverages: Mapping[str, Sequence[LookCoverage]]


def run_experiment(
    kind: ExperimentKind,
    policy_for: Callable[[EpisodeConfig], Policy],
    source: SceneSource,
    indices: Sequence[int],
    variations: Sequence[Variation],
    *,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> ExperimentReport:
    """Play every variation on the same scenes with the same seeds, and compare them.

    Args:
        kind: which experiment.
        policy_for: returns the policy that plays under given rules; called once for each.
        source: where the scenes come from.
        indices: which scenes, each at most once.
        variations: from the function ``variations`` or custom ones; the first is the reference.
        seed: of the policy's randomness and of the bootstrap.
        batch_size: most observations that the policy gets at once.
        workers: processes that prepare scenes ahead.
        on_batch: called with (scenes done, scenes in all) after each batch of each policy.

    Returns:
        The report.

    Raises:
        ConfigError: for no scenes, two variations of one name, or a variation whose ``without``
            names none of the others.
    """
    played = play_variations(
        policy_for,
        source,
        indices,
        variations,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        on_batch=on_batch,
    )
    reference, names = variations[0], [one.name for one in variations]
    rules = reference.condition.config
    missing = left_out(kind, rules)
    return ExperimentReport(
        experiment=kind,
        reference=reference.name,
        conditions={
            one.name: condition_report(one, reference.name, played, seed) for one in variations
        },
        own_positions=own_positions(rules),
        left_out={what: why for what, why in missing.items() if what not in names},
        seed=seed,
        scene_indices=tuple(indices),
        config=rules,
    )


def play_variations(
    policy_for: Callable[[EpisodeConfig], Policy],
    source: SceneSource,
    indices: Sequence[int],
    variations: Sequence[Variation],
    *,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> PlayedConditions:
    """Play every variation and measure what its looks cover; arguments of ``run_experiment``.

    Variations that one policy object plays share each drawn scene, and their common beginnings.

    Returns:
        The evaluations and the look coverage, scene by scene.

    Raises:
        ConfigError: as ``run_experiment``.
    """
    check_variations(variations)
    policies = {rules: policy_for(rules) for rules in _rules_of(variations)}
    players = {id(policy): policy for policy in policies.values()}
    results: dict[str, EvalResult] = {}
    coverages: dict[str, list[LookCoverage]] = {one.name: [] for one in variations}

    def on_group(name: str, group: EpisodeGroup) -> None:
        coverages[name].append(look_coverage_of(group.episodes[0]))

    for key, policy in players.items():
        own = [one for one in variations if id(policies[one.condition.config]) == key]
        results |= evaluate_conditions(
            # Most conditions begin alike: equal observations get equal completions at no cost.
            RememberingPolicy(policy),
            source,
            indices,
            {one.name: one.condition for one in own},
            batch_size=batch_size,
            seed=seed,
            workers=workers,
            on_batch=on_batch,
            on_group=on_group,
        )
    return PlayedConditions(results, coverages)


def condition_report(
    variation: Variation, reference: str, played: PlayedConditions, seed: int
) -> ConditionReport:
    """Return what one condition found.

    Args:
        variation: that was played.
        reference: name of the variation that it is compared with.
        played: all of them.
        seed: of the bootstrap.

    Returns:
        Its report.
    """
    name, results = variation.name, played.results
    result = results[name]
    differences, split = None, None
    if name != reference:
        before, after = compared(results[reference].score), compared(result.score)
        differences = defined(paired(before, after, result.n, seed=seed))
    if variation.without is not None:
        f1 = (scene_f1(results[one].score) for one in (variation.without, name))
        split = gain_and_harm(*f1, seed=seed)
    return ConditionReport(
        series=variation.series,
        position=variation.position,
        without=variation.without,
        metrics=defined(bootstrap(compared(result.score), result.n, seed=seed)),
        looks=defined(mean_look_coverage(played.look_coverages[name], seed=seed)),
        against_reference=differences,
        gain_harm=split,
    )


def check_variations(variations: Sequence[Variation]) -> None:
    """Raise ConfigError unless there is something to compare and every name is known once."""
    names = [one.name for one in variations]
    if not names:
        raise ConfigError("variations: expected at least one, got none")
    for one in variations:
        if names.count(one.name) > 1:
            raise ConfigError(f"variations: expected one named {one.name!r}, got several")
        if one.without is not None and one.without not in names:
            raise ConfigError(
                f"without: expected one of {names} for {one.name!r}, got {one.without!r}"
            )


def _rules_of(variations: Sequence[Variation]) -> list[EpisodeConfig]:
    return list(dict.fromkeys(one.condition.config for one in variations))
