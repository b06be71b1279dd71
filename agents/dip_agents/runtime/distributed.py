"""The processes of one run and all that they tell each other; knows no model and no reward.

A launcher (``accelerate launch``, or ``torchrun``) starts the same program several times and says
in environment variables who is who. Every message between the *ranks* goes through
``DistributedContext``, so that a lost one is one clear error, whatever it is that breaks first.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import distributed, nn

from dip_env.errors import ConfigError, DipError

T = TypeVar("T")

BUCKET = 1 << 26
"""Gradients that are summed in one message; 256 MB in float32."""

_LOST = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|tcpstore|process ?group",
    re.IGNORECASE,
)
"""How the backends speak of a peer that is gone; gloo raises nothing but ``RuntimeError``."""


class LostRankError(DipError, RuntimeError):
    """Another process of the run has died or is silent; this one cannot go on without it."""


class RanksDifferError(DipError, RuntimeError):
    """Something that must be the same on every rank is not; the run would be silently wrong."""


class DistributedContext:
    """The processes of a run, one of which is this one.

    Args:
        index: of this process, from 0; rank 0 logs, writes and evaluates.
        count: how many there are.
        sharded: weights, gradients and optimizer are split over the ranks (FSDP2) instead of
            being kept whole by each (data parallel).
        reshard_after_forward: a sharded layer gives up the others' weights between its forward
            and its backward pass.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        *,
        sharded: bool = False,
        reshard_after_forward: bool = True,
    ) -> None:
        """Note who is who; without arguments this process is alone and all messages are free."""
        self.index = index
        self.count = count
        self.sharded = sharded
        self.reshard_after_forward = reshard_after_forward
        self.doing = "start"
        """What this rank is at, for the message when another one is lost."""

    @classmethod
    def launched(
        cls,
        timeout: float = 1800.0,
        device: str = "auto",
        environ: Mapping[str, str] = os.environ,
    ) -> DistributedContext:
        """Join the processes that a launcher has started, or be alone without one.

        The environment variables are read directly: they are the same under ``torchrun``, and
        no global state is left behind. On GPUs each rank takes the one of its local number.

        Args:
            timeout: seconds that a rank waits for the others before it gives them up.
            device: ``cpu`` keeps to the CPU where there are GPUs.
            environ: what the launcher has set.

        Returns:
            The ranks; close them, or use them in a ``with``.

        Raises:
            ConfigError: for a launcher's setting that does not work here.
            LostRankError: when the others do not come within the timeout.
        """
        if not 0 < timeout < float("inf"):
            raise ConfigError(f"rank_timeout: expected seconds above 0, got {timeout}")
        sharded, reshard = _sharding(environ)
        count = int(environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        ranks = cls(int(environ["RANK"]), count, sharded=sharded, reshard_after_forward=reshard)
        gpu = device != "cpu" and torch.cuda.is_available()
        if gpu:
            local, there = int(environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= there:
                raise ConfigError(f"num_processes: expected at most the {there} GPUs, got {count}")
            torch.cuda.set_device(local)
        with ranks.watched():
            distributed.init_process_group(
                # Small things go over gloo on GPUs too: a lost peer closes its connection, where
                # NCCL would wait for the timeout.
                "cpu:gloo,cuda:nccl" if gpu else "gloo",
                timeout=timedelta(seconds=timeout),
            )
        return ranks

    @property
    def first(self) -> bool:
        """True for the rank that logs, writes and evaluates."""
        return self.index == 0

    def share(self, count: int, index: int | None = None) -> range:
        """Return the part of ``count`` things that falls to a rank, as even as it can be.

        Args:
            count: things in order.
            index: of the rank; this one by default.

        Returns:
            A run of places; those of all ranks in order give all places once.
        """
        index = self.index if index is None else index
        each, more = divmod(count, self.count)
        start = index * each + min(index, more)
        return range(start, start + each + (index < more))

    def gather(self, value: T) -> list[T]:
        """Return everyone's small object, in the order of the ranks.

        Args:
            value: something that pickles; tensors on the CPU.
        """
        if self.count == 1:
            return [value]
        everyone: list[Any] = [None] * self.count
        with self.watched():
            distributed.all_gather_object(everyone, value)
        return everyone

    def agree(self, what: str, value: object) -> None:
        """Check that all ranks hold the same; all must call this.

        Args:
            what: it is, for the message.
            value: something small that pickles and compares.

        Raises:
            RanksDifferError: on every rank, when one differs from the first.
        """
        everyone = self.gather(value)
        others = [index for index, one in enumerate(everyone) if one != everyone[0]]
        if others:
            raise RanksDifferError(
                f"{what}: expected the same on all ranks, got {everyone[0]!r} on rank 0 and "
                f"{everyone[others[0]]!r} on rank {others[0]}"
            )

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in float32, in place.

        Done once per update on what the micro-batches have left, and not by torch's
        ``DistributedDataParallel``: its hooks expect the same number of backward passes through
        the same parameters on every rank, which rollouts of unequal length, batches without an
        image and ranks with nothing to learn do not give. Sums, not means: the losses of all
        ranks are shares of one loss.

        Args:
            parameters: the same on every rank; one that has a gradient on some rank has one on
                all of them afterwards.
        """
        if self.count == 1:
            return
        those = list(parameters)
        have = torch.tensor([p.grad is not None for p in those], dtype=torch.uint8)
        with self.watched():
            distributed.all_reduce(have, distributed.ReduceOp.MAX)
            touched = [p for p, one in zip(those, have.tolist(), strict=True) if one]
            for bucket in _buckets(touched):
                self._sum_bucket(bucket)

    def barrier(self) -> None:
        """Wait for everyone."""
        self.gather(None)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Turn the backends' many ways to say that a peer is gone into one error.

        Raises:
            LostRankError: saying which rank noticed and what it was at.
        """
        try:
            yield
        except LostRankError:
            raise
        except RuntimeError as error:
            if self.count == 1 or not lost_peer(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise LostRankError(
                f"rank {self.index} of {self.count} lost another rank at {self.doing} ({reason})"
            ) from error

    def close(self) -> None:
        """Leave the others; may be called twice."""
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close after a good end; a broken group is left to the end of the process."""
        if error is None:
            self.close()

    def _sum_bucket(self, parameters: list[nn.Parameter]) -> None:
        grads = [
            torch.zeros_like(p, dtype=torch.float32) if p.grad is None else p.grad.float()
            for p in parameters
        ]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        distributed.all_reduce(flat)
        parts = flat.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            total = part.view_as(parameter).to(parameter.dtype)
            if parameter.grad is None:
                parameter.grad = total.clone()
            else:
                parameter.grad.copy_(total)


def lost_peer(error: BaseException) -> bool:
    """Return whether an error of torch says that another process is gone or silent."""
    return isinstance(error, distributed.DistError) or bool(_LOST.search(str(error)))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Split parameters into runs of one device and at most ``BUCKET`` numbers."""
    bucket: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        full = size + parameter.numel() > BUCKET
        if bucket and (full or parameter.device != bucket[0].device):
            yield bucket
            bucket, size = [], 0
        bucket.append(parameter)
        size += parameter.numel()
    if bucket:
        yield bucket


def _sharding(environ: Mapping[str, str]) -> tuple[bool, bool]:
    """Read whether weights are sharded and resharded, and refuse what is not done here."""

    def on(name: str, default: str = "false") -> bool:
        return environ.get(name, default).lower() in ("1", "true", "yes")

    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "FSDP_OFFLOAD_PARAMS"):
        if on(name):
            raise ConfigError(f"{name}: expected false (data parallel or FSDP2), got true")
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        logging.getLogger(__name__).warning(
            "the launcher's mixed_precision %r is not used: --dtype says what is computed in",
            precision,
        )
    sharded = on("ACCELERATE_USE_FSDP")
    version = environ.get("FSDP_VERSION", "1")
    if sharded and version != "2":
        raise ConfigError(f"fsdp_version: expected 2, got {version}")
    reasons = {
        "FSDP_ACTIVATION_CHECKPOINTING": "--gradient-checkpointing does it",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "every rank loads the model",
    }
    for name, reason in reasons.items():
        if sharded and on(name):
            raise ConfigError(f"{name.lower()}: expected false ({reason}), got true")
    return sharded, on("FSDP_RESHARD_AFTER_FORWARD", "true")
