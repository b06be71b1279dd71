"""A policy for stable-baselines3 that scores every cell by the same small network."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from dip_agents.runtime.optional import require_extra
from dip_env.errors import ConfigError

require_extra("stable_baselines3", "sb3")
from stable_baselines3.common.policies import MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor


class CellScores(BaseFeaturesExtractor):
    """One score for each cell of a grid, and one for answering.

    Args:
        observation_space: of ``Glimpse`` with the keys ``cells`` and ``budget``.
        hidden: units of the network that scores a cell.

    Raises:
        ConfigError: for a space without these keys.
    """

    def __init__(self, observation_space: spaces.Space[Any], hidden: int = 32) -> None:
        """Lay out the two networks."""
        if not isinstance(observation_space, spaces.Dict) or not {"cells", "budget"} <= set(
            observation_space
        ):
            raise ConfigError(
                "observation_space: expected Glimpse with GridLooks and keys=('cells', 'budget'), "
                f"got {observation_space}"
            )
        count, width = observation_space["cells"].shape or (0, 0)
        super().__init__(observation_space, features_dim=count + 1)
        self.cell = scorer(width + 1, hidden)
        self.answer = scorer(2 * width + 1, hidden)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Return the scores, (B, P + 1), the answer's last."""
        cells, budget = observations["cells"], observations["budget"]
        left = budget[:, None].expand(-1, cells.shape[1], -1)
        scores = self.cell(torch.cat([cells, left], dim=2)).squeeze(2)
        summary = torch.cat([cells.mean(dim=1), cells.amax(dim=1), budget], dim=1)
        return torch.cat([scores, self.answer(summary)], dim=1)


class CellPolicy(MultiInputActorCriticPolicy):
    """Actor and critic for ``GridLooks`` with one region an action: ``PPO(CellPolicy, env)``.

    What makes a cell worth a look is the same everywhere, so one network scores all cells; the
    actor's logits are the scores. What it learns from one cell applies to all others, which takes
    far fewer looks than a network over the flat observation. The critic reads scores of its own.
    Source: ours.

    Args:
        observation_space: of ``Glimpse`` with the keys ``cells`` and ``budget``.
        action_space: ``Discrete``, one more than there are cells.
        lr_schedule: as in stable-baselines3.
        **keywords: of ``MultiInputActorCriticPolicy``, but for its networks of the actor.

    Raises:
        ConfigError: for other spaces.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Any,
        **keywords: Any,
    ) -> None:
        """Use the scores as the features of stable-baselines3."""
        keywords = {
            "features_extractor_class": CellScores, "share_features_extractor": False,
            "net_arch": {"pi": [], "vf": [64]}, **keywords,
        }  # fmt: skip
        super().__init__(observation_space, action_space, lr_schedule, **keywords)  # type: ignore[arg-type]

    def _build(self, lr_schedule: Any) -> None:
        super()._build(lr_schedule)
        logits = self.features_extractor.features_dim
        if not isinstance(self.action_space, spaces.Discrete) or self.action_space.n != logits:
            raise ConfigError(f"action_space: expected Discrete({logits}), got {self.action_space}")
        if self.mlp_extractor.latent_dim_pi != logits:
            raise ConfigError(
                "net_arch: expected no layers for the actor, such as {'pi': [], 'vf': [64]}, "
                f"got {self.net_arch}"
            )
        self.action_net = nn.Identity()  # the scores are the logits
        options: dict[str, Any] = {"lr": lr_schedule(1), **self.optimizer_kwargs}
        self.optimizer = self.optimizer_class(self.parameters(), **options)


def scorer(width: int, hidden: int) -> nn.Sequential:
    """Return a network from (..., width) to (..., 1)."""
    return nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))
