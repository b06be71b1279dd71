"""Keys and values of many rows that grow at their own pace; independent of tokens and layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

STEP = 64
"""Columns by which a cache grows at least."""


class SlotCache:
    """A fixed number of slots, each the keys and values of one row.

    transformers' caches append one column for all rows; here each row writes where its own text
    ends, and rows can swap slots, so that those that decode lie side by side and a step reads
    them without copying. On a GPU memory is taken once, so that addresses stay; on a CPU it grows
    with the longest row, since products of whole, contiguous keys are three times as fast as those
    of a slice of longer ones (measured in bfloat16).

    Args:
        layers: number of decoder layers.
        slots: S, rows that fit.
        heads: key-value heads H.
        capacity: most columns of a row.
        head_size: D.
        dtype: of keys and values.
        device: where they are.
    """

    is_compileable = False

    def __init__(
        self,
        layers: int,
        slots: int,
        heads: int,
        capacity: int,
        head_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate the memory, or on a CPU the first part of it."""
        self.slots, self.capacity = slots, capacity
        first = min(capacity, STEP) if device.type == "cpu" else capacity
        self.store = torch.zeros(
            layers, 2, slots, heads, first + 1, head_size, dtype=dtype, device=device
        )
        """Keys and values (layers, 2, S, H, C + 1, D); the last column is scratch for padding."""
        self._rows = torch.empty(0)
        self._columns = torch.empty(0)
        self._width = 0

    @property
    def scratch(self) -> int:
        """The column where padding goes; it moves when the cache grows."""
        return self.store.shape[4] - 1

    def padding(self, rows: int) -> int:
        """Return how many slots to feed beyond the first ``rows``, so that few sizes occur.

        For every size a CUDA graph is recorded, or on a CPU a kernel compiled (oneDNN), which takes
        longer than it runs. Sizes are powers of two up to 8, then multiples of 8.

        Args:
            rows: live rows, at least 1.
        """
        size = 1 << (rows - 1).bit_length() if rows <= 8 else -(-rows // 8) * 8
        return min(size, self.slots) - rows

    def reserve(self, width: int) -> None:
        """Make room for rows of so many columns.

        Args:
            width: at most ``capacity``.
        """
        if width <= self.scratch:
            return
        wanted = min(self.capacity, max(width, self.scratch + STEP, self.scratch * 5 // 4))
        layers, two, slots, heads, held, size = self.store.shape
        larger = self.store.new_zeros(layers, two, slots, heads, wanted + 1, size)
        larger[:, :, :, :, :held] = self.store
        self.store = larger

    def set_write_positions(self, rows: Tensor, columns: Tensor, width: int) -> None:
        """Set where the next forward of a transformers model writes.

        Args:
            rows: slots (b,), long.
            columns: column of every new token, long (b, Q).
            width: columns the forward may read.
        """
        self._rows, self._columns, self._width = rows, columns, width

    def places(self, columns: Tensor) -> Tensor:
        """Return where one new token of each of the first n slots is written, for ``write``.

        Args:
            columns: column of each token, long (n,).

        Returns:
            Numbers of vectors of a layer, those of keys first, long (2 * n * heads,).
        """
        _, two, slots, heads, held, _ = self.store.shape
        lines = torch.arange(two * slots * heads, device=columns.device).view(two, slots, heads)
        return (lines[:, : len(columns)] * held + columns[:, None]).flatten()

    def write(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """Write one token of each of the first n slots.

        Args:
            layer: index of the layer.
            places: from ``places``, since the cache last grew.
            keys: (n, H, D).
            values: (n, H, D).
        """
        new = torch.stack([keys, values]).flatten(0, 2)
        self.store[layer].view(-1, new.shape[-1]).index_copy_(0, places, new)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values (b, H, Q, D) and return all readable ones (b, H, width, D)."""
        out = []
        for held, new in zip(self.store[layer_idx], (key_states, value_states), strict=True):
            held[self._rows[:, None], :, self._columns] = new.transpose(1, 2).to(held.dtype)
            out.append(held[:, :, : self._width][self._rows])
        return out[0], out[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions and masks are always passed explicitly."""
        return 0

    def move(self, sources: Sequence[int], targets: Sequence[int], width: int) -> None:
        """Copy the first columns of some slots to others, all at once.

        Args:
            sources: slots to read; a slot may be read more than once.
            targets: distinct slots to write.
            width: columns that hold something.
        """
        device = self.store.device
        read = torch.tensor(sources, device=device)
        write = torch.tensor(targets, device=device)
        held = self.store[:, :, :, :, :width]
        held[:, :, write] = held[:, :, read]

    def columns(self, slot: int, width: int) -> Tensor:
        """Return a copy of the first columns of a slot, (layers, 2, H, width, D)."""
        return self.store[:, :, slot, :, :width].clone()

    def put(self, slots: Sequence[int], columns: Tensor) -> None:
        """Write what ``columns`` returned into some slots."""
        write = torch.tensor(slots, device=self.store.device)
        self.store[:, :, write, :, : columns.shape[3]] = columns[:, :, None]
