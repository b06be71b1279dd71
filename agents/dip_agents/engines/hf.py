"""Sampling with transformers models over several turns; knows tokens, not what they mean.

Stock ``generate`` cannot continue a cache when a new image arrives, hence an own decode loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dip_agents.engines.base import Chunk, Reply, Sample, Sampling, TurnSeed
from dip_agents.engines.kv_cache import RowCache
from dip_agents.token_buffer import EncodedImage
from dip_agents.vlm import VLM


class HFEngine:
    """Plays rows with the trainer's own weights over one key-value cache.

    Args:
        vlm: the model; in eval mode, its weights fixed while rows are played.
    """

    same_model = True

    def __init__(self, vlm: VLM) -> None:
        """Keep the model."""
        self.vlm = vlm
        self.chat = vlm.chat

    def sync(self, vlm: VLM, version: int) -> None:
        """Do nothing: the weights are the trainer's."""

    def play(
        self,
        prompts: Sequence[Chunk],
        repeats: int,
        reply: Reply,
        sampling: Sampling,
        turn_seed: TurnSeed,
    ) -> None:
        """Play ``repeats`` rows of each prompt to their ends, see ``Engine``."""
        self.vlm.model.eval()
        session = Session(self.vlm, prompts, repeats, sampling.token_budget)
        live = list(range(len(prompts) * repeats))
        turn = 0
        while live:
            seeds = [turn_seed(row, turn) for row in live]
            samples = session.sample(live, seeds, sampling.temperature, sampling.max_new_tokens)
            chunks = {}
            for row, sample in zip(live, samples, strict=True):
                chunk = reply(row, sample)
                if chunk is not None:
                    chunks[row] = (chunk.ids, chunk.images)
            live = list(chunks)
            if chunks:
                session.append(live, list(chunks.values()))
            turn += 1


