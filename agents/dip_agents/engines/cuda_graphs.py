"""Decoding steps as CUDA graphs: a step of many small kernels becomes one launch.

A graph has fixed shapes and addresses, so columns are rounded up to a few sizes, as the engine
already does with rows, and inputs are copied into buffers that stay. Not run on a GPU yet; on a
CPU the tests replace the capture by a plain call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dip_agents.engines.decoder import Decoder, TextDecoder
from dip_agents.engines.slot_cache import SlotCache

WIDTH_STEP = 256
"""Columns by which the width of a graph grows."""

Capture = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
"""Work -> how to repeat it, and the tensor its result appears in."""


class CudaCapture:
    """Records work as CUDA graphs that share one pool of memory.

    Sharing is safe here: what a graph returns is read before the next one replays.
    """

    def __init__(self) -> None:
        """Take no memory yet."""
        self._pool: Any = None

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Record work.

        Args:
            work: reads and writes tensors whose addresses stay.

        Returns:
            What replays it, and its output, which every replay overwrites.
        """
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries allocate at their first call, which must not be
            work()  # recorded
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = work()
        return graph.replay, out


class GraphedDecoder:
    """Replays the steps of a ``TextDecoder`` as CUDA graphs.

    Args:
        decoder: its weights stay where they are; ``refresh`` writes into them.
        capture: records work; other than CUDA graphs in tests only.
    """

    def __init__(self, decoder: TextDecoder, capture: Capture | None = None) -> None:
        """Record nothing yet; every size is recorded when it is first needed."""
        self.decoder, self.capture = decoder, capture or CudaCapture()
        self.dtype, self.ban = decoder.dtype, decoder.ban
        self._cache: SlotCache | None = None
        self._graphs: dict[tuple[int, int], tuple[Callable[[], None], Tensor]] = {}
        self._inputs = torch.empty(0, dtype=torch.long)

    def refresh(self) -> None:
        """Copy the model's weights as they are now."""
        self.decoder.refresh()

    def new_cache(self, slots: int, capacity: int) -> SlotCache:
        """Return the cache of the last play where it is large enough: graphs hold its address.

        Old contents are overwritten before they are read.
        """
        held = self._cache
        if held is None or held.slots < slots or held.capacity < capacity:
            if held is not None:
                slots, capacity = max(slots, held.slots), max(capacity, held.capacity)
            # Before the new cache: graphs keep the old one alive.
            self._graphs.clear()
            self._cache = held = None
            self._cache = held = self.decoder.new_cache(slots, capacity)
            held.reserve(capacity)
            self._inputs = torch.zeros(3, slots, dtype=torch.long, device=held.store.device)
        return held

    @torch.no_grad()
    def feed(
        self, cache: SlotCache, ids: Tensor, positions: Tensor, columns: Tensor, width: int
    ) -> Tensor:
        """Feed one token to each of the first n slots, see ``TextDecoder.feed``."""
        rows, columns_read = len(ids), round_width(width, cache.capacity)
        inputs = self._inputs[:, :rows]
        inputs.copy_(torch.stack([ids, positions, columns]))
        key = (rows, columns_read)
        if key not in self._graphs:
            self._graphs[key] = self.capture(
                lambda: self.decoder.feed(cache, inputs[0], inputs[1], inputs[2], columns_read)
            )
        replay, out = self._graphs[key]
        replay()
        return out

    def logits(self, states: Tensor) -> Tensor:
        """Return logits (n, V) in float32, bans not yet applied."""
        return self.decoder.logits(states)


def round_width(width: int, capacity: int) -> int:
    """Return the columns of the graph for so many columns to be read."""
    return min(-(-width // WIDTH_STEP) * WIDTH_STEP, capacity)


def graphed(decoder: Decoder, device: torch.device) -> Decoder:
    """Return the decoder with CUDA graphs where it and the device support them.

    Args:
        decoder: of the model.
        device: where it is.
    """
    if device.type != "cuda" or not isinstance(decoder, TextDecoder):
        return decoder
    return GraphedDecoder(decoder)
