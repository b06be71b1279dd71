"""Going on from a checkpoint: whether what it holds fits, before anything is overwritten."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from dip_agents.runtime.checkpoint_files import STATE
from dip_agents.runtime.checkpoints import UNREADABLE, Checkpoint, latest_checkpoint
from dip_agents.runtime.errors import CheckpointError, error_line
from dip_agents.runtime.random_state import check_rng_state


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that a state dict fits a model before anything is overwritten.

    Args:
        weights: from a checkpoint.
        expected: the model's own state dict.

    Raises:
        CheckpointError: naming the first tensor that is missing, extra or of another shape.
    """
    for name, tensor in expected.items():
        if name not in weights:
            raise CheckpointError(f"weights: expected tensor {name!r}, got none of that name")
        if weights[name].shape != tensor.shape:
            raise CheckpointError(
                f"weights: expected {name!r} of shape {tuple(tensor.shape)}, "
                f"got {tuple(weights[name].shape)}"
            )
    for name in weights:
        if name not in expected:
            raise CheckpointError(f"weights: expected no tensor {name!r}; is it another model's?")


def check_fits(found: Checkpoint, expected: Mapping[str, Tensor]) -> None:
    """Check that a run can go on here from a checkpoint, before anything is overwritten.

    Args:
        found: the checkpoint.
        expected: the model's own state dict.

    Raises:
        CheckpointError: for weights of another model, or a random state written with a GPU where
            there is none, or another kind of it.
    """
    check_weights(found.weights, expected)
    try:
        check_rng_state(found.rng)
    except ValueError as error:
        raise CheckpointError(f"{found.path}: {error}") from error


@contextmanager
def reading_state(found: Checkpoint) -> Iterator[None]:
    """Apply what a checkpoint holds; what does not fit is said in one line.

    Args:
        found: the checkpoint.

    Raises:
        CheckpointError: for a state that is not that of this run.
    """
    try:
        yield
    except CheckpointError:
        raise
    except UNREADABLE as error:
        raise CheckpointError(
            f"{found.path / STATE}: expected the state of this run, got: {error!r}"
        ) from error


def where_to_go_on(root: Path | None) -> str:
    """Say from which checkpoint a run that ended can go on.

    Args:
        root: folder of its checkpoints, None for a run without.

    Returns:
        A note for its error.
    """
    try:
        found = None if root is None else latest_checkpoint(root)
    except CheckpointError as error:
        return error_line(error)
    if found is None:
        return "there is no checkpoint yet"
    return f"the last complete checkpoint is {found}: go on from there with resume"
