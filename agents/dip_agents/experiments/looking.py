"""Does looking help? One policy on the same scenes with its own looks, without, and under controls.

Every condition plays the same scenes with the same seeds, so differences are paired. Conditions are
compared by what they find, not by reward: the look term cannot be earned where no look may be
taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

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
from dip_agents.experiments.measures import (
    GainHarm,
    LookCoverage,
    compared,
    gain_and_harm,
    scene_f1,
)
from dip_agents.policies.base import Policy
from dip_agents.policies.oracle_looks import oracle_regions
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.formats.box_sets import Floats
from dip_env.metrics.intervals import Interval, paired
from dip_env.scenes.base import SceneSource
from dip_wrappers.controlled import Control
from dip_wrappers.controls import (
    blank_crops,
    blurred_overview,
    crops_from_elsewhere,
    first_regions,
    no_image,
    own_looks,
    placed_looks,
    random_looks,
)

OWN = "own looks"
NONE = "no looks"


@dataclass(frozen=True, eq=False)
class LookingReport:
    """What every condition found, by the condition's name.

    Args:
        results: an evaluation for each condition; the first two are ``own looks`` and ``no looks``.
        look_coverages: where looks landed, one entry for each scene.
        seed: of the bootstrap.
    """

    results: dict[str, EvalResult]
    look_coverages: dict[str, tuple[LookCoverage, ...]]
    seed: int = 0

    @property
    def scene_f1(self) -> dict[str, Floats]:
        """F1 of each scene, (S,) for each condition."""
        return {name: scene_f1(result.score) for name, result in self.results.items()}

    @property
    def budget(self) -> tuple[str, ...]:
        """The conditions from no look over the first regions only to all own looks, least first."""
        most = self.results[OWN].config.max_regions
        firsts = [first_regions(k).name for k in range(1, most)]
        return (NONE, *(name for name in firsts if name in self.results), OWN)

    def against_own(self, name: str) -> dict[str, Interval]:
        """Return what a condition changes: it minus own looks, paired by scene.

        Args:
            name: of the condition.

        Returns:
            An interval for each metric in ``COMPARED``.
        """
        own, other = (compared(self.results[condition].score) for condition in (OWN, name))
        return paired(own, other, self.results[OWN].n, seed=self.seed)

    def gain_harm(self, name: str) -> GainHarm:
        """Return in how many scenes a condition finds more or less than no looks do."""
        f1 = self.scene_f1
        return gain_and_harm(f1[NONE], f1[name], seed=self.seed)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values.

        Returns:
            ``conditions``: for each its ``metrics`` (value, low and high of those ``COMPARED`` that
            are defined), ``against_own`` (the same for the paired difference to own looks),
            ``gain_harm`` (against no looks) and ``looks`` (where they landed); ``budget``: names of
            conditions, least first; and how it was measured.
        """
        own = self.results[OWN]
        return {
            "n": own.n,
            "conditions": {name: self._arm(name) for name in self.results},
            "budget": list(self.budget),
            **HOW_MEASURED,
            "look_reference": "prior",
            "seed": self.seed,
            "scene_indices": list(own.scene_indices),
            "config": asdict(own.config),
        }

    def _arm(self, name: str) -> dict[str, Any]:
        condition = condition_values(self.results[name], self.look_coverages[name], self.seed)
        if name != OWN:
            condition["against_own"] = to_plain(self.against_own(name))
        if name != NONE:
            condition["gain_harm"] = gain_harm_values(self.gain_harm(name))
        return condition


def looking_report(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    config: EpisodeConfig,
    *,
    controls: Sequence[Control] | None = None,
    seed: int = 0,
    batch_size: int = 16,
    workers: int = 0,
    on_batch: Callable[[int, int], None] | None = None,
) -> LookingReport:
    """Play a policy with its own looks, without looks, and under each control.

    Args:
        policy: who acts.
        source: where the scenes come from; each scene is drawn once for all conditions.
        indices: which scenes, each at most once.
        config: the rules; they must allow a look. ``no looks`` are the same with ``max_looks`` 0.
        controls: played beside ``own looks`` and ``no looks``, which always are; by default those
            of ``usual_controls``.
        seed: of the policy's randomness, of random places and of the bootstrap.
        batch_size: most observations handed to the policy at once.
        workers: processes that prepare scenes ahead.
        on_batch: called with (scenes done, scenes in all) after each batch.

    Returns:
        The report.

    Raises:
        ConfigError: for no scenes, rules without looks, or two conditions of one name.
        ValueError: for a repeated index or a size under 1.
    """
    if config.max_looks < 1:
        raise ConfigError(f"looking report: expected max_looks >= 1, got {config.max_looks}")
    controls = usual_controls(config, seed) if controls is None else controls
    names = [OWN, NONE, *(control.name for control in controls)]
    check_conditions("looking report", names, indices)
    conditions = {
        OWN: EvalCondition(config, own_looks()),
        NONE: EvalCondition(replace(config, max_looks=0), own_looks()),
    }
    conditions |= {control.name: EvalCondition(config, control) for control in controls}
    results, look_coverages = play_conditions(
        policy,
        source,
        indices,
        conditions,
        seed=seed,
        batch_size=batch_size,
        workers=workers,
        on_batch=on_batch,
    )
    return LookingReport(results, look_coverages, seed)


def usual_controls(
    config: EpisodeConfig, seed: int = 0, *, tiles: bool = False
) -> tuple[Control, ...]:
    """Return the controls of a report: every kind of ``dip_wrappers.controls``.

    Args:
        config: the rules; bound the number of regions.
        seed: of random places.
        tiles: let the oracle look at tiles, for a policy that was taught so.

    Returns:
        Random looks, oracle places (regions as many and as large as the policy's own), oracle
        looks (its own regions, as many as the rules allow), crops blanked, crops from another
        place, overview blurred, no image, and the first 1 to ``max_regions`` - 1 regions only.
    """
    # All that the looks of an episode may hold, so that a second look goes on where one ended.
    whole = replace(config, max_regions=config.max_looks * config.max_regions)
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
        *(first_regions(k) for k in range(1, config.max_regions)),
    )
