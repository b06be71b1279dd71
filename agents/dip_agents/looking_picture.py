"""Where a policy looks, drawn over what is ambiguous."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from dip_agents.policy import Policy
from dip_env.config import EpisodeConfig
from dip_env.scenes.base import SceneSource


def looking_sheet(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    config: EpisodeConfig,
    *,
    seed: int = 0,
    batch_size: int = 16,
    columns: int = 3,
    width: int = 480,
) -> Image.Image:
    """Play scenes and draw them side by side: looks, and people coloured by their ambiguity.

    Args:
        policy: who acts.
        source: where the scenes come from.
        indices: which scenes, in reading order.
        config: the rules.
        seed: of the policy's randomness, as in a report.
        batch_size: most observations handed to the policy at once.
        columns: scenes per row.
        width: of one scene on the page, pixels.

    Returns:
        RGB page.
    """
    raise NotImplementedError
