"""The engine that samples from a model in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dip_agents.engines.generic import GenericEngine
from dip_agents.engines.hf import HFEngine

if TYPE_CHECKING:
    from dip_agents.engines.base import Engine
    from dip_agents.models.base import NativeEngine, VisionLanguageModel

NATIVE_ENGINES: dict[NativeEngine, Callable[[Any], Engine]] = {
    "hf": HFEngine,
    "generic": GenericEngine,
}
"""By the name a model gives in ``native_engine``."""


def engine_for(vlm: VisionLanguageModel) -> Engine:
    """Return the engine that samples from a model's own weights.

    Args:
        vlm: the model, from ``load_model``.

    Returns:
        ``HFEngine`` for the Qwen-VL families, ``GenericEngine`` for the others.
    """
    return NATIVE_ENGINES[vlm.native_engine](vlm)
