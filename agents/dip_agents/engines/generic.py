"""Sampling with any family of image-text models: turn by turn, each from the whole row again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dip_agents.engines.base import Chunk, Reply, RolloutRequest, Sample, Sampling, TurnSeed
from dip_agents.engines.sampling import draw
from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.generic_vlm import GenericVLM
from dip_agents.tokens.buffer import EncodedImage, TokenBudgetError
from dip_agents.tokens.chat import ChatTokens


class GenericEngine:
    """Generates rows with the model's own forward pass and cache.

    All rows take their turns together. A turn reads its rows from their beginning, images
    included, and then goes on token by token; nothing is shared between the members of a group.

    Args:
        vlm: the model; in eval mode, its weights fixed while rows are generated.
        rows: most rows in one forward pass.
    """

    exact_logprobs = True

    def __init__(self, vlm: GenericVLM, rows: int = 32) -> None:
        """Store the model."""
        self.vlm = vlm
        self.chat: ChatTokens = vlm.chat
        self.rows = rows

    def sync(self, vlm: VisionLanguageModel, version: int) -> None:
        """Do nothing: the weights are the trainer's."""

    @torch.no_grad()
    def play(
        self,
        prompts: Sequence[Chunk],
        repeats: int,
        reply: Reply,
        sampling: Sampling,
        turn_seed: TurnSeed,
    ) -> None:
        """Generate ``repeats`` rows of each prompt to their ends, see ``Engine``."""
        self.vlm.model.eval()
        request = RolloutRequest(prompts, repeats, reply, sampling, turn_seed)
        ban = self.vlm.ban  # copied to the device here, not for every token
        live = [
            _Row(number, list(chunk.ids), list(chunk.images))
            for number, chunk in request.openings()
        ]
        turn = 0
        while live:
            for row in live:
                row.start(sampling, turn_seed, turn)
            unfinished = [row for row in live if row.limit > 0]
            with self.vlm.precision():
                for start in range(0, len(unfinished), self.rows):
                    batch = unfinished[start : start + self.rows]
                    self._generate(batch, sampling.temperature, ban)
            live = [row for row in live if self._goes_on(row, reply)]
            turn += 1

    def _generate(self, rows: Sequence[_Row], temperature: float, ban: Tensor) -> None:
        """Generate the turn of some rows, token by token until each has ended."""
        vlm, eos = self.vlm, self.chat.eos_token_id
        images = [image for row in rows for image in row.images]
        states, mask, cache = vlm.begin([row.ids for row in rows], images)
        unfinished = list(range(len(rows)))
        while True:
            draws = None
            if temperature > 0:
                numbers = [rows[i].draws[len(rows[i].turn_ids)] for i in unfinished]
                draws = torch.tensor(numbers, dtype=torch.float64)
            chosen, logprobs = draw(vlm.head.logits(states[unfinished]), ban, temperature, draws)
            # A row that has ended is fed its end of turn again and again; nothing reads it.
            fed = [eos] * len(rows)
            for i, token, logprob in zip(unfinished, chosen, logprobs, strict=True):
                rows[i].turn_ids.append(token)
                rows[i].logprobs.append(logprob)
                fed[i] = token
            unfinished = [
                i for i in unfinished if fed[i] != eos and len(rows[i].turn_ids) < rows[i].limit
            ]
            if not unfinished:
                return
            states, mask, cache = vlm.extend(torch.tensor(fed, device=vlm.device), mask, cache)

    def _goes_on(self, row: _Row, reply: Reply) -> bool:
        """Pass a turn to the environment and append its reply; returns whether there is one."""
        ended = bool(row.turn_ids) and row.turn_ids[-1] == self.chat.eos_token_id
        chunk = reply(row.number, Sample(tuple(row.turn_ids), tuple(row.logprobs), not ended))
        if chunk is None:
            return False
        row.ids += [*row.turn_ids, *chunk.ids]
        row.images += chunk.images
        return True


@dataclass(eq=False)
class _Row:
    """One row while it is generated.

    Args:
        number: p*G+g.
        ids: everything before this turn.
        images: of these ids.
        turn_ids: tokens of this turn.
        logprobs: of these tokens.
        draws: uniform numbers of this turn, one per token; none when greedy.
        limit: tokens this turn may have.
    """

    number: int
    ids: list[int]
    images: list[EncodedImage]
    turn_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    draws: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    limit: int = 0

    def start(self, sampling: Sampling, turn_seed: TurnSeed, turn: int) -> None:
        """Begin a turn.

        Raises:
            TokenBudgetError: when the row is longer than the token budget.
        """
        if len(self.ids) > sampling.token_budget:
            raise TokenBudgetError(
                f"token_budget: expected at least {len(self.ids)} for row {self.number}, "
                f"got {sampling.token_budget}"
            )
        self.turn_ids, self.logprobs = [], []
        self.limit = min(sampling.max_new_tokens, sampling.token_budget - len(self.ids))
        if sampling.temperature > 0 and self.limit > 0:
            self.draws = np.random.default_rng(turn_seed(self.number, turn)).random(self.limit)
