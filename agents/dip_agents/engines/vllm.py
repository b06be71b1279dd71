"""Sampling with vLLM in this process, with a weight sync from the trainer after each step."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from dip_agents.engines.base import (
    Chunk,
    EngineError,
    Reply,
    RolloutRequest,
    Sampling,
    TurnSeed,
)
from dip_agents.engines.config import WeightSync
from dip_agents.engines.vllm_requests import Row, TurnRequests
from dip_agents.models.base import VisionLanguageModel
from dip_agents.models.lora import adapter_rank
from dip_agents.models.weights import checkpoint_weights, write_checkpoint
from dip_agents.runtime.random_state import rng_state, set_rng_state
from dip_agents.tokens.buffer import TokenBudgetError
from dip_env.errors import ConfigError

GPU_MEMORY = 0.4
"""Share of the GPU's memory for vLLM's weights and cache, beside the trainer."""
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks vLLM serves."""
REPLY_LAG = 2
"""Engine steps that the environment has for its reply before the engine waits for it."""


class VLLMEngine:
    """Generates rows with vLLM's offline engine; each turn is a request with the whole row so far.

    Prefix caching keeps what was computed before, rows move on by themselves, and the environment
    works beside the engine. What the engine read is compared with the row token by token. A seed
    gives the same turn up to vLLM's own numerics, which depend on what else is in a batch.

    Args:
        vlm: the trainer's model; vLLM gets its weights now, and again by ``sync``.
        folder: a model folder to start from instead of a temporary copy of ``vlm``; until the
            first ``sync`` its weights sample, those under a LoRA with ``adapter``.
        weight_sync: ``merged`` is faster per token, ``adapter`` transfers less.
        token_budget: longest row.
        max_images: most images in a row.
        max_image_side: no image has more pixels than a square of this side.
        sleep: 0 stays awake; 1 frees the GPU after each play and keeps the weights in host
            memory; 2 drops them, so that every play needs a ``sync`` before it. GPU only.
        options: more keywords for ``vllm.LLM``, which replace those that are set here.

    Raises:
        ConfigError: when vLLM is missing or does not support a setting.
    """

    exact_logprobs = False

    def __init__(
        self,
        vlm: VisionLanguageModel,
        folder: Path | str | None = None,
        *,
        weight_sync: WeightSync = "merged",
        token_budget: int = 2048,
        max_images: int = 16,
        max_image_side: int = 2048,
        sleep: Literal[0, 1, 2] = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Start vLLM, which takes up to a minute."""
        self.chat = vlm.chat
        self.token_budget = token_budget
        self.weight_sync = weight_sync
        self.version: int | None = None
        """Version of the trainer's weights that sample, None before the first ``sync``."""
        self._sleep = sleep
        self._asleep: set[str] = set()
        self._dropped = False  # asleep at level 2: there are no weights
        self._banned = vlm.banned_ids
        self._lora: Any = None
        rank = _lora_rank(vlm, weight_sync)
        if sleep not in (0, 1, 2):
            raise ConfigError(f"sleep: expected 0, 1 or 2, got {sleep!r}")
        if sleep == 2 and weight_sync == "adapter":
            raise ConfigError("sleep: expected 0 or 1 with weight_sync='adapter', got 2")
        self._vllm = _import_vllm()
        if sleep and not torch.cuda.is_available():
            raise ConfigError(f"sleep: expected 0, since vLLM sleeps on a GPU only; got {sleep}")
        self._folder = tempfile.TemporaryDirectory(prefix="dip-vllm-")
        if folder is None:
            merged = weight_sync == "merged"
            folder = write_checkpoint(vlm, Path(self._folder.name) / "model", merged=merged)
        multiple = self.chat.patch * self.chat.merge
        keywords: dict[str, Any] = {
            "model": str(folder),
            "runner": "generate",
            "dtype": "bfloat16" if vlm.autocast == torch.bfloat16 else "float32",
            "max_model_len": token_budget,
            "limit_mm_per_prompt": {"image": max_images, "video": 0},
            # As our processor: it never resizes an image whose sides are multiples.
            "mm_processor_kwargs": {
                "size": {"shortest_edge": multiple**2, "longest_edge": max_image_side**2}
            },
            "hf_overrides": {"architectures": [type(vlm.core).__name__]},
            "generation_config": "vllm",
            # Others name the raw distribution, which at temperature != 1 nobody sampled from.
            "logprobs_mode": "processed_logprobs",
            "enable_prefix_caching": True,
            "gpu_memory_utilization": GPU_MEMORY,
            "enable_sleep_mode": sleep > 0,
        }
        if rank:
            keywords |= {"enable_lora": True, "max_lora_rank": rank, "max_loras": 1}
        with _own_random_state():
            self._llm = self._vllm.LLM(**(keywords | dict(options or {})))

    def sync(self, vlm: VisionLanguageModel, version: int) -> None:
        """Load the trainer's weights and drop everything computed with older ones.

        Args:
            vlm: the trainer's model.
            version: differs between different weights; the same version again does nothing.
        """
        if version == self.version and not self._dropped:
            return
        self._wake("weights")
        if self.weight_sync == "adapter":
            self._sync_adapter(vlm, version)
        else:
            # Not ``model.load_weights``: layers may hold their weights packed for their kernels.
            self._llm.collective_rpc(
                "reload_weights", kwargs={"weights_iterator": checkpoint_weights(vlm)}
            )
            self._llm.apply_model(repack_tied_head)
        # vLLM itself would go on with keys, values and image features of the old weights.
        if not self._llm.reset_prefix_cache():
            raise EngineError("sync: expected no request in progress, vLLM kept its prefix cache")
        self._llm.llm_engine.reset_encoder_cache()
        self._llm.reset_mm_cache()
        self.version = version
        self._dropped = False

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
            EngineError: when vLLM read other tokens than the row's, or has no weights.
            TokenBudgetError: when a chunk does not fit the token budget.
        """
        if sampling.token_budget > self.token_budget:
            raise TokenBudgetError(
                f"token_budget: expected at most the engine's {self.token_budget}, "
                f"got {sampling.token_budget}"
            )
        if self._dropped:
            raise EngineError("play: expected a sync first, since sleep=2 dropped the weights")
        self._wake("weights")
        self._wake("kv_cache")
        request = RolloutRequest(prompts, repeats, reply, sampling, turn_seed)
        turns = TurnRequests(
            self._llm, self._vllm.SamplingParams, self._lora, self.chat, self._banned
        )
        with _own_random_state(), ThreadPoolExecutor(1, "environment") as environment:
            _Play(request, turns, environment).run()
        if self._sleep:
            self._llm.sleep(level=self._sleep)
            self._asleep = {"weights", "kv_cache"}
            self._dropped = self._sleep == 2

    def _wake(self, tag: str) -> None:
        """Wake one part; the cache stays asleep during a weight sync."""
        if tag in self._asleep:
            self._llm.wake_up(tags=[tag])
            self._asleep.discard(tag)

    def _sync_adapter(self, vlm: VisionLanguageModel, version: int) -> None:
        """Write the LoRA to disk and serve it under a new name.

        Under an old name vLLM would go on with the keys and values of the old adapter.
        """
        folder = Path(self._folder.name) / f"policy-v{version}"
        # The embedding never changes here; to look whether it did would ask the network.
        vlm.model.save_pretrained(folder, save_embedding_layers=False)
        old = self._lora
        # vLLM numbers adapters from 1 and does not load a number again.
        number = 1 if old is None else old.lora_int_id + 1
        request = importlib.import_module("vllm.lora.request").LoRARequest
        self._lora = request(f"policy-v{version}", number, str(folder))
        if old is not None:
            self._llm.llm_engine.remove_lora(old.lora_int_id)
            shutil.rmtree(old.lora_path, ignore_errors=True)
        self._llm.llm_engine.add_lora(self._lora)


class _Play:
    """One call of ``VLLMEngine.play``.

    Args:
        request: the rows to generate.
        turns: sends their turns to vLLM.
        environment: one thread for the replies.
    """

    def __init__(
        self, request: RolloutRequest, turns: TurnRequests, environment: ThreadPoolExecutor
    ) -> None:
        self.request, self.turns, self.environment = request, turns, environment
        self.rows = [
            Row(number, list(chunk.ids), list(chunk.images)) for number, chunk in request.openings()
        ]
        self.sent: dict[str, tuple[str, Row]] = {}  # by vLLM's number
        self.replies: deque[tuple[int, Row, Future[Chunk | None]]] = deque()

    def run(self) -> None:
        """Generate all rows to their ends."""
        step = 0
        try:
            for row in self.rows:
                self._send(row)
            while self.sent or self.replies:
                # Waiting by steps, not by the clock, keeps batches the same in every run.
                while self.replies and (self.replies[0][0] <= step or not self.sent):
                    _, row, future = self.replies.popleft()
                    self._go_on(row, future.result())
                if self.sent:
                    for output in self.turns.step():
                        self._finish(output, step)
                step += 1
        finally:
            if self.sent:
                self.turns.abort([name for name, _ in self.sent.values()])

    def _send(self, row: Row) -> None:
        budget = self.request.sampling.token_budget
        if len(row.ids) >= budget:
            raise TokenBudgetError(
                f"token_budget: expected more than {len(row.ids)} for row {row.number}, "
                f"got {budget}"
            )
        seed = self.request.turn_seed(row.number, row.turn)
        name = self.turns.send(row, self.request.sampling, seed)
        self.sent[_number(name)] = (name, row)

    def _finish(self, output: Any, step: int) -> None:
        """Check a finished turn and pass it to the environment."""
        _, row = self.sent.pop(_number(output.request_id))
        sample = self.turns.sample(output, row)
        row.ids.extend(sample.ids)
        future = self.environment.submit(self.request.reply, row.number, sample)
        self.replies.append((step + REPLY_LAG, row, future))

    def _go_on(self, row: Row, chunk: Chunk | None) -> None:
        if chunk is None:
            return
        row.ids.extend(chunk.ids)
        row.images.extend(chunk.images)
        row.turn += 1
        self._send(row)


def repack_tied_head(model: Any) -> None:
    """Pack a head that shares the embedding's weights again, on a CPU.

    There vLLM computes with packed copies. Reloading (0.32) makes new ones of what was loaded, but
    the weights of a tied head come under the embedding's name, and it would keep its old copy.

    Args:
        model: vLLM's model.
    """
    for module in model.modules():
        # A layer that packed its own weight keeps an empty one.
        if hasattr(module, "cpu_linear") and module.weight.numel() > 0:
            module.quant_method.process_weights_after_loading(module)


def _number(name: str) -> str:
    """Return vLLM's own number of a request, to which it may add random letters."""
    return name.partition("-")[0]


def _import_vllm() -> Any:
    """Import vLLM so that its engine runs in this process, where a weight sync can reach it."""
    name = "VLLM_ENABLE_V1_MULTIPROCESSING"
    if os.environ.setdefault(name, "0") != "0":
        raise ConfigError(f"{name}: expected 0 in the environment, got {os.environ[name]!r}")
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        raise ConfigError(
            "engine: vllm expects the package vllm, which needs an environment of its own: "
            f'pip install "dip-env[train,vllm]" ({error})'
        ) from error


def _lora_rank(vlm: VisionLanguageModel, weight_sync: str) -> int:
    """Return the rank of the adapter to serve, 0 for none."""
    if weight_sync not in get_args(WeightSync):
        raise ConfigError(
            f"weight_sync: expected one of {get_args(WeightSync)}, got {weight_sync!r}"
        )
    if weight_sync == "merged":
        return 0
    rank = adapter_rank(vlm.model)
    if not rank:
        raise ConfigError(
            "weight_sync: expected a model with a LoRA for 'adapter', got one without"
        )
    if rank not in LORA_RANKS:
        raise ConfigError(f"lora_rank: expected one of {LORA_RANKS} for vLLM, got {rank}")
    return rank


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Restore the random state of the process: vLLM seeds it, and draws from it on a CPU."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)
