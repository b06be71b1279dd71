"""Rows of tokens as requests to vLLM and its outputs as samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dip_agents.engines.base import EngineError, Sample, Sampling
from dip_agents.tokens.banned import BAN_BIAS
from dip_agents.tokens.buffer import EncodedImage
from dip_agents.tokens.chat import ChatTokens


def one_placeholder_per_image(
    ids: Sequence[int], images: Sequence[EncodedImage], placeholder: int
) -> list[int]:
    """Return ids as vLLM takes them; it puts in the rest of each image's placeholders itself.

    Args:
        ids: tokens with ``image.tokens`` placeholders per image.
        images: in the order of their placeholders.
        placeholder: the placeholder id.

    Returns:
        The ids with one placeholder per image.

    Raises:
        EngineError: when the placeholders are not those of the images.
    """
    out: list[int] = []
    at = 0
    queue = iter(images)
    while at < len(ids):
        out.append(ids[at])
        if ids[at] != placeholder:
            at += 1
            continue
        image = next(queue, None)
        if image is None or list(ids[at : at + image.tokens]) != [placeholder] * image.tokens:
            raise EngineError(f"token {at}: expected the placeholders of {len(images)} images")
        at += image.tokens
    if next(queue, None) is not None:
        raise EngineError(f"expected placeholders for {len(images)} images, got fewer")
    return out


def check_prompt(ours: Sequence[int], theirs: Sequence[int] | None, row: int) -> None:
    """Check that the engine read the same tokens that the trainer will train on.

    Args:
        ours: the row so far.
        theirs: the prompt that the engine reports, with all placeholders.
        row: for the message.

    Raises:
        EngineError: at the first difference.
    """
    theirs = [] if theirs is None else theirs
    if list(ours) == list(theirs):
        return
    pairs = zip(ours, theirs, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
    raise EngineError(
        f"row {row}: expected the engine to read our {len(ours)} tokens, got {len(theirs)}; first "
        f"difference at token {at}: ours {list(ours[at : at + 3])}, "
        f"the engine's {list(theirs[at : at + 3])}. Its image processor resizes where ours does "
        "not, or its chat differs"
    )


def prompt_of(
    ids: Sequence[int], images: Sequence[EncodedImage], placeholder: int
) -> dict[str, Any]:
    """Return one row as a vLLM prompt.

    Args:
        ids: the whole row so far.
        images: all its images.
        placeholder: the placeholder id.
    """
    prompt: dict[str, Any] = {
        "prompt_token_ids": one_placeholder_per_image(ids, images, placeholder)
    }
    if images:
        prompt["multi_modal_data"] = {"image": [Image.fromarray(i.pixels) for i in images]}
        # Equal keys mean equal pixels: the engine need not hash them, and encodes each once.
        prompt["multi_modal_uuids"] = {"image": [image.key.hex() for image in images]}
    return prompt


def sampling_keywords(
    sampling: Sampling, length: int, seed: int, eos: int, banned: Sequence[int]
) -> dict[str, Any]:
    """Return the settings of one turn for ``vllm.SamplingParams``.

    The processed logprobs are then those of the distribution the trainer computes: the whole
    vocabulary but for the banned ids, at the sampling temperature.

    Args:
        sampling: how the turn is sampled.
        length: tokens of the row so far.
        seed: of this row's turn.
        eos: the end-of-turn id.
        banned: ids that must not be sampled.
    """
    greedy = sampling.temperature == 0
    return {
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "seed": None if greedy else seed,
        "max_tokens": min(sampling.max_new_tokens, sampling.token_budget - length),
        "stop_token_ids": [eos],
        "logprobs": 0,  # of the sampled token alone
        "logit_bias": dict.fromkeys(banned, BAN_BIAS),
        "detokenize": False,
    }


def sample_of(completion: Any, row: int, eos: int, banned: frozenset[int]) -> Sample:
    """Return a turn of vLLM as a sample, the end of turn included.

    Args:
        completion: a ``vllm.CompletionOutput`` with logprobs.
        row: for messages.
        eos: the end-of-turn id.
        banned: ids that must not be there.

    Raises:
        EngineError: when the turn was aborted, a banned id or no logprob came.
    """
    ids = tuple(int(i) for i in completion.token_ids)
    if completion.finish_reason not in ("stop", "length"):
        raise EngineError(
            f"row {row}: expected the turn to end by stop or length, "
            f"got {completion.finish_reason!r}"
        )
    found = banned.intersection(ids)
    if found:
        raise EngineError(f"row {row}: the engine sampled the banned id {min(found)}")
    if completion.logprobs is None or len(completion.logprobs) != len(ids):
        raise EngineError(f"row {row}: expected a logprob for each of {len(ids)} tokens")
    logprobs = tuple(
        float(by_id[token].logprob) for by_id, token in zip(completion.logprobs, ids, strict=True)
    )
    return Sample(ids, logprobs, not ids or ids[-1] != eos)


@dataclass(eq=False)
class Row:
    """One conversation: its tokens so far, its images and how many turns it has had."""

    number: int
    ids: list[int]
    images: list[EncodedImage]
    turn: int = 0


class TurnRequests:
    """Turns as requests to vLLM's engine.

    Args:
        llm: vLLM's offline engine.
        parameters: vLLM's class of sampling parameters.
        lora: the request for the adapter that samples, or None.
        chat: the special tokens.
        banned: ids that must not be sampled.
    """

    def __init__(
        self, llm: Any, parameters: Any, lora: Any, chat: ChatTokens, banned: Sequence[int]
    ) -> None:
        """Store the parts."""
        self.llm, self.parameters, self.lora, self.chat = llm, parameters, lora, chat
        self.banned, self.banned_set = banned, frozenset(banned)

    def send(self, row: Row, sampling: Sampling, seed: int) -> str:
        """Send a row for its next turn; returns the name vLLM gives the request."""
        keywords = sampling_keywords(
            sampling, len(row.ids), seed, self.chat.eos_token_id, self.banned
        )
        names = self.llm.enqueue(
            [prompt_of(row.ids, row.images, self.chat.image_token_id)],
            [self.parameters(**keywords)],
            lora_request=self.lora,
            use_tqdm=False,
        )
        return str(names[0])

    def step(self) -> list[Any]:
        """Run one step of the engine; returns the outputs of requests that have finished."""
        return [output for output in self.llm.llm_engine.step() if output.finished]

    def sample(self, output: Any, row: Row) -> Sample:
        """Return a finished turn after a check that vLLM read the tokens of the row."""
        check_prompt(row.ids, output.prompt_token_ids, row.number)
        eos = self.chat.eos_token_id
        return sample_of(output.outputs[0], row.number, eos, self.banned_set)

    def abort(self, names: list[str]) -> None:
        """Stop requests."""
        self.llm.llm_engine.abort_request(names, internal=True)
