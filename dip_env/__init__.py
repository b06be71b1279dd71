"""Crowded scenes, episodes and their rewards, as a Gymnasium environment."""

from importlib.metadata import PackageNotFoundError, version

import gymnasium
import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)

try:
    __version__ = version("dip-env")
except PackageNotFoundError:  # a checkout that was never installed
    __version__ = "0+unknown"

gymnasium.register(
    id="DIPCrowd-v0",
    entry_point="dip_env.env:DIPCrowdEnv",
    vector_entry_point="dip_env.vector_env:DIPCrowdVectorEnv",
)
