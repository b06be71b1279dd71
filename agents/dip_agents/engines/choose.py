"""Which engine samples from a model in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dip_agents.engines.generic import GenericEngine
from dip_agents.engines.hf import HFEngine
from dip_agents.models.generic_vlm import GenericVLM
from dip_agents.models.vlm import VLM

if TYPE_CHECKING:
    from dip_agents.engines.base import Engine


def engine_for(vlm: VLM) -> Engine:
    """Return the engine that samples from a model's own weights.

    Args:
        vlm: the model, from ``load_model``.

    Returns:
        ``HFEngine`` for the Qwen-VL families, ``GenericEngine`` for the others.
    """
    if isinstance(vlm, GenericVLM):
        return GenericEngine(vlm)
    return HFEngine(vlm)
