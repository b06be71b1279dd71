"""Which rollouts go through the model at once, from their lengths and common prefixes alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.packing import needed_length, packed_tokens, prefix_key, prefix_length
from dip_env.errors import ConfigError

CPU_TOKENS, GPU_TOKENS = 2048, 16384
"""Tokens of a micro-batch by default. On a CPU more are no faster and only take memory
(measured)."""


def token_limit(setting: int | None, device: str) -> int:
    """Return how many tokens go through a model at once.

    Args:
        setting: what was asked for, or None.
        device: type of the device, such as ``cpu``.
    """
    if setting is not None:
        return setting
    return CPU_TOKENS if device == "cpu" else GPU_TOKENS


def micro_batches(
    buffers: Sequence[TokenBuffer],
    token_budget: int | None = None,
    size: int | None = None,
    share_prefix: bool = False,
) -> list[list[int]]:
    """Split buffers into few micro-batches of similar length.

    Args:
        buffers: what to train on.
        token_budget: tokens, as ``padded_tokens`` counts them, that a micro-batch may hold; a
            longer buffer gets its own.
        size: buffers a micro-batch may hold.
        share_prefix: for models that run a common prefix once: buffers with equal prefixes stay
            together, unless they are too many for one micro-batch.

    Returns:
        Row numbers per micro-batch; every row appears once. Longest first, so that running out
        of memory shows at once.

    Raises:
        ConfigError: for a limit under 1.
    """
    for name, limit in (("token_budget", token_budget), ("size", size)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{name}: expected at least 1, got {limit}")
    units = [
        part
        for group in _groups(buffers, share_prefix)
        for part in _parts(group, token_budget, size)
    ]
    units.sort(key=lambda unit: (-unit.longest, unit.rows))
    return [
        [row for unit in units[start:end] for row in unit.rows]
        for start, end in _cuts(units, token_budget, size)
    ]


def padded_tokens(buffers: Sequence[TokenBuffer], share_prefix: bool = False) -> int:
    """Return how many tokens go through the model for one micro-batch.

    Args:
        buffers: the micro-batch.
        share_prefix: whether the model runs a common prefix once, and without padding.

    Returns:
        Each prefix once and what follows it up to the last policy token; without sharing, each
        buffer padded to the longest.
    """
    if share_prefix:
        return packed_tokens(buffers)
    return len(buffers) * max((len(buffer) for buffer in buffers), default=0)


@dataclass(frozen=True)
class _Unit:
    """Rows that stay together.

    Args:
        rows: their numbers, longest first.
        lengths: tokens of each that are not shared.
        prefix: tokens they share.
        packed: whether padding costs nothing.
    """

    rows: list[int]
    lengths: list[int]
    prefix: int = 0
    packed: bool = False

    @property
    def longest(self) -> int:
        return self.prefix + self.lengths[0]

    @property
    def tokens(self) -> int:
        return self.prefix + sum(self.lengths)


def _groups(buffers: Sequence[TokenBuffer], share_prefix: bool) -> Iterator[_Unit]:
    if not share_prefix:
        yield from (_Unit([row], [len(buffer)]) for row, buffer in enumerate(buffers))
        return
    members: dict[bytes, list[tuple[int, int]]] = {}
    for row, buffer in enumerate(buffers):
        own = needed_length(buffer) - prefix_length(buffer)
        members.setdefault(prefix_key(buffer), []).append((-own, row))
    for group in members.values():
        group.sort()
        rows = [row for _, row in group]
        yield _Unit(rows, [-own for own, _ in group], prefix_length(buffers[rows[0]]), packed=True)


def _parts(group: _Unit, token_budget: int | None, size: int | None) -> Iterator[_Unit]:
    """Cut a group that is too large; each part counts the prefix again."""
    start = 0
    for end in range(1, len(group.rows) + 1):
        more = _part(group, start, end + 1)
        # A part ends where one row more would be too many, also when it is a single row too long.
        if end == len(group.rows) or _over(len(more.rows), more.tokens, token_budget, size):
            yield _part(group, start, end)
            start = end


def _part(group: _Unit, start: int, end: int) -> _Unit:
    return _Unit(group.rows[start:end], group.lengths[start:end], group.prefix, group.packed)


def _over(rows: int, tokens: int, token_budget: int | None, size: int | None) -> bool:
    return (size is not None and rows > size) or (
        token_budget is not None and tokens > token_budget
    )


def _cuts(
    units: Sequence[_Unit], token_budget: int | None, size: int | None
) -> list[tuple[int, int]]:
    """Cut units, longest first, into as few runs as possible, and among these with least padding.

    Dynamic programming over the end of the last run: the best way to cut the first ``end`` units is
    the best way to cut the first ``start`` of them and one run of the rest, for the best ``start``.
    Attention pads packed rows too, so padding counts for them as well.
    """
    if not units:
        return []
    count = sum(len(unit.rows) for unit in units)
    packed = sum(unit.tokens for unit in units)
    tokens = packed if units[0].packed else count * units[0].longest
    if not _over(count, tokens, token_budget, size):
        return [(0, len(units))]
    # best[end]: runs, padded tokens and start of the last run for the first ``end`` units.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for end in range(1, len(units) + 1):
        found: tuple[int, int, int] | None = None
        rows = packed = 0
        # The last run grows to the front, where its units are longer, until it is too large.
        for start in range(end - 1, -1, -1):
            unit = units[start]
            rows, packed = rows + len(unit.rows), packed + unit.tokens
            padded = rows * unit.longest
            tokens = packed if unit.packed else padded
            if start < end - 1 and _over(rows, tokens, token_budget, size):
                break
            new = (best[start][0] + 1, best[start][1] + padded, start)
            # On a tie the last run stays short: a full micro-batch should come first.
            if found is None or new[:2] < found[:2]:
                found = new
        assert found is not None  # a run of one unit is always allowed
        best.append(found)
    # Follow the starts of the last runs back from the end.
    cuts: list[tuple[int, int]] = []
    end = len(units)
    while end:
        cuts.append((best[end][2], end))
        end = best[end][2]
    return cuts[::-1]
