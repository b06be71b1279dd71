"""Sampling with transformers models over several turns; independent of what the tokens mean.

Stock ``generate`` cannot continue a cache when a new image arrives, hence a decode loop of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from dip_agents.engines.base import Chunk, Reply, RolloutRequest, Sample, Sampling, TurnSeed
from dip_agents.engines.cuda_graphs import graphed
from dip_agents.engines.decoder import Decoder, decoder_for
from dip_agents.engines.prefill import Prefiller, Row
from dip_agents.engines.replies import environment_executor
from dip_agents.engines.sampling import draw
from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import copy_weights
from dip_agents.tokens.batching import token_limit

REPLY_LAG = {"cpu": 4, "cuda": 16}
"""Decoding steps that the environment has for its reply before the engine waits for it, by device:
a step takes about as long on both, but a GPU generates more rows at once."""


class HFEngine:
    """Generates rows with a transformers model over one key-value cache with slots.

    The prompt of a group is prefilled once and its keys and values are copied to the members. Rows
    that decode lie side by side in the cache; while the environment works on the turn of one, the
    others go on, and the slot of a row that has ended goes to the next. When a row continues
    depends on tokens alone, never on the clock, so that a seed gives the same rows every time.

    Args:
        vlm: the model; in eval mode, its weights fixed while rows are generated.
        slots: most rows that are generated at once.
        prefill_tokens: most padded tokens of prompts and replies in one forward pass; by default
            as many as suit the device, see ``token_limit``.
        cuda_graphs: on a GPU, replay decoding steps as CUDA graphs; costs memory per size.
    """

    exact_logprobs = True

    def __init__(
        self,
        vlm: VLM,
        slots: int = 256,
        prefill_tokens: int | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        """Store the model; memory is taken when rows are generated."""
        self.vlm = vlm
        self.chat = vlm.chat
        self.slots = slots
        self.prefill_tokens = token_limit(prefill_tokens, vlm.device.type)
        self.cuda_graphs = cuda_graphs
        self._decoder: Decoder | None = None
        self._version: int | None = None

    def sync(self, vlm: VisionLanguageModel, version: int) -> None:
        """Copy the trainer's weights, unless the engine samples from them.

        Args:
            vlm: the trainer's model; where it is sharded, all ranks must call this.
            version: differs between different weights.
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
        """Generate ``repeats`` rows of each prompt to their ends, see ``Engine``."""
        self.vlm.model.eval()
        self.vlm.vision.forget_images()
        if self._decoder is None:
            decoder = decoder_for(self.vlm)
            self._decoder = graphed(decoder, self.vlm.device) if self.cuda_graphs else decoder
        self._decoder.refresh()
        request = RolloutRequest(prompts, repeats, reply, sampling, turn_seed)
        slots = min(request.rows, self.slots)
        # One context around everything: autocast then converts each weight once.
        with self.vlm.precision(), environment_executor(self.vlm.device) as environment:
            cache = self._decoder.new_cache(slots, sampling.token_budget)
            prefiller = Prefiller(
                self.vlm, cache, self._decoder.dtype, sampling.token_budget, self.prefill_tokens
            )
            _Play(request, self._decoder, prefiller, slots, environment).run()


@dataclass(eq=False)
class _Waiting:
    """A row whose turn is with the environment, until the step at which the engine waits for it."""

    row: Row
    reply: Future[Chunk | None]
    due: int


@dataclass(eq=False)
class _Prefix:
    """A prefilled prompt, kept while members of its group have yet to start."""

    columns: Tensor
    state: Tensor
    length: int
    position: int


