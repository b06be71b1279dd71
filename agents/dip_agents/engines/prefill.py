"""Prompts and chunks through a transformers model, into a cache in which each row has a slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dip_agents.engines.base import Chunk
from dip_agents.engines.slot_cache import SlotCache
from dip_agents.models.vlm import VLM
from dip_agents.tokens.buffer import EncodedImage, TokenBudgetError


@dataclass(eq=False)
class Row:
    """One row while it is generated.

    Args:
        number: p*G+g.
        slot: where its keys and values are.
        length: columns that hold them; the token sampled last is not among them yet.
        position: rotary position of the next token to be fed.
        turn: the turn it is in.
        ids: tokens of this turn.
        logprobs: of these ids.
        draws: uniform numbers of this turn, one per token; none when greedy.
        limit: tokens this turn may have.
        pending: token that ended the turn before, to be fed with what follows it.
    """

    number: int
    slot: int
    length: int = 0
    position: int = 0
    turn: int = 0
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    draws: NDArray[np.float64] | None = None
    limit: int = 0
    pending: int | None = None


class Prefiller:
    """Feeds given tokens to rows, many rows in one forward pass.

    Args:
        vlm: the model.
        cache: of the rows; written in place.
        dtype: of the states that are returned.
        token_budget: most tokens of a row.
        prefill_tokens: most padded tokens in one forward pass.
    """

    def __init__(
        self,
        vlm: VLM,
        cache: SlotCache,
        dtype: torch.dtype,
        token_budget: int,
        prefill_tokens: int,
    ) -> None:
        """Store the parts."""
        self.vlm, self.cache, self.dtype = vlm, cache, dtype
        self.token_budget, self.prefill_tokens = token_budget, prefill_tokens

    def feed(self, pairs: Sequence[tuple[Row, Chunk]]) -> list[Tensor]:
        """Feed a chunk to each of some rows, after the token that ended the row's last turn.

        Args:
            pairs: rows, which are moved on, and what comes next in them.

        Returns:
            The last state (d,) of each row.

        Raises:
            TokenBudgetError: when a chunk does not fit.
        """
        for row, chunk in pairs:
            total = row.length + len(chunk.ids) + (row.pending is not None)
            if total > self.token_budget:
                raise TokenBudgetError(
                    f"token_budget: expected at least {total} for row {row.number}, "
                    f"got {self.token_budget}"
                )
        states: list[Tensor] = []
        lengths = [len(chunk.ids) + 1 for _, chunk in pairs]
        for batch in batches(lengths, self.prefill_tokens):
            states += self._forward(pairs[batch])
        return states

    def _forward(self, pairs: Sequence[tuple[Row, Chunk]]) -> list[Tensor]:
        vlm, device = self.vlm, self.vlm.device
        fed = [[*([] if r.pending is None else [r.pending]), *chunk.ids] for r, chunk in pairs]
        longest = max(map(len, fed))
        # Padding is any token; it is written to the scratch column, which no row reads.
        ids = np.full((len(fed), longest), vlm.chat.eos_token_id)
        self.cache.reserve(
            max(row.length + len(tokens) for (row, _), tokens in zip(pairs, fed, strict=True))
        )
        columns = np.full((len(fed), longest), self.cache.scratch)
        positions = np.zeros((3, len(fed), longest), dtype=np.int64)
        images: list[EncodedImage] = []
        for b, ((row, chunk), tokens) in enumerate(zip(pairs, fed, strict=True)):
            n = len(tokens)
            ids[b, :n] = tokens
            columns[b, :n] = row.length + np.arange(n)
            positions[:, b, :n], row.position = vlm.positions(tokens, chunk.images, row.position)
            row.length += n
            row.pending = None
            images += chunk.images
        width = max(row.length for row, _ in pairs)
        written = torch.from_numpy(columns).to(device)
        slots = torch.tensor([row.slot for row, _ in pairs], device=device)
        self.cache.set_write_positions(slots, written, width)
        embeds, extra = vlm.embed(torch.from_numpy(ids).to(device), images, vlm.features_of(images))
        # A token reads the columns up to its own: those of its row, older ones and new ones.
        states = vlm.core.model.language_model(
            inputs_embeds=embeds,
            position_ids=torch.from_numpy(positions).to(device),
            attention_mask=(torch.arange(width, device=device) <= written[:, :, None])[:, None],
            past_key_values=self.cache,
            use_cache=True,
            **extra,
        ).last_hidden_state
        return [states[b, len(tokens) - 1].to(self.dtype) for b, tokens in enumerate(fed)]


def batches(lengths: Sequence[int], limit: int) -> list[slice]:
    """Cut rows, in their order, into batches of at most ``limit`` tokens with padding.

    Args:
        lengths: tokens of each row.
        limit: most tokens of a batch, each row padded to its longest; a longer row is a batch of
            its own.
    """
    cuts: list[slice] = []
    start = 0
    while start < len(lengths):
        end, longest = start, 0
        while end < len(lengths):
            longest = max(longest, lengths[end])
            if end > start and longest * (end + 1 - start) > limit:
                break
            end += 1
        cuts.append(slice(start, end))
        start = end
    return cuts
