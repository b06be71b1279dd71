"""The processes of one run and their collective operations.

A launcher (``accelerate launch``, or ``torchrun``) starts the same program several times and sets
environment variables that give each process its rank. Every message between ranks goes through
``DistributedContext``, so that a lost rank is one clear error wherever it shows first.
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
import torch.distributed as dist
from torch import nn

from dip_env.errors import ConfigError, DipError

T = TypeVar("T")

BUCKET = 1 << 26
"""Gradients that are summed in one message; 256 MB in float32."""

_LOST = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|timed out|tcpstore|process ?group",
    re.IGNORECASE,
)
"""Error texts of the backends for a lost peer; gloo raises only ``RuntimeError``."""


class LostRankError(DipError, RuntimeError):
    """Another process of the run has died or does not respond."""


class RanksDifferError(DipError, RuntimeError):
    """Something that must be the same on every rank is not; the run would be silently wrong."""


class DistributedContext:
    """The processes of a run, one of which is this one.

    Args:
        rank: of this process, from 0; rank 0 logs, writes and evaluates.
        world_size: number of processes.
        sharded: weights, gradients and optimizer are sharded over the ranks (FSDP2) instead of
            replicated on each (data parallel).
        reshard_after_forward: a sharded layer frees the gathered weights between its forward and
            its backward pass.
    """

    def __init__(
        self,
        rank: int = 0,
        world_size: int = 1,
        *,
        sharded: bool = False,
        reshard_after_forward: bool = True,
    ) -> None:
        """Describe a process; the default is a single process, which sends no messages."""
        self.rank = rank
        self.world_size = world_size
        self.sharded = sharded
        self.reshard_after_forward = reshard_after_forward
        self.activity = "start"
        """What this rank is doing, for the message when another one is lost."""

    @classmethod
    def launched(
        cls,
        timeout: float = 1800.0,
        device: str = "auto",
        environ: Mapping[str, str] = os.environ,
    ) -> DistributedContext:
        """Join the processes of a launcher, or return a single process without one.

        The environment variables are read directly: they are the same under ``torchrun``, and
        no global state is left behind. Each rank uses the GPU of its local rank.

        Args:
            timeout: seconds that a rank waits for the others before it gives up.
            device: ``cpu`` uses the CPU even where there are GPUs.
            environ: environment variables of the launcher.

        Returns:
            The context; close it, or use it in a ``with``.

        Raises:
            ConfigError: for an unsupported setting of the launcher.
            LostRankError: when the others do not join within the timeout.
        """
        if not 0 < timeout < float("inf"):
            raise ConfigError(f"rank_timeout: expected seconds above 0, got {timeout}")
        sharded, reshard = _sharding(environ)
        world_size = int(environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        rank = int(environ["RANK"])
        found = cls(rank, world_size, sharded=sharded, reshard_after_forward=reshard)
        gpu = device != "cpu" and torch.cuda.is_available()
        if gpu:
            local, there = int(environ["LOCAL_RANK"]), torch.cuda.device_count()
            if local >= there:
                raise ConfigError(
                    f"num_processes: expected at most the {there} GPUs, got {world_size}"
                )
            torch.cuda.set_device(local)
        with found.watch_peers():
            dist.init_process_group(
                # Objects go over gloo on GPUs too: a lost peer closes its connection, where NCCL
                # would wait for the timeout.
                "cpu:gloo,cuda:nccl" if gpu else "gloo",
                timeout=timedelta(seconds=timeout),
            )
        return found

    @property
    def is_main(self) -> bool:
        """True for rank 0, which logs, writes and evaluates."""
        return self.rank == 0

    def shard(self, count: int, rank: int | None = None) -> range:
        """Return the indices of the items that belong to a rank, as even as possible.

        Args:
            count: number of items.
            rank: the rank; this one by default.

        Returns:
            Consecutive indices; those of all ranks in order are 0 to ``count - 1``.
        """
        rank = self.rank if rank is None else rank
        each, more = divmod(count, self.world_size)
        start = rank * each + min(rank, more)
        return range(start, start + each + (rank < more))

    def all_gather(self, value: T) -> list[T]:
        """Return one small object of each rank, in the order of the ranks.

        Args:
            value: something that pickles; tensors on the CPU.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        with self.watch_peers():
            dist.all_gather_object(values, value)
        return values

    def check_same(self, what: str, value: object) -> None:
        """Check that a value is the same on all ranks; all must call this.

        Args:
            what: name of the value, for the message.
            value: something small that pickles and compares.

        Raises:
            RanksDifferError: on every rank, when one differs from the first.
        """
        values = self.all_gather(value)
        others = [rank for rank, one in enumerate(values) if one != values[0]]
        if others:
            raise RanksDifferError(
                f"{what}: expected the same on all ranks, got {values[0]!r} on rank 0 and "
                f"{values[others[0]]!r} on rank {others[0]}"
            )

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum the gradients of all ranks, in float32, in place.

        This runs once per update on the accumulated gradients and does not use torch's
        ``DistributedDataParallel``: its hooks expect the same number of backward passes through
        the same parameters on every rank, which rollouts of unequal length, batches without an
        image and ranks without a rollout do not give. Sums, not means: the losses of all ranks
        are parts of one loss.

        Args:
            parameters: the same on every rank; one that has a gradient on some rank has one on
                all of them afterwards.
        """
        if self.world_size == 1:
            return
        those = list(parameters)
        have = torch.tensor([p.grad is not None for p in those], dtype=torch.uint8)
        with self.watch_peers():
            dist.all_reduce(have, dist.ReduceOp.MAX)
            touched = [p for p, one in zip(those, have.tolist(), strict=True) if one]
            for bucket in _buckets(touched):
                self._sum_bucket(bucket)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.all_gather(None)

    @contextmanager
    def watch_peers(self) -> Iterator[None]:
        """Turn the backends' various errors for a lost peer into one.

        Raises:
            LostRankError: naming the rank that noticed and its activity.
        """
        try:
            yield
        except LostRankError:
            raise
        except RuntimeError as error:
            if self.world_size == 1 or not lost_peer(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise LostRankError(
                f"rank {self.rank} of {self.world_size} lost another rank at {self.activity} "
                f"({reason})"
            ) from error

    def close(self) -> None:
        """Leave the process group; may be called twice."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close after a success; after an error the group stays until the process ends."""
        if error is None:
            self.close()

    def _sum_bucket(self, parameters: list[nn.Parameter]) -> None:
        grads = [
            torch.zeros_like(p, dtype=torch.float32) if p.grad is None else p.grad.float()
            for p in parameters
        ]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        parts = flat.split([p.numel() for p in parameters])
        for parameter, part in zip(parameters, parts, strict=True):
            total = part.view_as(parameter).to(parameter.dtype)
            if parameter.grad is None:
                parameter.grad = total.clone()
            else:
                parameter.grad.copy_(total)


