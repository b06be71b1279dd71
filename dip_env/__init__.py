"""The world: crowded scenes, episodes and their rewards, as a Gymnasium environment."""

import gymnasium

from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.env import DIPCrowdEnv
from dip_env.episode import Episode, Message, Observation, Turn
from dip_env.errors import DipError
from dip_env.group import EpisodeGroup
from dip_env.scenes import Scene, SceneSource, ToyScenes, make_source
from dip_env.vector_env import DIPCrowdVectorEnv

__all__ = [
    "DIPCrowdEnv",
    "DIPCrowdVectorEnv",
    "DipError",
    "Episode",
    "EpisodeConfig",
    "EpisodeGroup",
    "Message",
    "Observation",
    "RewardConfig",
    "Scene",
    "SceneSource",
    "ToyScenes",
    "Turn",
    "make_source",
]

gymnasium.register(
    id="DIPCrowd-v0",
    entry_point="dip_env.env:DIPCrowdEnv",
    vector_entry_point="dip_env.vector_env:DIPCrowdVectorEnv",
)
