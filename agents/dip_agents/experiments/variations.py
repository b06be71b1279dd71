"""Experiments on looking: one policy on the same scenes with one thing changed step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from dip_agents.evaluation.play import EvalCondition
from dip_agents.evaluation.result import EvalResult
from dip_agents.experiments.conditions import (
    HOW_MEASURED,
    check_conditions,
    condition_values,
    gain_harm_values,
    play_conditions,
    to_plain,
)
from dip_agents.experiments.looking import NONE, OWN, usual_controls
from dip_agents.experiments.measures import (
    LookCoverage,
    compared,
    gain_and_harm,
    scene_f1,
)
from dip_agents.policies.base import Policy
from dip_env.config import CoordinateFormat, EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.metrics.intervals import paired
from dip_env.scenes.base import SceneSource
from dip_wrappers.controlled import Control
from dip_wrappers.controls import coarse_overview, first_regions, own_looks, resized_looks

ExperimentKind = Literal["look-budget", "controls", "coordinates", "resolution"]
KINDS: tuple[ExperimentKind, ...] = get_args(ExperimentKind)
SINGLE_PASS = "single pass"
FACTORS = (0.5, 0.7, 1.4, 2.0)
"""Of regions' sides."""
DETAIL = (0.125, 0.25, 0.5, 0.75)
"""Of the overview's sides."""


@dataclass(frozen=True)
class Variation:
    """One way to play.

    Args:
        name: of the condition, different from all others.
        series: what belongs on one line of a plot.
        place: on the axis of its series; None where there is no order.
        condition: rules and control.
        without: name of the variation that differs in having no looks, to say what looks bring.
    """

    name: str
    series: str
    place: float | None
    condition: EvalCondition
    without: str | None = None


def variations(
    kind: ExperimentKind,
    rules: EpisodeConfig,
    *,
    view_sizes: Sequence[int] = (),
    tiles: bool = False,
    seed: int = 0,
) -> list[Variation]:
    """Return the ways to play of an experiment; the first is what the others are compared with.

    ``look-budget``: fewer looks, down to none; the single pass, in which looks and answer share one
    action and no crop is seen; only the first regions of each look; and regions made larger or
    smaller. ``controls``: those of ``usual_controls``. ``coordinates``: what printed numbers mean,
    with and without looks. ``resolution``: how much the overview shows, with and without looks, and
    so how much is left for a look to show. What is ``left_out`` has a reason.

    Args:
        kind: which experiment.
        rules: that the policy plays by otherwise.
        view_sizes: longest sides of the overview, in pixels, for ``resolution``, for policies that
            take any; without them the overview stays as large as it is and loses details.
        tiles: let the oracle of ``controls`` look at tiles, for a policy that was taught so.
        seed: of random places.

    Returns:
        At least two, their names all different.

    Raises:
        ConfigError: for rules without looks, a size that no overview can have, or ``coordinates``
            of rules whose prompt does not say what printed numbers mean.
    """
    for name, least in (("max_looks", 1), ("max_turns", 2)):
        if (value := getattr(rules, name)) < least:
            raise ConfigError(f"{name}: expected at least {least} for an experiment, got {value}")
    if kind == "coordinates" and rules.minimal_prompt:
        raise ConfigError(
            "minimal_prompt: expected False for coordinates, got True; the minimal prompt is the "
            "same for both formats, so a policy cannot tell them apart (use minimal_prompt=False "
            "with a model that was trained on full prompts)"
        )
    own = Variation(OWN, "own", None, EvalCondition(rules), NONE)
    if kind == "look-budget":
        return [own, *_budget(rules)]
    if kind == "controls":
        controls = usual_controls(rules, seed, tiles=tiles)
        others = [
            Variation(c.name, "control", None, EvalCondition(rules, c), NONE) for c in controls
        ]
        return [
            own,
            Variation(NONE, "control", None, EvalCondition(replace(rules, max_looks=0))),
            *others,
        ]
    return _coordinates(rules) if kind == "coordinates" else _resolution(rules, view_sizes)


def left_out(kind: ExperimentKind, rules: EpisodeConfig) -> dict[str, str]:
    """Return the ways to play that an experiment cannot ask for under given rules, and why.

    Args:
        kind: which experiment.
        rules: of its first variation.

    Returns:
        A reason by the name of what is left out.
    """
    if kind == "look-budget" and rules.minimal_prompt:
        return {SINGLE_PASS: "the minimal prompt does not ask for look and answer in one action"}
    return {}


def _budget(rules: EpisodeConfig) -> list[Variation]:
    found = []
    for looks in range(rules.max_looks):
        name = NONE if looks == 0 else f"{looks} look{'s' if looks > 1 else ''} at most"
        condition = EvalCondition(replace(rules, max_looks=looks))
        against = NONE if looks else None
        found.append(Variation(name, "looks that are allowed", looks, condition, against))
    if SINGLE_PASS not in left_out("look-budget", rules):
        condition = EvalCondition(replace(rules, max_turns=1))
        found.append(Variation(SINGLE_PASS, SINGLE_PASS, None, condition, NONE))
    for k in range(1, rules.max_regions):
        control = first_regions(k)
        found.append(
            Variation(control.name, "regions of a look", k, EvalCondition(rules, control), NONE)
        )
    for factor in FACTORS:
        control = resized_looks(factor)
        found.append(
            Variation(control.name, "size of regions", factor, EvalCondition(rules, control), NONE)
        )
    return found


