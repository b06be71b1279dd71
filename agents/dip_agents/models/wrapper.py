"""What the models of all families share: weights, adapter, targets and logprobs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn

from dip_agents.models.base import TokenLogprobs
from dip_agents.models.logprob_head import LogprobHead
from dip_agents.models.lora import base_model, has_adapter, is_adapter_weight
from dip_agents.models.precision import autocast_context
from dip_agents.runtime.errors import CheckpointError
from dip_agents.runtime.memory import limit_kernel_cache
from dip_agents.tokens.banned import banned_ids
from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.chat import ChatTokens


class ModelWrapper(ABC):
    """A transformers model with its processor and the head that reads its states.

    Args:
        model: the model, or a PEFT model around one.
        processor: its processor.
        autocast: dtype for matrix products, or None for the weights' own.
        chat: messages to tokens, as this model reads them.
        rows: rows of the output layer.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        autocast: torch.dtype | None,
        chat: ChatTokens,
        rows: int,
    ) -> None:
        """Store the parts and ban what must not be sampled."""
        limit_kernel_cache()
        self.model = model
        self.processor = processor
        self.autocast = autocast
        self.chat = chat
        self.banned_ids = banned_ids(chat, rows)
        self.head = LogprobHead(self.core, self.banned_ids, rows, autocast)

    @property
    def core(self) -> Any:
        """The transformers model inside a possible PEFT wrapper."""
        return base_model(self.model)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.core.get_input_embeddings().weight.device

    @property
    def ban(self) -> Tensor:
        """0 for tokens that may be sampled, -inf for the others, float32 (V,), on the device."""
        return self.head.ban(self.device)

    @property
    def image_token_id(self) -> int:
        """The placeholder id that image features replace."""
        return self.chat.image_token_id

    @property
    def has_adapter(self) -> bool:
        """Whether only a LoRA learns."""
        return has_adapter(self.model)

    def without_adapter(self) -> AbstractContextManager[Any]:
        """Return a context in which the model runs without its LoRA."""
        return self.model.disable_adapter() if self.has_adapter else nullcontext()

    @abstractmethod
    def frozen_copy(self) -> Self:
        """Return a copy in eval mode whose weights do not learn."""

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that learn."""
        return (p for p in self.model.parameters() if p.requires_grad)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights a checkpoint must hold: all, or those of the LoRA that learns."""
        state = self.model.state_dict()
        if not self.has_adapter:
            return state
        return {name: tensor for name, tensor in state.items() if is_adapter_weight(name)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``state_dict`` returned.

        Args:
            state: the same names and shapes.

        Raises:
            CheckpointError: for names or shapes of another model.
        """
        try:
            found = self.model.load_state_dict(state, strict=not self.has_adapter)
        except RuntimeError as error:
            raise CheckpointError(f"state: expected the weights of this model: {error}") from error
        if found.unexpected_keys:
            raise CheckpointError(
                f"state: expected names of this model, got {found.unexpected_keys[0]!r}"
            )

    def precision(self) -> AbstractContextManager[Any]:
        """Return the autocast context every forward pass runs in."""
        return autocast_context(self.autocast, self.device)

    def token_logprobs(
        self, buffers: Sequence[TokenBuffer], temperature: float = 1.0
    ) -> TokenLogprobs:
        """Return logprob and entropy of every policy token, with gradient.

        Args:
            buffers: B episodes; the longest has T tokens.
            temperature: the one they were sampled at.

        Returns:
            Logprobs, entropies and mask, each (B, T).
        """
        ids, mask = self.targets(buffers)
        states = self.deciding_states(buffers, mask)
        chosen, entropy = self.head.scores(states, ids[mask], temperature)
        zeros = torch.zeros(mask.shape, device=self.device)
        return TokenLogprobs(
            zeros.masked_scatter(mask, chosen), zeros.masked_scatter(mask, entropy), mask
        )

    def targets(self, buffers: Sequence[TokenBuffer]) -> tuple[Tensor, Tensor]:
        """Return ids (B, T) and the mask (B, T) of policy tokens that have a state before them."""
        length = max(len(buffer) for buffer in buffers)
        ids = torch.zeros(len(buffers), length, dtype=torch.long)
        mask = torch.zeros(len(buffers), length, dtype=torch.bool)
        for row, buffer in enumerate(buffers):
            ids[row, : len(buffer)] = torch.tensor(buffer.ids)
            mask[row, : len(buffer)] = torch.tensor(buffer.loss_mask, dtype=torch.bool)
        mask[:, 0] = False
        return ids.to(self.device), mask.to(self.device)

    @abstractmethod
    def deciding_states(self, buffers: Sequence[TokenBuffer], mask: Tensor) -> Tensor:
        """Return the states (N, d) that the policy tokens were drawn from, row by row.

        Args:
            buffers: B episodes.
            mask: of their policy tokens, bool (B, T), from ``targets``.
        """
