"""Gathers sharded tensors (``DTensor``) and shards full ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a tensor with the slices of all processes, on its device; all must call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_full(state: Any) -> Any:
    """Return the same nest of containers with every sharded tensor gathered, on the CPU.

    Args:
        state: such as an optimizer's state dict; all processes must call this on the same.
    """

    def one(value: Any) -> Any:
        return full_tensor(value).cpu() if isinstance(value, DTensor) else value

    return tree_map(one, state)


def shard_like(tensor: Tensor, example: Tensor | None) -> Tensor:
    """Return this process's shard of a full tensor, sharded like ``example``.

    Args:
        tensor: full, the same in every process.
        example: a sharded tensor, or any other for no change.
    """
    if not isinstance(example, DTensor):
        return tensor
    there = tensor.to(example.to_local().device)
    # Every process has the whole: nothing needs to be sent.
    return distribute_tensor(there, example.device_mesh, example.placements, src_data_rank=None)


def shard_optimizer_state(
    state: Mapping[str, Any], parameters: Sequence[nn.Parameter]
) -> dict[str, Any]:
    """Shard the state of an optimizer like its parameters.

    Args:
        state: full, from ``gather_full`` or from an optimizer of full weights.
        parameters: in the order of the optimizer.

    Returns:
        A state dict for the optimizer of these parameters.
    """

    def one(value: Any, parameter: nn.Parameter) -> Any:
        fits = isinstance(value, Tensor) and value.shape == parameter.shape
        return shard_like(value, parameter) if fits else value

    slices = {
        number: {name: one(value, parameters[number]) for name, value in entries.items()}
        if number < len(parameters)
        else entries
        for number, entries in state["state"].items()
    }
    return {**state, "state": slices}
