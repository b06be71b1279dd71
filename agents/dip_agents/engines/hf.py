"""Sampling with transformers models over several turns; knows tokens, not what they mean.

Stock ``generate`` cannot continue a cache when a new image arrives, hence an own decode loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dip_agents.engines.base import Chunk, Reply, Sample, Sampling, TurnSeed
from dip_agents.engines.cuda_graphs import graphed
from dip_agents.engines.decoder import Decoder, decoder_for
from dip_agents.engines.sampling import draw
from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import copy_weights
from dip_agents.tokens.buffer import EncodedImage

REPLY_LAG = {"cpu": 4, "cuda": 16}
"""Steps of decoding that the environment gets to answer before the engine waits for it, by device:
a step takes about as long on both, but a GPU plays more rows at once."""


class HFEngine:
    """Plays rows with a transformers model over one key-value cache with slots.

    The prompt of a group is prefilled once and its keys and values are copied to the members. Rows
    that decode lie side by side in the cache; while the environment works on the turn of one, the
    others go on, and the slot of a row that has ended goes to the next. When a row moves on depends
    on tokens alone, never on the clock, so that a seed gives the same rows every time.

    Args:
        vlm: the model; in eval mode, its weights fixed while rows are played.
        slots: most rows that are played at once.
        prefill_tokens: most padded tokens of prompts and replies in one forward pass.
        cuda_graphs: on a GPU, replay decoding steps as CUDA graphs; costs memory per size.
    """

    exact_logprobs = True

    def __init__(
        self,
        vlm: VLM,
        slots: int = 256,
        prefill_tokens: int = 16384,
        cuda_graphs: bool = True,
    ) -> None:
        """Keep the model; memory is taken when rows are played."""
        self.vlm = vlm
        self.chat = vlm.chat
        self.slots = slots
        self.prefill_tokens = prefill_tokens
        self.cuda_graphs = cuda_graphs
        self._decoder: Decoder | None = None
        self._version: int | None = None

    def sync(self, vlm: VisionLanguageModel, version: int) -> None:
        """Take over the weights, unless they are the trainer's own.

        Args:
            vlm: the trainer's model; where it is split over ranks, all of them must call this.
            version: other for other weights.
        """
        if vlm is not self.vlm and version != self._version:
            copy_weights(vlm, self.vlm)
            self._version = version

    @torch.no_grad()
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
        self.vlm.vision.forget_images()
        if self._decoder is None:
            decoder = decoder_for(self.vlm)
            self._decoder = graphed(decoder, self.vlm.device) if self.cuda_graphs else decoder
        self._decoder.refresh()
        # One context around everything: autocast then converts each weight once.
        with self.vlm.precision(), ThreadPoolExecutor(1, "environment") as environment:
            _Play(self, self._decoder, prompts, repeats, reply, sampling, turn_seed, environment)()


@dataclass(eq=False)
class _Row:
    """One row while it is played.

    Args:
        number: p*G+g.
        slot: where its keys and values are.
        length: columns that hold them; the token sampled last is not among them yet.
        position: rotary position of the next token to be fed.
        turn: the turn it is in.
        ids: what it said in this turn.
        logprobs: of these ids.
        draws: uniform numbers of this turn, one per token; none when greedy.
        limit: tokens this turn may have.
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
    unfed: int | None = None
    """Token that ended the turn before, to be fed with what follows it."""


@dataclass(eq=False)
class _Waiting:
    """A row whose turn is with the environment."""

    row: _Row
    answer: Future[Chunk | None]
    due: int


@dataclass(eq=False)
class _Prefix:
    """A prefilled prompt, kept while members of its group have yet to start."""

    columns: Tensor
    state: Tensor
    length: int
    position: int


