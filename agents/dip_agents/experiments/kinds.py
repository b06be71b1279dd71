"""The kinds of experiments and their variations: one thing about looking, changed step by step."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dip_agents.evaluation.play import EvalCondition
from dip_agents.policies.oracle_looks import RandomTiles, oracle_regions
from dip_env.config import CoordinateFormat, EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene
from dip_env.views import View
from dip_wrappers.controlled import Control
from dip_wrappers.controls import (
    blank_crops,
    blurred_overview,
    coarse_overview,
    crops_from_elsewhere,
    first_regions,
    no_image,
    own_looks,
    placed_looks,
    random_looks,
    resized_looks,
)

ExperimentKind = Literal["look-budget", "controls", "magnification", "coordinates", "resolution"]

OWN_LOOKS = "own looks"
NO_LOOKS = "no looks"
SINGLE_PASS = "single pass"
ORACLE_TILES = "oracle tiles"
RANDOM_TILES = "random tiles"
FACTORS = (0.5, 0.7, 1.4, 2.0)
"""Scale factors of the sides of regions."""
DETAIL = (0.125, 0.25, 0.5, 0.75)
"""Shares of the overview's longest side."""
MAGNIFICATIONS = (1.0, 2.0, 3.0, 4.0)
"""Crop pixels per view pixel, beside that of the rules."""


