"""A key-value cache with a write slot per row; knows tensors only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RowCache:
    """Keys and values of many rows that grow at their own pace.

    transformers' caches append one column for all rows; here each row writes where its own text
    ends, so rows that wait cost no memory, and nothing is copied while decoding.

    Args:
        layers: number of decoder layers.
        rows: B.
        capacity: columns per row; one more is kept as scratch for padding.
    """

    is_compileable = False

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        """Remember the sizes; memory is taken at the first write, when shapes are known."""
        self.layers, self.rows, self.capacity = layers, rows, capacity
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self._selected: Tensor | None = None
        self._slots = torch.empty(0)
        self._width = 0

    def aim(self, rows: Tensor | None, slots: Tensor, width: int) -> None:
        """Say where the next forward writes.

        Args:
            rows: row indices (b,), or None for all rows in order.
            slots: column of every new token, long (b, Q); ``capacity`` is the scratch column.
            width: columns the forward may read.
        """
        self._selected, self._slots, self._width = rows, slots, width

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values (b, H, Q, D) and return all readable ones (b, H, width, D)."""
        out = []
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            held = store[layer_idx]
            if held is None:
                heads, head_size = new.shape[1], new.shape[3]
                held = new.new_zeros(self.rows, heads, self.capacity + 1, head_size)
                store[layer_idx] = held
            rows = self._selected
            if rows is None:
                rows = torch.arange(self.rows, device=new.device)
            held[rows[:, None], :, self._slots] = new.transpose(1, 2)
            readable = held[:, :, : self._width]
            out.append(readable if self._selected is None else readable[rows])
        return out[0], out[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions and masks are always passed explicitly."""
        return 0

    def repeat(self, times: int) -> None:
        """Turn every row into ``times`` equal rows (a group that shares its prefix)."""
        self._each(lambda held: held.repeat_interleave(times, dim=0))
        self.rows *= times

    def keep(self, rows: Tensor) -> None:
        """Keep only some rows, in the given order."""
        self._each(lambda held: held[rows])
        self.rows = len(rows)

    def _each(self, change: Any) -> None:
        for store in (self.keys, self.values):
            for layer, held in enumerate(store):
                if held is not None:
                    store[layer] = change(held)
