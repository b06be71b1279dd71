"""Does looking help? One policy on the same scenes with its own looks, without, and under controls.

Every arm plays the same scenes with the same seeds, so differences are paired. Arms are compared by
what they find, not by reward: the look term cannot be earned where no look may be taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dip_agents.eval_result import EvalResult
from dip_agents.policy import Policy
from dip_env.config import EpisodeConfig
from dip_env.scenes.base import SceneSource
from dip_wrappers.controlled import Control

OWN = "own looks"
NONE = "no looks"


@dataclass(frozen=True, eq=False)
class LookingReport:
    """What every arm found.

    Args:
        results: an evaluation for each arm by name; the first two are ``own looks`` and
            ``no looks``.
    """

    results: dict[str, EvalResult]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        raise NotImplementedError


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
    on_arm: Callable[[str, int, int], None] | None = None,
) -> LookingReport:
    """Play a policy with its own looks, without looks, and under each control.

    Args:
        policy: who acts.
        source: where the scenes come from.
        indices: which scenes, each at most once.
        config: the rules; they must allow a look.
        controls: played beside ``own looks`` and ``no looks``, which always are; by default those
            of ``usual_controls``.
        seed: of the policy's randomness and of the bootstrap.
        batch_size: most observations handed to the policy at once.
        workers: processes that prepare scenes ahead.
        on_arm: called with (name, arms begun before it, arms in all) as an arm begins.

    Returns:
        The report.

    Raises:
        ConfigError: for rules without looks, or two arms of one name.
    """
    raise NotImplementedError


def usual_controls(config: EpisodeConfig, seed: int = 0) -> tuple[Control, ...]:
    """Return the controls of a report: every kind of ``dip_wrappers.controls``.

    Args:
        config: the rules; bound the number of regions.
        seed: of random places.

    Returns:
        Random looks, oracle looks, crops blanked, crops from another place, overview blurred, no
        image, and the first 1 to ``max_regions`` - 1 regions only.
    """
    raise NotImplementedError
