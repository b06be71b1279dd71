"""Experiments on looking: one policy on the same scenes with one thing changed step by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from dip_agents.eval_play import Arm
from dip_agents.eval_result import EvalResult
from dip_agents.looking import NONE, OWN, usual_controls
from dip_agents.looking_arms import (
    HOW_MEASURED,
    arm_values,
    check_arms,
    gain_harm_values,
    plain,
    play_arms,
)
from dip_agents.looking_measures import (
    Landing,
    compared,
    gain_and_harm,
    scene_f1,
)
from dip_agents.policy import Policy
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.metrics.intervals import paired
from dip_env.scenes.base import SceneSource
from dip_wrappers.controls import coarse_overview, first_regions, own_looks, resized_looks

ExperimentKind = Literal["look-budget", "controls", "coordinates", "resolution"]
KINDS: tuple[ExperimentKind, ...] = get_args(ExperimentKind)
FACTORS = (0.5, 0.7, 1.4, 2.0)
"""Of regions' sides."""
DETAIL = (0.125, 0.25, 0.5, 0.75)
"""Of the overview's sides."""


@dataclass(frozen=True)
class Variation:
    """One way to play.

    Args:
        name: of the arm, different from all others.
        series: what belongs on one line of a plot.
        place: on the axis of its series; None where there is no order.
        arm: rules and control.
    """

    name: str
    series: str
    place: float | None
    arm: Arm


def variations(
    kind: ExperimentKind,
    rules: EpisodeConfig,
    *,
    view_sizes: Sequence[int] = (),
    tiles: bool = False,
    seed: int = 0,
) -> list[Variation]:
    """Return the ways to play of an experiment; the first is what the others are compared with.

    ``look-budget``: fewer looks, down to the single pass; only the first regions of each look; and
    regions made larger or smaller. ``controls``: those of ``usual_controls``. ``coordinates``: what
    printed numbers mean, with and without looks. ``resolution``: how much the overview shows, with
    and without looks, and so how much is left for a look to show.

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
        ConfigError: for rules without looks, or a size that no overview can have.
    """
    if rules.max_looks < 1:
        raise ConfigError(f"experiment: expected max_looks >= 1, got {rules.max_looks}")
    own = Variation(OWN, "own", None, Arm(rules))
    without = replace(rules, max_looks=0)
    if kind == "look-budget":
        return [own, *_budget(rules)]
    if kind == "controls":
        controls = usual_controls(rules, seed, tiles=tiles)
        others = [Variation(c.name, "control", None, Arm(rules, c)) for c in controls]
        return [own, Variation(NONE, "control", None, Arm(without)), *others]
    found = []
    if kind == "coordinates":
        for form in ("pixel", "norm1000"):
            for config in (rules, without):
                looks = OWN if config.max_looks else NONE
                arm = Arm(replace(config, coordinate_format=form))
                found.append(Variation(f"{form}, {looks}", looks, None, arm))
        found.sort(key=lambda v: v.arm.config.coordinate_format != rules.coordinate_format)
        return found
    if view_sizes:
        sizes = dict.fromkeys((rules.view_size, *view_sizes))
        arms = {size: (replace(rules, view_size=size), own_looks()) for size in sizes}
    else:
        sides = [round(rules.view_size * share) for share in DETAIL]
        arms = {rules.view_size: (rules, own_looks())}
        arms |= {side: (rules, coarse_overview(side)) for side in sides}
    for side, (given, control) in arms.items():
        for config in (given, replace(given, max_looks=0)):
            looks = OWN if config.max_looks else NONE
            found.append(Variation(f"{side} pixels, {looks}", looks, side, Arm(config, control)))
    return found


def _budget(rules: EpisodeConfig) -> list[Variation]:
    found = []
    for looks in range(rules.max_looks):
        name = NONE if looks == 0 else f"{looks} look{'s' if looks > 1 else ''} at most"
        arm = Arm(replace(rules, max_looks=looks))
        found.append(Variation(name, "looks that are allowed", looks, arm))
    for k in range(1, rules.max_regions):
        control = first_regions(k)
        found.append(Variation(control.name, "regions of a look", k, Arm(rules, control)))
    for factor in FACTORS:
        control = resized_looks(factor)
        found.append(Variation(control.name, "size of regions", factor, Arm(rules, control)))
    return found


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
        Plain values: ``experiment``, ``n``, ``reference``, ``arms`` (for each its ``series``,
        ``place``, ``metrics``, ``against_reference``, where its ``looks`` landed, each with value,
        low and high, and ``gain_harm`` against no looks, where there is such an arm), and how it
        was measured.

    Raises:
        ConfigError: for no scenes or two variations of one name.
    """
    names = [way.name for way in ways]
    check_arms("experiment", names, indices)
    results: dict[str, EvalResult] = {}
    landings: dict[str, tuple[Landing, ...]] = {}
    for rules in dict.fromkeys(way.arm.config for way in ways):
        found, landed = play_arms(
            policy_for(rules),
            source,
            indices,
            {way.name: way.arm for way in ways if way.arm.config == rules},
            seed=seed,
            batch_size=batch_size,
            workers=workers,
            on_batch=on_batch,
        )
        results |= found
        landings |= landed
    first = ways[0].name
    before = compared(results[first].score)
    arms: dict[str, dict[str, Any]] = {}
    for way in ways:
        result = results[way.name]
        arm: dict[str, Any] = {"series": way.series, "place": way.place}
        arm |= arm_values(result, landings[way.name], seed)
        if way.name != first:
            values = compared(result.score)
            arm["against_reference"] = plain(paired(before, values, result.n, seed=seed))
        if NONE in names and way.name != NONE:
            f1 = (scene_f1(results[name].score) for name in (NONE, way.name))
            arm["gain_harm"] = gain_harm_values(gain_and_harm(*f1, seed=seed))
        arms[way.name] = arm
    own = ways[0].arm.config
    return {
        "experiment": kind,
        "n": len(indices),
        "reference": first,
        "arms": arms,
        "own_places": {series: place(own) for series, place in OWN_PLACES.items()},
        **HOW_MEASURED,
        "seed": seed,
        "scene_indices": list(indices),
        "config": asdict(own),
    }