def _coordinates(rules: EpisodeConfig) -> list[Variation]:
    found: list[Variation] = []
    # The policy's own format first: the others are compared with it.
    for form in sorted(get_args(CoordinateFormat), key=lambda f: f != rules.coordinate_format):
        found += _with_and_without(form, None, replace(rules, coordinate_format=form), own_looks())
    return found


def _resolution(rules: EpisodeConfig, view_sizes: Sequence[int]) -> list[Variation]:
    found = _with_and_without(f"{rules.view_size} pixels", rules.view_size, rules, own_looks())
    for size in dict.fromkeys(view_sizes):
        if size != rules.view_size:
            larger = replace(rules, view_size=size)
            found += _with_and_without(f"{size} pixels", size, larger, own_looks())
    if not view_sizes:
        for side in (round(rules.view_size * share) for share in DETAIL):
            found += _with_and_without(f"{side} pixels", side, rules, coarse_overview(side))
    return found


def _with_and_without(
    name: str, place: float | None, rules: EpisodeConfig, control: Control
) -> list[Variation]:
    none = Variation(
        f"{name}, {NONE}", NONE, place, EvalCondition(replace(rules, max_looks=0), control)
    )
    return [Variation(f"{name}, {OWN}", OWN, place, EvalCondition(rules, control), none.name), none]


OWN_PLACES: Mapping[str, Callable[[EpisodeConfig], float]] = {
    "looks that are allowed": lambda rules: rules.max_looks,
    "regions of a look": lambda rules: rules.max_regions,
    "size of regions": lambda rules: 1.0,
}
"""Where own looks lie on the axis of a series."""


def run_experiment(
    kind: ExperimentKind,
    policy_for: Callable[[EpisodeConfig], Policy],
    source: SceneSource,
    indices: Sequence[int],
    ways: Sequence[Variation],
    *,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Play every variation on the same scenes with the same seeds.

    Args:
        kind: which experiment.
        policy_for: who acts under given rules; asked once for each.
        source: where the scenes come from.
        indices: which scenes, each at most once.
        ways: the variations, from ``variations`` or of one's own; the first is compared with.
        seed: of the policy's randomness and of the bootstrap.
        batch_size: most observations handed to the policy at once.
        workers: processes that prepare scenes ahead.
        on_batch: called with (scenes done, scenes in all) after each batch of each set of rules.

    Returns:
        Plain values: ``experiment``, ``n``, ``reference``, ``conditions`` (for each its ``series``,
        ``place``, ``metrics``, ``against_reference``, where its ``looks`` landed, each with value,
        low and high, and ``gain_harm`` against the condition ``without`` looks, where it names
        one), what was ``left_out`` and why, and how it was measured.

    Raises:
        ConfigError: for no scenes, two variations of one name, or one to compare with that is not
            among them.
    """
    names = [way.name for way in ways]
    check_conditions("experiment", names, indices)
    for way in ways:
        if way.without is not None and way.without not in names:
            raise ConfigError(
                f"without: expected one of {names} for {way.name!r}, got {way.without!r}"
            )
    results: dict[str, EvalResult] = {}
    look_coverages: dict[str, tuple[LookCoverage, ...]] = {}
    for rules in dict.fromkeys(way.condition.config for way in ways):
        found, landed = play_conditions(
            policy_for(rules),
            source,
            indices,
            {way.name: way.condition for way in ways if way.condition.config == rules},
            seed=seed,
            batch_size=batch_size,
            workers=workers,
            on_batch=on_batch,
        )
        results |= found
        look_coverages |= landed
    first = ways[0].name
    before = compared(results[first].score)
    conditions: dict[str, dict[str, Any]] = {}
    for way in ways:
        result = results[way.name]
        condition: dict[str, Any] = {
            "series": way.series,
            "place": way.place,
            "without": way.without,
        }
        condition |= condition_values(result, look_coverages[way.name], seed)
        if way.name != first:
            values = compared(result.score)
            condition["against_reference"] = to_plain(paired(before, values, result.n, seed=seed))
        if way.without is not None:
            f1 = (scene_f1(results[name].score) for name in (way.without, way.name))
            condition["gain_harm"] = gain_harm_values(gain_and_harm(*f1, seed=seed))
        conditions[way.name] = condition
    own = ways[0].condition.config
    return {
        "experiment": kind,
        "n": len(indices),
        "reference": first,
        "conditions": conditions,
        "own_places": {series: place(own) for series, place in OWN_PLACES.items()},
        "left_out": {what: why for what, why in left_out(kind, own).items() if what not in names},
        **HOW_MEASURED,
        "seed": seed,
        "scene_indices": list(indices),
        "config": asdict(own),
    }