class Session:
    """Rows that grow turn by turn over one key-value cache.

    Args:
        vlm: the model; its weights must not change while the session lives.
        prompts: P first chunks, prefilled once each.
        repeats: G rows per prompt; row p*G+g continues prompt p.
        capacity: longest a row may become, in tokens.
    """

    @torch.no_grad()
    def __init__(self, vlm: VLM, prompts: Sequence[Chunk], repeats: int, capacity: int) -> None:
        """Prefill the prompts and repeat their caches."""
        self.vlm = vlm
        self.capacity = capacity
        config = vlm.core.config.text_config
        self.cache = RowCache(config.num_hidden_layers, len(prompts), capacity)
        self.lengths = np.zeros(len(prompts), dtype=np.int64)
        self.positions = np.zeros(len(prompts), dtype=np.int64)
        # Logits of each row's next token, kept between prefill and sampling.
        self.hidden: list[Tensor | None] = [None] * len(prompts)
        self.append(range(len(prompts)), [(p.ids, p.images) for p in prompts])
        self.cache.repeat(repeats)
        self.lengths = self.lengths.repeat(repeats)
        self.positions = self.positions.repeat(repeats)
        self.hidden = [state for state in self.hidden for _ in range(repeats)]

    def room(self, row: int) -> int:
        """Return how many tokens still fit into a row."""
        return int(self.capacity - self.lengths[row])

    @torch.no_grad()
    def append(
        self, rows: Sequence[int], chunks: Sequence[tuple[Sequence[int], Sequence[EncodedImage]]]
    ) -> None:
        """Feed given tokens, such as what the environment said, to some rows.

        Args:
            rows: distinct row numbers.
            chunks: ids and images for each of them, ragged.

        Raises:
            ValueError: when a chunk does not fit its row; nothing is fed.
        """
        longest = max(len(ids) for ids, _ in chunks)
        for row, (ids, _) in zip(rows, chunks, strict=True):
            if len(ids) > self.room(row):
                raise ValueError(
                    f"row {row}: expected at most {self.room(row)} tokens, got {len(ids)}"
                )
        tokens = np.full((len(chunks), longest), self.vlm.processor.tokenizer.pad_token_id)
        slots = np.full((len(chunks), longest), self.capacity)  # scratch for the padding
        places = np.zeros((3, len(chunks), longest), dtype=np.int64)
        for b, (row, (chunk, chunk_images)) in enumerate(zip(rows, chunks, strict=True)):
            n = len(chunk)
            tokens[b, :n] = chunk
            slots[b, :n] = self.lengths[row] + np.arange(n)
            places[:, b, :n], self.positions[row] = self.vlm.positions(
                chunk, chunk_images, int(self.positions[row])
            )
            self.lengths[row] += n
        images = [image for _, chunk_images in chunks for image in chunk_images]
        features = self.vlm.features_of(images)
        states = self._forward(list(rows), tokens, slots, places, images, features)
        for b, (row, (chunk, _)) in enumerate(zip(rows, chunks, strict=True)):
            self.hidden[row] = states[b, len(chunk) - 1]

    @torch.no_grad()
    def sample(
        self,
        rows: Sequence[int],
        seeds: Sequence[int],
        temperature: float = 1.0,
        max_new_tokens: int = 256,
    ) -> list[Sample]:
        """Sample one turn for some rows.

        A row's tokens depend on its own seed only, not on the rows beside it. What was sampled is
        in the cache afterwards; a truncated turn is closed by ``append`` with the end of turn.

        Args:
            rows: distinct row numbers.
            seeds: one per row.
            temperature: above 0 samples, 0 takes the most likely token.
            max_new_tokens: limit per turn, the end of turn included.

        Returns:
            One sample per row.
        """
        draws = np.stack([np.random.default_rng(seed).random(max_new_tokens) for seed in seeds])
        limits = [min(max_new_tokens, self.room(row)) for row in rows]
        ids: list[list[int]] = [[] for _ in rows]
        logprobs: list[list[float]] = [[] for _ in rows]
        live = [b for b, limit in enumerate(limits) if limit > 0]
        states = [self.hidden[row] for row in rows]
        eos = self.vlm.chat.eos_token_id
        # One context around the loop: autocast then converts each weight once, not once per token.
        with self.vlm.precision():
            self._decode(rows, live, states, ids, logprobs, draws, limits, temperature, eos)
        for b, row in enumerate(rows):
            self.hidden[row] = states[b]
        return [
            Sample(tuple(ids[b]), tuple(logprobs[b]), not ids[b] or ids[b][-1] != eos)
            for b in range(len(rows))
        ]

    def _decode(
        self,
        rows: Sequence[int],
        live: list[int],
        states: list[Tensor | None],
        ids: list[list[int]],
        logprobs: list[list[float]],
        draws: np.ndarray,
        limits: list[int],
        temperature: float,
        eos: int,
    ) -> None:
        """Draw token after token until every row has ended its turn; fills ids and logprobs."""
        while live:
            hidden = torch.stack([s for s in (states[b] for b in live) if s is not None])
            step = len(ids[live[0]])
            chosen, logp = _draw(
                self.vlm.log_softmax(hidden, temperature or 1.0),
                torch.from_numpy(draws[live, step]) if temperature > 0 else None,
            )
            for b, token, value in zip(live, chosen, logp, strict=True):
                ids[b].append(token)
                logprobs[b].append(value)
            fed = list(live)
            live = [b for b in live if ids[b][-1] != eos and len(ids[b]) < limits[b]]
            # The last token of every row is fed as well: the next turn continues behind it.
            out = self._feed([rows[b] for b in fed], [ids[b][-1] for b in fed])
            for at, b in enumerate(fed):
                states[b] = out[at]

    def _feed(self, rows: list[int], tokens: list[int]) -> Tensor:
        places = np.broadcast_to(self.positions[rows][None, :, None], (3, len(rows), 1))
        slots = self.lengths[rows][:, None].copy()
        self.positions[rows] += 1
        self.lengths[rows] += 1
        return self._forward(rows, np.array(tokens)[:, None], slots, places.copy(), [], {})[:, 0]

    def _forward(
        self,
        rows: list[int],
        ids: np.ndarray,
        slots: np.ndarray,
        places: np.ndarray,
        images: Sequence[EncodedImage],
        features: dict[bytes, tuple[Tensor, list[Tensor]]],
    ) -> Tensor:
        vlm, device = self.vlm, self.vlm.device
        width = int(self.lengths[rows].max())
        where = torch.from_numpy(slots).to(device)
        every = rows == list(range(self.cache.rows))
        self.cache.aim(None if every else torch.tensor(rows, device=device), where, width)
        columns = torch.arange(width, device=device)
        mask = (columns <= where[:, :, None])[:, None]
        with vlm.precision():
            embeds, extra = vlm.embed(torch.from_numpy(ids).to(device), images, features)
            out = vlm.core.model.language_model(
                inputs_embeds=embeds,
                position_ids=torch.from_numpy(places).to(device),
                attention_mask=mask,
                past_key_values=self.cache,
                use_cache=True,
                **extra,
            )
        return out.last_hidden_state


def _draw(logp: Tensor, draws: Tensor | None) -> tuple[list[int], list[float]]:
    """Draw one token per row by inverse CDF, or the most likely one.

    Args:
        logp: log-probabilities (b, V).
        draws: uniform numbers in [0, 1) (b,), or None for greedy.
    """
    if draws is None:
        chosen = logp.argmax(-1)
    else:
        cumulative = logp.double().exp().cumsum(-1)
        # Scaled by the total, rounding can never point past the last allowed token.
        target = draws.to(logp.device)[:, None] * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]
    values = logp.gather(1, chosen[:, None])[:, 0]
    return chosen.tolist(), values.tolist()