class _Play:
    """One call of ``HFEngine.play``."""

    def __init__(
        self,
        engine: HFEngine,
        decoder: Decoder,
        prompts: Sequence[Chunk],
        repeats: int,
        reply: Reply,
        sampling: Sampling,
        turn_seed: TurnSeed,
        environment: ThreadPoolExecutor,
    ) -> None:
        self.vlm, self.decoder, self.prompts, self.repeats = engine.vlm, decoder, prompts, repeats
        self.reply, self.sampling, self.turn_seed = reply, sampling, turn_seed
        self.environment = environment
        self.prefill_tokens = engine.prefill_tokens
        rows = len(prompts) * repeats
        slots = min(rows, engine.slots)
        self.cache = decoder.new_cache(slots, sampling.token_budget)
        self.queue = deque(range(rows))
        self.at: list[_Row | None] = [None] * slots
        self.live: list[_Row] = []
        self.waiting: deque[_Waiting] = deque()
        self.ready: list[tuple[_Row, Chunk]] = []
        self.prefixes: dict[int, _Prefix] = {}
        self.clock = 0
        self.lag = REPLY_LAG.get(self.vlm.device.type, REPLY_LAG["cuda"])
        self.ban = decoder.ban
        # Replies are fed together: one row at a time would waste the width of a forward pass.
        self.together = max(1, slots // 4)

    def __call__(self) -> None:
        while self.queue or self.live or self.waiting or self.ready:
            self._take_replies()
            self._admit()
            if len(self.ready) >= self.together or not self.live:
                self._resume()
            self._step()

    def _take_replies(self) -> None:
        """Take the environment's answers that are due; wait for them when nothing else is left."""
        while self.waiting and (self.waiting[0].due <= self.clock or not self.live):
            waiting = self.waiting.popleft()
            chunk = waiting.answer.result()
            if chunk is None:
                self.at[waiting.row.slot] = None
            else:
                self.ready.append((waiting.row, chunk))

    def _admit(self) -> None:
        """Give free slots to rows that have not begun; each prompt is prefilled once."""
        free = [slot for slot, row in enumerate(self.at) if row is None]
        rows = []
        for slot in free[: len(self.queue)]:
            row = _Row(self.queue.popleft(), slot)
            self.at[slot] = row
            rows.append(row)
        if not rows:
            return
        firsts: dict[int, _Row] = {}
        for row in rows:
            prompt = row.number // self.repeats
            if prompt not in self.prefixes:
                firsts.setdefault(prompt, row)
        if firsts:
            states = self._feed_chunks(
                [(row, self.prompts[prompt]) for prompt, row in firsts.items()]
            )
            for (prompt, row), state in zip(firsts.items(), states, strict=True):
                columns = self.cache.columns(row.slot, row.length)
                self.prefixes[prompt] = _Prefix(columns, state.clone(), row.length, row.position)
        by_prompt: dict[int, list[_Row]] = {}
        for row in rows:
            prompt = row.number // self.repeats
            by_prompt.setdefault(prompt, []).append(row)
        begun = []
        for prompt, members in by_prompt.items():
            prefix = self.prefixes[prompt]
            copies = [row for row in members if row is not firsts.get(prompt)]
            if copies:
                self.cache.put([row.slot for row in copies], prefix.columns)
            for row in copies:
                row.length, row.position = prefix.length, prefix.position
            begun += [prefix.state] * len(members)
            if members[-1].number == (prompt + 1) * self.repeats - 1:
                del self.prefixes[prompt]
        self._begin([row for members in by_prompt.values() for row in members], begun)

    def _resume(self) -> None:
        """Feed what the environment said and let those rows speak again."""
        if not self.ready:
            return
        ready, self.ready = self.ready, []
        states = self._feed_chunks(ready)
        for row, _ in ready:
            row.turn += 1
        self._begin([row for row, _ in ready], states)

    def _begin(self, rows: Sequence[_Row], states: Sequence[Tensor]) -> None:
        """Start a turn of some rows and draw its first token from the states given."""
        sampling = self.sampling
        speaking, from_states = [], []
        for row, state in zip(rows, states, strict=True):
            row.ids, row.logprobs = [], []
            row.limit = min(sampling.max_new_tokens, sampling.token_budget - row.length)
            if row.limit <= 0:
                self._end_turn(row)
                continue
            if sampling.temperature > 0:
                generator = np.random.default_rng(self.turn_seed(row.number, row.turn))
                row.draws = generator.random(row.limit)
            speaking.append(row)
            from_states.append(state)
        if speaking:
            self.live += self._draw(speaking, torch.stack(from_states))

    def _step(self) -> None:
        """Feed the last token of every live row and draw the next."""
        self.clock += 1
        if not self.live:
            return
        self._gather()
        rows = self.live
        numbers = np.array([(row.ids[-1], row.position, row.length) for row in rows])
        for row in rows:
            row.position += 1
            row.length += 1
        ids, positions, columns = torch.from_numpy(numbers.T.copy()).to(self.vlm.device)
        width = max(row.length for row in rows)
        self.cache.reserve(width)
        states = self.decoder.feed(self.cache, ids, positions, columns, width)
        self.live = self._draw(rows, states)

    def _draw(self, rows: list[_Row], states: Tensor) -> list[_Row]:
        """Draw one token per row; returns the rows whose turn goes on."""
        draws = None
        if self.sampling.temperature > 0:
            numbers = [row.draws[len(row.ids)] for row in rows if row.draws is not None]
            draws = torch.tensor(numbers, dtype=torch.float64)
        logits = self.decoder.logits(states)
        chosen, logprobs = draw(logits, self.ban, self.sampling.temperature, draws)
        eos = self.vlm.chat.eos_token_id
        going = []
        for row, token, logprob in zip(rows, chosen, logprobs, strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            if token == eos or len(row.ids) == row.limit:
                self._end_turn(row)
            else:
                going.append(row)
        return going

    def _end_turn(self, row: _Row) -> None:
        """Hand the turn to the environment; the row keeps its slot."""
        ended = bool(row.ids) and row.ids[-1] == self.vlm.chat.eos_token_id
        sample = Sample(tuple(row.ids), tuple(row.logprobs), not ended)
        row.unfed = row.ids[-1] if row.ids else None
        answer = self.environment.submit(self.reply, row.number, sample)
        self.waiting.append(_Waiting(row, answer, self.clock + self.lag))

    def _gather(self) -> None:
        """Bring the live rows to the first slots, by swapping with whatever is there."""
        count = len(self.live)
        alive = {row.slot for row in self.live}
        movers = [row for row in self.live if row.slot >= count]
        if movers:
            holes = [slot for slot in range(count) if slot not in alive]
            sources, targets, width = [], [], 0
            for row, hole in zip(movers, holes, strict=True):
                displaced, old = self.at[hole], row.slot
                sources.append(old)
                targets.append(hole)
                width = max(width, row.length)
                if displaced is not None:
                    sources.append(hole)
                    targets.append(old)
                    width = max(width, displaced.length)
                    displaced.slot = old
                self.at[old], self.at[hole] = displaced, row
                row.slot = hole
            self.cache.move(sources, targets, width)
        self.live.sort(key=lambda row: row.slot)

    def _feed_chunks(self, pairs: Sequence[tuple[_Row, Chunk]]) -> list[Tensor]:
        """Feed given tokens to some rows; returns the last state (d,) of each."""
        budget = self.sampling.token_budget
        for row, chunk in pairs:
            total = row.length + len(chunk.ids) + (row.unfed is not None)
            if total > budget:
                raise ValueError(f"row {row.number}: expected {budget} tokens, got {total}")
        out: list[Tensor] = []
        start = 0
        while start < len(pairs):
            end, longest = start, 0
            while end < len(pairs):
                longest = max(longest, len(pairs[end][1].ids) + 1)
                if end > start and longest * (end + 1 - start) > self.prefill_tokens:
                    break
                end += 1
            out += self._forward(pairs[start:end])
            start = end
        return out

    def _forward(self, pairs: Sequence[tuple[_Row, Chunk]]) -> list[Tensor]:
        vlm, device = self.vlm, self.vlm.device
        fed = [[*([] if row.unfed is None else [row.unfed]), *chunk.ids] for row, chunk in pairs]
        longest = max(map(len, fed))
        ids = np.full((len(fed), longest), vlm.chat.eos_token_id)
        self.cache.reserve(
            max(row.length + len(tokens) for (row, _), tokens in zip(pairs, fed, strict=True))
        )
        columns = np.full((len(fed), longest), self.cache.scratch)
        places = np.zeros((3, len(fed), longest), dtype=np.int64)
        images: list[EncodedImage] = []
        for b, ((row, chunk), tokens) in enumerate(zip(pairs, fed, strict=True)):
            n = len(tokens)
            ids[b, :n] = tokens
            columns[b, :n] = row.length + np.arange(n)
            places[:, b, :n], row.position = vlm.positions(tokens, chunk.images, row.position)
            row.length += n
            row.unfed = None
            images += chunk.images
        width = max(row.length for row, _ in pairs)
        where = torch.from_numpy(columns).to(device)
        slots = torch.tensor([row.slot for row, _ in pairs], device=device)
        self.cache.aim(slots, where, width)
        embeds, extra = vlm.embed(torch.from_numpy(ids).to(device), images, vlm.features_of(images))
        states = vlm.core.model.language_model(
            inputs_embeds=embeds,
            position_ids=torch.from_numpy(places).to(device),
            attention_mask=(torch.arange(width, device=device) <= where[:, :, None])[:, None],
            past_key_values=self.cache,
            use_cache=True,
            **extra,
        ).last_hidden_state
        return [states[b, len(tokens) - 1].to(self.decoder.dtype) for b, tokens in enumerate(fed)]