def lost_peer(error: BaseException) -> bool:
    """Return whether an error of torch means that another process is lost."""
    return isinstance(error, dist.DistError) or bool(_LOST.search(str(error)))


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Split parameters into buckets of one device and at most ``BUCKET`` numbers."""
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
    """Return whether weights are sharded and resharded; unsupported settings are refused."""

    def on(name: str, default: str = "false") -> bool:
        return environ.get(name, default).lower() in ("1", "true", "yes")

    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM", "FSDP_OFFLOAD_PARAMS"):
        if on(name):
            raise ConfigError(f"{name}: expected false (data parallel or FSDP2), got true")
    precision = environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision != "no":
        logging.getLogger(__name__).warning(
            "the launcher's mixed_precision %r is not used: dtype sets the precision",
            precision,
        )
    sharded = on("ACCELERATE_USE_FSDP")
    version = environ.get("FSDP_VERSION", "1")
    if sharded and version != "2":
        raise ConfigError(f"fsdp_version: expected 2, got {version}")
    reasons = {
        "FSDP_ACTIVATION_CHECKPOINTING": "use gradient_checkpointing instead",
        "FSDP_CPU_RAM_EFFICIENT_LOADING": "every rank loads the model",
    }
    for name, reason in reasons.items():
        if sharded and on(name):
            raise ConfigError(f"{name.lower()}: expected false ({reason}), got true")
    return sharded, on("FSDP_RESHARD_AFTER_FORWARD", "true")
