"""Settings of the engine that samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from dip_agents.engines.base import Engine
    from dip_agents.models.base import VisionLanguageModel

WeightSync = Literal["merged", "adapter"]
"""What vLLM gets at a weight sync: all weights with the LoRA merged, or the LoRA alone."""


@dataclass(frozen=True)
class EngineArgs:
    """Which engine samples from the model, and how."""

    engine: Literal["native", "vllm", "openai"] = "native"
    """native: the weights in this process; vllm: vLLM, with a weight sync after each step; openai:
    a server, for evaluation."""
    weight_sync: WeightSync = "merged"
    """How vLLM gets the weights: all, LoRA merged (faster per token), or the LoRA alone."""
    sleep: Literal[0, 1, 2] = 0
    """vLLM gives the GPU back between rollouts: 1 keeps weights in host memory, 2 drops them."""
    server: str | None = None
    """Address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1."""
    server_model: str | None = None
    """Name of the model on that server; the one that is loaded here counts its tokens."""
    key_variable: str | None = None
    """Environment variable that holds the server's API key."""
    concurrency: int = 16
    """Most requests to the server at once."""

    def __post_init__(self) -> None:
        """Check settings that only vLLM has.

        Raises:
            ConfigError: for a setting of vLLM with another engine; the message names the field.
        """
        for name, default in (("weight_sync", "merged"), ("sleep", 0)):
            value = getattr(self, name)
            if value != default and self.engine != "vllm":
                raise ConfigError(
                    f"{name}: expected {default} unless engine is vllm, got {value} with engine "
                    f"{self.engine}"
                )

    def check_measuring(self, asked_by: str) -> None:
        """Check that the engine keeps its weights from one rollout to the next.

        Args:
            asked_by: the setting or command that measures.

        Raises:
            ConfigError: when vLLM drops its weights and no weight sync follows.
        """
        if self.sleep == 2:
            raise ConfigError(
                f"sleep: expected 0 or 1 with {asked_by}, got 2, which forgets the weights"
            )

    def open(self, vlm: VisionLanguageModel, rules: EpisodeConfig, token_budget: int) -> Engine:
        """Return the engine.

        Args:
            vlm: the model; of a server only its processor is used.
            rules: of the episodes; they limit number and size of the images of a row.
            token_budget: longest row.

        Returns:
            The engine, with the model's weights as they are now.

        Raises:
            ConfigError: for a server's settings without a server, or the other way round.
        """
        from dip_agents.engines.chat_client import ChatServer
        from dip_agents.engines.choose import engine_for
        from dip_agents.engines.openai import OpenAIEngine
        from dip_agents.engines.vllm import VLLMEngine

        named = self.server is not None or self.server_model is not None
        if named != (self.engine == "openai") or (self.server is None) != (
            self.server_model is None
        ):
            raise ConfigError(
                "engine: expected openai, a server and a server_model together, "
                f"got {self.engine!r}, {self.server!r} and {self.server_model!r}"
            )
        if self.server is not None and self.server_model is not None:
            server = ChatServer(self.server, self.key_variable)
            return OpenAIEngine(server, self.server_model, vlm.chat, concurrency=self.concurrency)
        if self.engine == "vllm":
            if not vlm.runs_in_vllm:
                kind = vlm.core.config.model_type
                raise ConfigError(f"engine: expected native for a {kind} model, got vllm")
            return VLLMEngine(
                vlm,
                token_budget=token_budget,
                max_images=1 + rules.max_looks * rules.max_regions,
                max_image_side=max(rules.view_size, rules.crop_size),
                weight_sync=self.weight_sync,
                sleep=self.sleep,
            )
        return engine_for(vlm)