@dataclass(frozen=True)
class Variation:
    """One condition of an experiment and where it belongs in tables and plots.

    Args:
        name: of the condition, different from all others.
        series: variations of one series lie on one line of a plot.
        position: on the axis of its series; None where the series has no order.
        condition: rules and control.
        without: name of the variation that differs in having no looks; the change of F1 by looks
            is measured against it.
    """

    name: str
    series: str
    position: float | None
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
    """Return the variations of an experiment; the first is the reference of the others.

    ``look-budget``: fewer looks, down to none; the single pass, in which looks and answer share one
    action and no crop is seen; only the first regions of each look; and regions made larger or
    smaller. ``controls``: those of ``standard_controls``. ``magnification``: looks at tiles where
    the oracle looks and at random ones, at several magnifications; the oracle takes fewer tiles
    where few are worth it, random looks as many as there may be. ``coordinates``: each coordinate
    format, with and without looks. ``resolution``: how much the overview shows, with and without
    looks, and so how much is left for a look to show. What is ``left_out`` has a reason.

    Args:
        kind: which experiment.
        rules: of the reference.
        view_sizes: longest sides of the overview, in pixels, for ``resolution``, for policies that
            take any; without them the overview stays as large as it is and loses details.
        tiles: let the oracle of ``controls`` look at tiles, for a policy that was trained to.
        seed: of random positions.

    Returns:
        At least two, their names all different.

    Raises:
        ConfigError: for rules without looks, an impossible overview size, or ``coordinates`` with
            a prompt that does not define the coordinate format.
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
    own = Variation(OWN_LOOKS, "own", None, EvalCondition(rules), NO_LOOKS)
    if kind == "look-budget":
        return [own, *_budget(rules)]
    if kind == "magnification":
        return [own, *_magnification(rules, seed)]
    if kind == "controls":
        controls = standard_controls(rules, seed, tiles=tiles)
        others = [
            Variation(c.name, "control", None, EvalCondition(rules, c), NO_LOOKS) for c in controls
        ]
        return [
            own,
            Variation(NO_LOOKS, "control", None, EvalCondition(replace(rules, max_looks=0))),
            *others,
        ]
    return _coordinates(rules) if kind == "coordinates" else _resolution(rules, view_sizes)


def standard_controls(
    rules: EpisodeConfig, seed: int = 0, *, tiles: bool = False
) -> tuple[Control, ...]:
    """Return one control of every kind in ``dip_wrappers.controls``.

    Args:
        rules: of the episodes; bound the number of regions.
        seed: of random positions.
        tiles: let the oracle look at tiles, for a policy that was trained to.

    Returns:
        Random looks, oracle places (regions as many and as large as the policy's own), oracle
        looks (the oracle's regions, as many as the rules allow), crops blanked, crops from another
        place, overview blurred, no image, and the first 1 to ``max_regions`` - 1 regions only.
    """
    # Regions of all looks together, so that a second look continues where the first ended.
    whole = replace(rules, max_regions=rules.max_looks * rules.max_regions)
    oracle = partial(oracle_regions, rules=whole, tiles=tiles)
    where = " at tiles" if tiles else ""
    return (
        random_looks(seed),
        placed_looks(oracle, f"oracle places{where}", as_asked=True),
        placed_looks(oracle, f"oracle looks{where}"),
        blank_crops(),
        crops_from_elsewhere(seed),
        blurred_overview(),
        no_image(),
        *(first_regions(k) for k in range(1, rules.max_regions)),
    )


def left_out(kind: ExperimentKind, rules: EpisodeConfig) -> dict[str, str]:
    """Return the variations that an experiment cannot play under given rules, and why.

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
        name = NO_LOOKS if looks == 0 else f"{looks} look{'s' if looks > 1 else ''} at most"
        condition = EvalCondition(replace(rules, max_looks=looks))
        against = NO_LOOKS if looks else None
        found.append(Variation(name, "looks that are allowed", looks, condition, against))
    if SINGLE_PASS not in left_out("look-budget", rules):
        condition = EvalCondition(replace(rules, max_turns=1))
        found.append(Variation(SINGLE_PASS, SINGLE_PASS, None, condition, NO_LOOKS))
    for k in range(1, rules.max_regions):
        control = first_regions(k)
        found.append(
            Variation(control.name, "regions of a look", k, EvalCondition(rules, control), NO_LOOKS)
        )
    for factor in FACTORS:
        control = resized_looks(factor)
        found.append(
            Variation(
                control.name, "size of regions", factor, EvalCondition(rules, control), NO_LOOKS
            )
        )
    return found


def _magnification(rules: EpisodeConfig, seed: int) -> list[Variation]:
    found = [Variation(NO_LOOKS, NO_LOOKS, None, EvalCondition(replace(rules, max_looks=0)))]
    for scale in sorted({*MAGNIFICATIONS, rules.magnification}):
        # Regions of all looks together, so that a second look continues where the first ended.
        whole = replace(rules, magnification=scale, max_regions=rules.max_looks * rules.max_regions)
        for series, control in (
            (ORACLE_TILES, placed_looks(partial(oracle_regions, rules=whole, tiles=True))),
            (RANDOM_TILES, placed_looks(partial(random_tiles, rules=whole, seed=seed))),
        ):
            name = f"{series} at {scale:g}x"
            condition = EvalCondition(rules, replace(control, name=name))
            found.append(Variation(name, series, scale, condition, NO_LOOKS))
    return found


def random_tiles(
    scene: Scene, view: View, rules: EpisodeConfig, seed: int = 0
) -> NDArray[np.float64]:
    """Pick tiles wherever they lie, the same for a scene and a seed.

    Args:
        scene: the scene.
        view: the frames of the episode.
        rules: of the episode; as many tiles as one look may hold.
        seed: of the places.

    Returns:
        (R, 4) xyxy, text frame.
    """
    rng = np.random.default_rng([seed, zlib.crc32(scene.scene_id.encode())])
    return RandomTiles().regions(scene, view, rules, rng)


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
    name: str, position: float | None, rules: EpisodeConfig, control: Control
) -> list[Variation]:
    none = Variation(
        f"{name}, {NO_LOOKS}",
        NO_LOOKS,
        position,
        EvalCondition(replace(rules, max_looks=0), control),
    )
    return [
        Variation(
            f"{name}, {OWN_LOOKS}", OWN_LOOKS, position, EvalCondition(rules, control), none.name
        ),
        none,
    ]


def own_positions(rules: EpisodeConfig) -> dict[str, float]:
    """Return where own looks lie on the axis of a series, by series."""
    return {
        "looks that are allowed": rules.max_looks,
        "regions of a look": rules.max_regions,
        "size of regions": 1.0,
    }
