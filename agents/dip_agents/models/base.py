"""What every vision-language model offers to engines and trainers, whatever its family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from dip_agents.models.logprob_head import LogprobHead
    from dip_agents.tokens.buffer import EncodedImage, TokenBuffer
    from dip_agents.tokens.chat import ChatTokens

NativeEngine = Literal["hf", "generic"]
"""Engine that samples from a model's own weights: ``HFEngine`` or ``GenericEngine``."""

Features = tuple["Tensor", list["Tensor"]]
"""Embeddings (tokens, d) of an image, and its deepstack features per layer."""


@dataclass(frozen=True, eq=False)
class TokenLogprobs:
    """Logprobs of the tokens that were sampled; column t belongs to token t of its row.

    Args:
        logprobs: float32 (B, T), 0 outside the mask.
        entropy: of the distribution each token was drawn from, float32 (B, T), 0 outside the mask.
        mask: True at policy tokens, bool (B, T).
    """

    logprobs: Tensor
    entropy: Tensor
    mask: Tensor


class VisionLanguageModel(Protocol):
    """A model with its processor, driven by token buffers.

    ``VLM`` is the fast implementation for the Qwen-VL families, ``GenericVLM`` the one for all
    others. Callers read the capabilities below and never ask for the class.
    """

    model: Any
    """The transformers model, or PEFT's wrapper around it."""
    processor: Any
    """Its processor."""
    autocast: torch.dtype | None
    """Data type of matrix products, or None for the weights' own."""
    head: LogprobHead
    """From hidden states to logprobs over the allowed tokens."""
    banned_ids: list[int]
    """Ids a policy must not sample, sorted."""

    shares_prefix: bool
    """Whether a common prefix of several buffers goes through the model once."""
    gives_image_features: bool
    """Whether ``features_of`` returns features, which dense targets need."""
    shardable: bool
    """Whether ``ShardedVLM`` can split its weights over ranks."""
    runs_in_vllm: bool
    """Whether ``VLLMEngine`` can sample from it."""
    native_engine: NativeEngine
    """The engine that samples from its weights in this process."""

    @property
    def chat(self) -> ChatTokens:
        """Messages to tokens, as this model reads them."""
        ...

    @property
    def core(self) -> Any:
        """The transformers model inside a possible PEFT wrapper."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def ban(self) -> Tensor:
        """0 for tokens that may be sampled, -inf for the others, float32 (V,), on the device."""
        ...

    @property
    def image_token_id(self) -> int:
        """The placeholder id that image features replace."""
        ...

    @property
    def has_adapter(self) -> bool:
        """Whether only a LoRA learns."""
        ...

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Return a context in which the model runs without its LoRA."""
        ...

    def frozen_copy(self) -> VisionLanguageModel:
        """Return a copy in eval mode whose weights do not learn."""
        ...

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that learn."""
        ...

    def checkpoint_activations(self) -> None:
        """Recompute the activations inside each layer in the backward pass, from now on."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights a checkpoint must hold: all, or those of the LoRA that learns."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``state_dict`` returned."""
        ...

    def precision(self) -> AbstractContextManager[Any]:
        """Return the autocast context every forward pass runs in."""
        ...

    def features_of(self, images: Iterable[EncodedImage]) -> dict[bytes, Features]:
        """Return the features of each distinct image by its key; empty where there are none."""
        ...

    def hidden(
        self, buffers: Sequence[TokenBuffer], features: dict[bytes, Features] | None = None
    ) -> Tensor:
        """Return the last hidden states (B, T, d) of whole buffers, right padded."""
        ...

    def targets(self, buffers: Sequence[TokenBuffer]) -> tuple[Tensor, Tensor]:
        """Return ids (B, T) and the mask (B, T) of policy tokens that have a state before them."""
        ...

    def token_logprobs(
        self, buffers: Sequence[TokenBuffer], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Return logprob and entropy of every policy token, with gradient."""
        ...
