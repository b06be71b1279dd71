"""What the looks of an episode cover of the ambiguity in its scene, and what other looks would.

Ambiguity is always that of the annotation prior, so that evaluations with any number of rollouts
compare. Everything is geometry: no image is read. Two references stand beside a policy's looks,
named as the controls that play them:

- *random looks*: its own regions, as many and as large, at random places. What they cover is what
  the number and size of its looks bring; only what is above comes from where they are.
- *oracle looks*: the regions that the oracle picks, as many as all looks together may hold. They
  weigh coverage against area, as the look term does, so larger looks can cover more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from dip_agents.policies.oracle_looks import oracle_regions, scene_ambiguity
from dip_env.ambiguity import AmbiguousItems
from dip_env.boxes import Boxes, as_boxes
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.group import EpisodeGroup
from dip_env.rewards import look_statistics
from dip_env.scenes.base import Scene
from dip_env.views import View, shown_region
from dip_wrappers.controls import random_looks

RANDOM_DRAWS = 16
"""Random places of each look that the coverage of random looks is the mean of."""
_ANYWHERE = tuple(random_looks(seed) for seed in range(RANDOM_DRAWS))

LOOK_COUNTERS = (
    "regions",
    "area",
    "ambiguous",
    "covered",
    "covered_at_random",
    "covered_by_oracle",
)
"""Counters of the looks at a scene, see ``count_looks``."""


@dataclass(frozen=True)
class LookCoverage:
    """How the looks of one episode cover what the annotation prior calls ambiguous.

    Args:
        regions: number of regions.
        area: share of the scene they take together.
        covered: share of the ambiguity inside them; None where nothing is ambiguous.
        look: ``covered - area``, at least 0: the look term by the annotation, had the scene enough
            ambiguity; 0 where nothing is ambiguous.
    """

    regions: int
    area: float
    covered: float | None
    look: float


def look_coverage_of(episode: Episode) -> LookCoverage:
    """Measure the look coverage of an episode.

    Args:
        episode: with all its looks taken.

    Returns:
        The measures; shares in [0, 1].
    """
    scene, looks = episode.scene, episode.looks
    found = look_statistics(scene_ambiguity(scene, episode.view), looks, scene.size)
    return LookCoverage(
        regions=len(looks),
        area=found.area,
        covered=found.covered,
        look=max(0.0, (found.covered or 0.0) - found.area),
    )


def random_coverage(episode: Episode) -> float | None:
    """Return what the looks of an episode would cover at random places (source: ours).

    Args:
        episode: with all its looks taken.

    Returns:
        Share of the ambiguity in [0, 1], the mean over ``RANDOM_DRAWS`` places of each region, the
        same ones for regions of one size in every episode on the scene; None where nothing is
        ambiguous.
    """
    scene, view = episode.scene, episode.view
    items = scene_ambiguity(scene, view)
    # Without looks there is nothing to place, and the control expects a look.
    if not len(episode.looks):
        return _covered(items, episode.looks, scene)
    wanted = view.scene_to_text(episode.looks)
    drawn = [
        _covered(items, view.text_to_scene(control.regions(wanted, episode, 0)), scene)
        for control in _ANYWHERE
    ]
    defined = [covered for covered in drawn if covered is not None]
    return float(np.mean(defined)) if defined else None


def oracle_looks(scene: Scene, view: View, rules: EpisodeConfig) -> Boxes:
    """Return the regions that the oracle would look at, had it all looks to take.

    Args:
        scene: the scene with its annotations.
        view: the frames of the episode.
        rules: of the episode.

    Returns:
        (R, 4) xyxy, scene frame, best first, R <= ``max_looks * max_regions``; as they would be
        shown.
    """
    if not rules.max_looks:
        return np.zeros((0, 4))
    together = replace(rules, max_regions=rules.max_looks * rules.max_regions)
    regions = view.text_to_scene(oracle_regions(scene, view, together))
    return as_boxes(
        [shown_region(region, view, rules.crop_size, rules.size_multiple) for region in regions]
    )


def count_looks(group: EpisodeGroup) -> dict[str, float]:
    """Sum what the looks of a finished group cover.

    Args:
        group: after its end; the rollouts of one scene.

    Returns:
        Sums over the rollouts for each name in ``LOOK_COUNTERS``: ``regions``; ``area``, the share
        of the scene inside the looks; ``ambiguous``, 1 for a rollout that may look where something
        is ambiguous; and, over those only, the share of the ambiguity that is ``covered``, that
        random looks would cover (``covered_at_random``) and that oracle looks would
        (``covered_by_oracle``).
    """
    sums = dict.fromkeys(LOOK_COUNTERS, 0.0)
    scene, rules, view = group.scene, group.config, group.episodes[0].view
    by_oracle = _covered(scene_ambiguity(scene, view), oracle_looks(scene, view, rules), scene)
    for episode in group.episodes:
        found = look_coverage_of(episode)
        sums["regions"] += found.regions
        sums["area"] += found.area
        if rules.max_looks and found.covered is not None:
            sums["ambiguous"] += 1
            sums["covered"] += found.covered
            sums["covered_at_random"] += random_coverage(episode) or 0.0
            sums["covered_by_oracle"] += by_oracle or 0.0
    return sums


def _covered(items: AmbiguousItems, looks: Boxes, scene: Scene) -> float | None:
    return look_statistics(items, looks, scene.size).covered
