"""A language model as a policy: observations in, completions out, for evaluation and play."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from dip_agents.engines.base import Chunk, Engine, Sample, Sampling
from dip_agents.policies.base import Completion, conversation_key
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.episode import Message, Observation
from dip_env.errors import ConfigError


class VLMPolicy:
    """Answers a batch of observations with a vision-language model.

    Earlier turns of the model are kept as the tokens that it sampled; a conversation that is not
    in this cache is tokenized from its text.

    Args:
        engine: samples from the model.
        temperature: 0 is greedy.
        max_new_tokens: token limit of one turn.
        token_budget: token limit of one episode; an observation that does not fit gets an empty,
            truncated completion, which evaluations count (``truncated_turns``).
        batch_size: conversations that are decoded together.
    """

    def __init__(
        self,
        engine: Engine,
        temperature: float = 0.0,
        max_new_tokens: int = 256,
        token_budget: int = 2048,
        batch_size: int = 32,
    ) -> None:
        """Store the settings.

        Raises:
            ConfigError: for a setting out of range.
        """
        if not temperature >= 0:
            raise ConfigError(f"temperature: expected at least 0, got {temperature}")
        sizes = {
            "max_new_tokens": max_new_tokens,
            "token_budget": token_budget,
            "batch_size": batch_size,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name}: expected at least 1, got {size}")
        self.engine = engine
        self.chat = engine.chat
        self.temperature = temperature
        self.max_new_tokens = max_new_tokens
        self.token_budget = token_budget
        self.batch_size = batch_size
        # Finished conversations are never continued, but look like any other: old ones are evicted.
        self._kept = 4 * batch_size
        self._buffers: OrderedDict[bytes, TokenBuffer] = OrderedDict()

    def check_room(self, observation: Observation) -> None:
        """Ensure that an episode can begin at all, before many are played.

        Args:
            observation: the first of an episode.

        Raises:
            ConfigError: when its image and task leave no room for an action.
        """
        tokens = len(self._buffer(observation))
        if tokens >= self.token_budget:
            width, height = observation.view.view_size
            raise ConfigError(
                f"token_budget: expected more than {tokens}, which the first message takes with an "
                f"overview of {width}x{height}, got {self.token_budget}"
            )

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Sample one turn for each observation.

        Args:
            observations: conversations whose last message is the environment's.
            seeds: one per observation; unused when greedy.

        Returns:
            One completion per observation, in order.
        """
        out: list[Completion] = []
        self._kept = max(self._kept, 4 * len(observations))
        for start in range(0, len(observations), self.batch_size):
            part = slice(start, start + self.batch_size)
            out += self._act(observations[part], seeds[part])
        return out

    def _act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        buffers = [self._buffer(observation) for observation in observations]
        fits = [i for i, buffer in enumerate(buffers) if len(buffer) < self.token_budget]
        done = {i: Completion("", truncated=True) for i in range(len(buffers)) if i not in fits}
        if fits:
            chunks = [
                Chunk(tuple(buffers[i].ids), tuple(buffers[i].images), observations[i].messages)
                for i in fits
            ]
            # The same limits in every call: an engine may keep memory and graphs of that size.
            sampling = Sampling(self.temperature, self.max_new_tokens, self.token_budget)
            samples: dict[int, Sample] = {}
            # One turn each: the environment answers between two calls of this policy.
            self.engine.play(
                chunks, 1, samples.__setitem__, sampling, lambda row, _: seeds[fits[row]]
            )
            for row, i in enumerate(fits):
                sample = samples[row]
                text = "" if sample.failed else self.chat.text(sample.ids)
                cut = sample.truncated and not sample.failed
                done[i] = Completion(text, sample.ids, sample.logprobs or (), cut, sample.failed)
                buffers[i].append_policy(sample.ids, sample.logprobs)
                self._remember(observations[i], text, buffers[i])
        return [done[i] for i in range(len(buffers))]

    def _buffer(self, observation: Observation) -> TokenBuffer:
        messages = observation.messages
        known = (
            self._buffers.pop(conversation_key(messages[:-1]), None) if len(messages) > 1 else None
        )
        if known is None:
            known = TokenBuffer(self.chat.image_token_id)
            known.append_env(*self.chat.opening(messages[:1]))
            rest = messages[1:]
        else:
            rest = messages[-1:]
        for message in rest:
            if message.role == "assistant":
                ids = self.chat.policy_ids(message.text)
                known.append_policy(ids, [0.0] * len(ids))
                continue
            ids, images = self.chat.reply(message)
            if known.ids[-1] != self.chat.eos_token_id:
                ids = [self.chat.eos_token_id, *ids]
            known.append_env(ids, images)
        return known

    def _remember(self, observation: Observation, text: str, buffer: TokenBuffer) -> None:
        message = Message("assistant", text, ())
        self._buffers[conversation_key((*observation.messages, message))] = buffer
        while len(self._buffers) > self._kept:
            self._buffers.popitem(last=False)
