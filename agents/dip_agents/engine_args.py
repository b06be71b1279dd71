"""Which engine samples, as the commands ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dip_agents.engines.base import Engine
from dip_agents.engines.choose import engine_for
from dip_agents.engines.openai import OpenAIEngine
from dip_agents.engines.vllm import VLLMEngine
from dip_agents.vlm import VLM
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError


@dataclass(frozen=True)
class EngineArgs:
    """Who samples from the model."""

    engine: Literal["own", "vllm", "openai"] = "own"
    """own: the weights in this process; vllm: vLLM, which gets them after each step; openai: a
    server, for evaluation."""
    server: str | None = None
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    server_model: str | None = None
    """Name of the model on that server; the name given by --model counts its tokens."""
    key_variable: str | None = None
    """Environment variable that holds the server's API key."""

    def open(self, vlm: VLM, rules: EpisodeConfig, token_budget: int) -> Engine:
        """Return the engine.

        Args:
            vlm: the model; of a server only its processor is used.
            rules: of the episodes; say how many images a row may hold, and how large.
            token_budget: longest row.

        Returns:
            The engine, with the model's weights as they are now.

        Raises:
            ConfigError: for a server's settings without a server, or the other way round.
        """
        named = self.server is not None or self.server_model is not None
        if named != (self.engine == "openai") or (self.server is None) != (
            self.server_model is None
        ):
            raise ConfigError(
                "engine openai: expected --engine openai, --server and --server-model together, "
                f"got {self.engine!r}, {self.server!r} and {self.server_model!r}"
            )
        if self.server is not None and self.server_model is not None:
            return OpenAIEngine(
                self.server, self.server_model, vlm.chat, key_variable=self.key_variable
            )
        if self.engine == "vllm":
            return VLLMEngine(
                vlm,
                token_budget=token_budget,
                max_images=1 + rules.max_looks * rules.max_regions,
                max_image_side=max(rules.view_size, rules.crop_size),
            )
        return engine_for(vlm)
