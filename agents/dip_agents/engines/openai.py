"""Sampling over HTTP from a server that speaks the OpenAI chat protocol, such as ``vllm serve``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dip_agents.engines.base import Chunk, EngineError, Reply, Sample, Sampling, TurnSeed
from dip_agents.engines.chat_client import ChatServer, ServerTurn, message_json
from dip_agents.tokens.buffer import TokenBudgetError
from dip_env.errors import ConfigError

if TYPE_CHECKING:
    from dip_agents.models.base import VisionLanguageModel
    from dip_agents.tokens.chat import ChatTokens


class OpenAIEngine:
    """Generates rows on a server, one request per turn with the whole conversation as messages.

    For evaluation, and for rollouts from a policy that stays as it is. The server's text is
    tokenised again with ``chat``, unless the server returns its token ids. A sampler's own settings
    (``top_k``, penalties) may come from the model's files on the server: ``vllm serve
    --generation-config vllm`` has none.

    Args:
        server: takes the requests.
        model: name of the model there.
        chat: the model's messages as tokens; counts the token budget and tokenises the turns.
        concurrency: most requests at once.
        tokens: ask for token ids and logprobs, which ``vllm serve`` gives and others may refuse.
            Logprobs are kept only where the server read the very tokens of the row; they are the
            trainer's only if the server runs with ``--logprobs-mode processed_logprobs``.
        frozen: the policy stays as it is, so ``sync`` does nothing.
        extra: more fields of every request, such as ``{"top_k": -1}``.

    Raises:
        ConfigError: for a concurrency below 1.
    """

    exact_logprobs = False

    def __init__(
        self,
        server: ChatServer,
        model: str,
        chat: ChatTokens,
        *,
        concurrency: int = 16,
        tokens: bool = False,
        frozen: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the settings; nothing is sent yet."""
        if concurrency < 1:
            raise ConfigError(f"concurrency: expected at least 1, got {concurrency}")
        self.chat = chat
        self.model = model
        self.concurrency = concurrency
        self.tokens = tokens
        self.frozen = frozen
        self.extra = dict(extra or {})
        self.server = server

    def sync(self, vlm: VisionLanguageModel, version: int) -> None:
        """Do nothing when ``frozen``.

        Raises:
            EngineError: else, since a server's weights cannot be set from here.
        """
        if not self.frozen:
            raise EngineError(
                "sync: expected an engine whose weights can be set (native, vllm), got a server; "
                "set frozen=True to sample from the server's own weights"
            )

    def play(
        self,
        prompts: Sequence[Chunk],
        repeats: int,
        reply: Reply,
        sampling: Sampling,
        turn_seed: TurnSeed,
    ) -> None:
        """Generate ``repeats`` rows of each prompt to their ends, see ``Engine``.

        Raises:
            EngineError: when the server cannot be reached or refuses, or when none of its responses
                can be read. A single such response is a failed turn, without tokens.
            TokenBudgetError: when a chunk does not fit the token budget.
            ValueError: when a chunk has no messages.
        """
        rows: list[_Row] = []
        for chunk in prompts:
            messages = [message_json(m) for m in chunk.messages]
            rows += [_Row(len(rows) + g, list(chunk.ids), list(messages)) for g in range(repeats)]
        pool = ThreadPoolExecutor(self.concurrency, "server")
        asked: dict[Future[ServerTurn], _Row] = {}
        try:
            for row in rows:
                body = self._body(row, sampling, turn_seed)
                asked[pool.submit(self.server.turn, body)] = row
            while asked:
                done, _ = wait(asked, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda one: asked[one].number):
                    row = asked.pop(future)
                    sample = self._sample(row, future.result())
                    answer = reply(row.number, sample)
                    if answer is None:
                        continue
                    row.ids.extend(answer.ids)
                    row.messages += [message_json(m) for m in answer.messages]
                    row.turn += 1
                    body = self._body(row, sampling, turn_seed)
                    asked[pool.submit(self.server.turn, body)] = row
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        self.server.check_read()

    def _body(self, row: _Row, sampling: Sampling, turn_seed: TurnSeed) -> dict[str, Any]:
        """Return the request for a row's next turn."""
        room = sampling.token_budget - len(row.ids)
        if room < 1:
            raise TokenBudgetError(
                f"token_budget: expected more than {len(row.ids)} for row {row.number}, "
                f"got {sampling.token_budget}"
            )
        if not row.messages or row.messages[-1]["role"] != "user":
            raise ValueError(
                f"row {row.number}: expected a chunk that ends with a user message, "
                f"got {len(row.messages)} messages"
            )
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(row.messages),
            "max_tokens": min(sampling.max_new_tokens, room),
            "temperature": sampling.temperature,
            "top_p": 1.0,
        }
        if sampling.temperature > 0:
            # Servers differ in how many bits they take; 31 are safe.
            body["seed"] = turn_seed(row.number, row.turn) % 2**31
        if self.tokens:
            body |= {"logprobs": True, "return_token_ids": True}
        return body | self.extra

    def _sample(self, row: _Row, turn: ServerTurn) -> Sample:
        """Return the server's turn as a sample and append it to the row."""
        row.messages.append({"role": "assistant", "content": turn.text})
        ids, logprobs = self._given_tokens(row, turn)
        failed = turn.failed
        if ids is not None and self.chat.image_token_id in ids:
            failed = f"row {row.number}: the server sampled an image placeholder"
            self.server.warn(f"{failed}; such turns count as failed")
        if failed:
            return Sample((), None, truncated=True, failed=failed)
        if ids is None:
            ids = self.chat.policy_ids(turn.text)
            if self.chat.text(ids) != self.chat.as_read(turn.text):
                self.server.warn(
                    "the tokenizer here cannot represent the server's text; use the one of "
                    "the server's model"
                )
            if turn.truncated:
                ids = ids[:-1]
        elif not turn.truncated and ids[-1:] != [self.chat.eos_token_id]:
            ids, logprobs = [*ids, self.chat.eos_token_id], None  # the server left it out
        row.ids.extend(ids)
        return Sample(tuple(ids), logprobs, turn.truncated)

    def _given_tokens(
        self, row: _Row, turn: ServerTurn
    ) -> tuple[list[int] | None, tuple[float, ...] | None]:
        """Return token ids and logprobs where the server gave usable ones."""
        if not self.tokens or turn.failed:
            return None, None
        ids, known = turn.choice.get("token_ids"), len(self.chat.tokenizer)
        if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < known for i in ids):
            self.server.warn(
                "the server gives no token ids of the tokenizer here; its text is tokenised again, "
                "no logprobs"
            )
            return None, None
        logprobs = _logprobs(turn.choice.get("logprobs"))
        prompt = turn.answer.get("prompt_token_ids", turn.choice.get("prompt_token_ids"))
        if logprobs is None or len(logprobs) != len(ids) or prompt != row.ids:
            self.server.warn(
                "the server read other tokens than the row's or gave no logprobs: none kept"
            )
            return list(ids), None
        return list(ids), logprobs


def _logprobs(given: Any) -> tuple[float, ...] | None:
    """Return the logprobs of a choice, None where they are absent or of another form."""
    try:
        return tuple(float(token["logprob"]) for token in given["content"])
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


@dataclass(eq=False)
class _Row:
    """One conversation: its tokens as counted here, its messages and its turns so far."""

    number: int
    ids: list[int]
    messages: list[dict[str, Any]]
    turn: int = 0
