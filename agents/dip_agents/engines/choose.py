"""The engine that samples from a model: that of its family, or the one that settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dip_agents.engines.chat_client import ChatServer
from dip_agents.engines.config import EngineArgs
from dip_agents.engines.generic import GenericEngine
from dip_agents.engines.hf import HFEngine
from dip_agents.engines.openai import OpenAIEngine
from dip_agents.engines.vllm import VLLMEngine
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError

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


def open_engine(
    args: EngineArgs, vlm: VisionLanguageModel, rules: EpisodeConfig, token_budget: int
) -> Engine:
    """Return the engine that settings ask for.

    Args:
        args: the settings.
        vlm: the model; of a server only its processor is used.
        rules: of the episodes; they limit number and size of the images of a row.
        token_budget: longest row.

    Returns:
        The engine, with the model's weights as they are now.

    Raises:
        ConfigError: for a server's settings without a server, or the other way round.
    """
    args.check_server()
    if args.server is not None and args.server_model is not None:
        server = ChatServer(args.server, args.key_variable)
        return OpenAIEngine(server, args.server_model, vlm.chat, concurrency=args.concurrency)
    if args.engine == "vllm":
        if not vlm.runs_in_vllm:
            kind = vlm.core.config.model_type
            raise ConfigError(f"engine: expected native for a {kind} model, got vllm")
        return VLLMEngine(
            vlm,
            token_budget=token_budget,
            max_images=1 + rules.max_looks * rules.max_regions,
            max_image_side=max(rules.view_size, rules.crop_size),
            weight_sync=args.weight_sync,
            sleep=args.sleep,
        )
    return engine_for(vlm)
