"""Settings of the engine that samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dip_env.errors import ConfigError

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

    def check_server(self) -> None:
        """Check that a server is named where one is asked, and only there.

        Raises:
            ConfigError: for a server's settings without a server, or the other way round.
        """
        named = self.server is not None or self.server_model is not None
        if named != (self.engine == "openai") or (self.server is None) != (
            self.server_model is None
        ):
            raise ConfigError(
                "engine: expected openai, a server and a server_model together, "
                f"got {self.engine!r}, {self.server!r} and {self.server_model!r}"
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