class _Play:
    """One call of ``HFEngine.play``: which row has which slot, and what happens at each step.

    A row waits in ``queue`` until it gets a slot. It then is ``live`` while its turn is decoded,
    ``waiting`` while the environment works on that turn, and ``ready`` once the environment's chunk
    is there to be prefilled, after which it is live again. It keeps its slot until it has ended.

    Args:
        request: the rows to generate.
        decoder: feeds one token to each live row.
        prefiller: feeds prompts and chunks; its cache holds all rows.
        slots: rows that are generated at once.
        environment: computes the replies.
    """

    def __init__(
        self,
        request: RolloutRequest,
        decoder: Decoder,
        prefiller: Prefiller,
        slots: int,
        environment: Executor,
    ) -> None:
        self.request, self.sampling = request, request.sampling
        self.decoder, self.prefiller, self.cache = decoder, prefiller, prefiller.cache
        self.environment = environment
        self.device = prefiller.vlm.device
        self.eos = prefiller.vlm.chat.eos_token_id
        self.ban = decoder.ban
        self.queue = deque(range(request.rows))
        self.in_slot: list[Row | None] = [None] * slots
        self.live: list[Row] = []
        self.waiting: deque[_Waiting] = deque()
        self.ready: list[tuple[Row, Chunk]] = []
        self.prefixes: dict[int, _Prefix] = {}
        self.step_count = 0
        self.lag = REPLY_LAG.get(self.device.type, REPLY_LAG["cuda"])
        # Chunks are prefilled together: one row at a time would waste the width of a forward pass.
        self.batch = max(1, slots // 4)

    def run(self) -> None:
        """Generate all rows to their ends."""
        while self.queue or self.live or self.waiting or self.ready:
            self._take_replies()
            self._admit()
            if len(self.ready) >= self.batch or not self.live:
                self._resume()
            self._step()

    def _take_replies(self) -> None:
        """Take the environment's replies that are due; wait for them when no row is live."""
        while self.waiting and (self.waiting[0].due <= self.step_count or not self.live):
            waiting = self.waiting.popleft()
            chunk = waiting.reply.result()
            if chunk is None:
                self.in_slot[waiting.row.slot] = None
            else:
                self.ready.append((waiting.row, chunk))

    def _admit(self) -> None:
        """Give free slots to rows that have not begun; each prompt is prefilled once."""
        rows = []
        free = [slot for slot, row in enumerate(self.in_slot) if row is None]
        for slot in free[: len(self.queue)]:
            row = Row(self.queue.popleft(), slot)
            self.in_slot[slot] = row
            rows.append(row)
        if not rows:
            return
        prefilled = self._prefill_prompts(rows)
        states: list[Tensor] = []
        for prompt, members in groupby(rows, self._prompt_of):
            states += self._copy_prefix(prompt, list(members), prefilled.get(prompt))
        self._begin(rows, states)

    def _prompt_of(self, row: Row) -> int:
        return row.number // self.request.repeats

    def _prefill_prompts(self, rows: Sequence[Row]) -> dict[int, Row]:
        """Prefill prompts that no earlier row has brought; returns the row each now lies in.

        A group may be admitted in several parts, since slots become free one by one: its prefix is
        copied out of the cache, where the first row goes on to write behind it.
        """
        firsts: dict[int, Row] = {}
        for row in rows:
            if self._prompt_of(row) not in self.prefixes:
                firsts.setdefault(self._prompt_of(row), row)
        if firsts:
            states = self.prefiller.feed(
                [(row, self.request.prompts[prompt]) for prompt, row in firsts.items()]
            )
            for (prompt, row), state in zip(firsts.items(), states, strict=True):
                columns = self.cache.columns(row.slot, row.length)
                self.prefixes[prompt] = _Prefix(columns, state.clone(), row.length, row.position)
        return firsts

    def _copy_prefix(
        self, prompt: int, members: Sequence[Row], prefilled: Row | None
    ) -> list[Tensor]:
        """Copy a prompt to the rows that do not hold it yet; returns the state each begins from."""
        prefix = self.prefixes[prompt]
        copies = [row for row in members if row is not prefilled]
        if copies:
            self.cache.put([row.slot for row in copies], prefix.columns)
        for row in copies:
            row.length, row.position = prefix.length, prefix.position
        # Rows leave the queue in order, so after the last member nobody needs the prefix.
        if members[-1].number == (prompt + 1) * self.request.repeats - 1:
            del self.prefixes[prompt]
        return [prefix.state] * len(members)

    def _resume(self) -> None:
        """Prefill the environment's chunks and begin the next turns of those rows."""
        if not self.ready:
            return
        ready, self.ready = self.ready, []
        states = self.prefiller.feed(ready)
        for row, _ in ready:
            row.turn += 1
        self._begin([row for row, _ in ready], states)

    def _begin(self, rows: Sequence[Row], states: Sequence[Tensor]) -> None:
        """Start a turn of some rows and draw its first token from the states given."""
        sampling = self.sampling
        begun, begun_states = [], []
        for row, state in zip(rows, states, strict=True):
            row.ids, row.logprobs = [], []
            row.limit = min(sampling.max_new_tokens, sampling.token_budget - row.length)
            if row.limit <= 0:
                self._end_turn(row)
                continue
            if sampling.temperature > 0:
                generator = np.random.default_rng(self.request.turn_seed(row.number, row.turn))
                row.draws = generator.random(row.limit)
            begun.append(row)
            begun_states.append(state)
        if begun:
            self.live += self._draw(begun, torch.stack(begun_states))

    def _step(self) -> None:
        """Feed the last token of every live row and draw the next."""
        self.step_count += 1
        if not self.live:
            return
        self._gather()
        rows = self.live
        width = max(row.length for row in rows) + 1
        self.cache.reserve(width)
        fed = [(row.ids[-1], row.position, row.length) for row in rows]
        fed += [(0, 0, self.cache.scratch)] * self.cache.padding(len(rows))
        for row in rows:
            row.position += 1
            row.length += 1
        ids, positions, columns = torch.from_numpy(np.array(fed).T.copy()).to(self.device)
        states = self.decoder.feed(self.cache, ids, positions, columns, width)
        self.live = self._draw(rows, states)

    def _draw(self, rows: list[Row], states: Tensor) -> list[Row]:
        """Draw one token per row from the first states; returns the rows whose turn goes on."""
        draws = None
        if self.sampling.temperature > 0:
            numbers = [row.draws[len(row.ids)] for row in rows if row.draws is not None]
            draws = torch.tensor(numbers, dtype=torch.float64)
        logits = self.decoder.logits(states)[: len(rows)]
        chosen, logprobs = draw(logits, self.ban, self.sampling.temperature, draws)
        unfinished = []
        for row, token, logprob in zip(rows, chosen, logprobs, strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            if token == self.eos or len(row.ids) == row.limit:
                self._end_turn(row)
            else:
                unfinished.append(row)
        return unfinished

    def _end_turn(self, row: Row) -> None:
        """Pass the turn to the environment; the row keeps its slot."""
        ended = bool(row.ids) and row.ids[-1] == self.eos
        sample = Sample(tuple(row.ids), tuple(row.logprobs), not ended)
        row.pending = row.ids[-1] if row.ids else None
        reply = self.environment.submit(self.request.reply, row.number, sample)
        self.waiting.append(_Waiting(row, reply, self.step_count + self.lag))

    def _gather(self) -> None:
        """Bring the live rows to the first slots, so that the decoder reads one block of memory.

        With n live rows, as many of them lie beyond slot n as slots below n hold no live row. Each
        such row swaps with one of these slots, in one copy for all of them; the row that was there,
        which waits for the environment, keeps its keys and values in the slot left behind.
        """
        count = len(self.live)
        alive = {row.slot for row in self.live}
        movers = [row for row in self.live if row.slot >= count]
        if movers:
            holes = [slot for slot in range(count) if slot not in alive]
            sources, targets, width = [], [], 0
            for row, hole in zip(movers, holes, strict=True):
                displaced, old = self.in_slot[hole], row.slot
                sources.append(old)
                targets.append(hole)
                width = max(width, row.length)
                if displaced is not None:
                    sources.append(hole)
                    targets.append(old)
                    width = max(width, displaced.length)
                    displaced.slot = old
                self.in_slot[old], self.in_slot[hole] = displaced, row
                row.slot = hole
            self.cache.move(sources, targets, width)
        self.live.sort(key=lambda row: row.slot)
