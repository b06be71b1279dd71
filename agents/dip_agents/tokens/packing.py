"""Which tokens of some rollouts go through the model, each only once; independent of the model.

Rollouts of one group begin alike: prompt and overview. Their *prefix*, all that comes before the
first sampled token, is kept once as a *root*; what follows in each rollout is a *branch* of it. All
roots and branches then lie one behind the other in a single row without padding.

Axes: B rollouts, N tokens in the row, R roots, L tokens of the longest root, K branches, S tokens
of the longest branch, M = R*L + K*S slots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dip_agents.tokens.buffer import EncodedImage, TokenBuffer


@dataclass(frozen=True, eq=False)
class Piece:
    """Tokens of one rollout that follow each other, or those that several begin with.

    Args:
        ids: token ids, at least one.
        images: in the order of their placeholders.
        parent: number of the root this branch goes on from, or None for a root.
    """

    ids: list[int]
    images: list[EncodedImage]
    parent: int | None = None


@dataclass(frozen=True, eq=False)
class Layout:
    """How the row turns into rectangles for attention, and back.

    Args:
        roots: (R, L).
        branches: (K, S); (0, 0) without branches.
        parents: root of each branch, long (K,).
        prefix: tokens of the longest parent.
        mask: True where a token of a branch sees one of [its prefix, padded; the branch], bool
            (K, 1, S, prefix + S), or (1, 1, S, prefix + S) when all parents are equally long.
        slots: token of the row in each slot, long (M,); padding repeats a token. None when slot i
            holds token i.
        tokens: slot of each token, long (N,).
        filled: False for padding, bool (M, 1).
    """

    roots: tuple[int, int]
    branches: tuple[int, int]
    parents: Tensor
    prefix: int
    mask: Tensor
    slots: Tensor | None
    tokens: Tensor
    filled: Tensor

    def to(self, device: torch.device) -> Layout:
        """Return the same with its tensors on a device."""
        return Layout(
            self.roots,
            self.branches,
            self.parents.to(device),
            self.prefix,
            self.mask.to(device),
            None if self.slots is None else self.slots.to(device),
            self.tokens.to(device),
            self.filled.to(device),
        )


@dataclass(frozen=True, eq=False)
class PackedRow:
    """The tokens of some rollouts in one row.

    Args:
        pieces: roots, then branches.
        deciding: for each policy token, rollout by rollout, the token of the row whose state it
            was drawn from.
    """

    pieces: list[Piece]
    deciding: NDArray[np.int64]

    @property
    def tokens(self) -> int:
        """N, at least 0."""
        return sum(len(piece.ids) for piece in self.pieces)

    def layout(self) -> Layout:
        """Return how attention sees the row; needs at least one piece."""
        lengths = np.array([len(piece.ids) for piece in self.pieces])
        roots = sum(piece.parent is None for piece in self.pieces)
        parents = np.array([piece.parent for piece in self.pieces[roots:]], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        # Slots are the cells of two rectangles, of roots and of branches; each line is padded by
        # its last token, so that every slot holds a token of the row.
        slots, filled = [], []
        for part in (slice(0, roots), slice(roots, None)):
            columns = np.arange(lengths[part].max(initial=0))
            last = lengths[part, None] - 1
            slots.append((starts[part, None] + np.minimum(columns, last)).ravel())
            filled.append((columns <= last).ravel())
        there, real = np.concatenate(slots), np.concatenate(filled)
        longest = int(lengths[roots:].max(initial=0))
        prefixes = lengths[parents]
        prefix = int(prefixes.max(initial=0))
        return Layout(
            (roots, int(lengths[:roots].max())),
            (len(parents), longest),
            torch.from_numpy(parents),
            prefix,
            _branch_mask(prefixes, prefix, longest),
            None if real.all() else torch.from_numpy(there),
            torch.from_numpy(np.flatnonzero(real)),
            torch.from_numpy(real)[:, None],
        )


def pack(buffers: Sequence[TokenBuffer], share: bool = True) -> PackedRow:
    """Lay out the tokens that the policy tokens of some rollouts depend on.

    Tokens after the last one a policy token is drawn from are left out: nothing depends on them.

    Args:
        buffers: B rollouts.
        share: keep a prefix that several rollouts have in common once.

    Returns:
        Their tokens and where the states of the policy tokens are.
    """
    keys = [prefix_key(buffer) if share else b"" for buffer in buffers]
    members = Counter(key for key in keys if key)
    roots: list[Piece] = []
    branches: list[Piece] = []
    prefixes: dict[bytes, int] = {}
    # Pass 1: cut each rollout. One whose prefix occurs once stays whole, as a root; of the others
    # the first leaves its prefix as a root and each what follows as a branch of it. Kept per
    # rollout: its piece, whether that is a branch, and how many tokens are before the piece.
    homes: list[tuple[int, bool, int]] = []
    for buffer, key in zip(buffers, keys, strict=True):
        end, length = needed_length(buffer), prefix_length(buffer)
        split = 0
        if members[key] > 1:
            split = length
            if key not in prefixes:
                prefixes[key] = len(roots)
                roots.append(_piece(buffer, 0, length))
        where = branches if split else roots
        homes.append((len(where), bool(split), split))
        if end > split:
            where.append(_piece(buffer, split, end, prefixes[key] if split else None))
    # Pass 2: roots come first in the row, then branches; a policy token is drawn from the state of
    # the token before it, which lies in the rollout's own piece or at the end of its prefix.
    pieces = roots + branches
    starts = np.concatenate([[0], np.cumsum([len(piece.ids) for piece in pieces])]).astype(np.int64)
    deciding = [np.empty(0, dtype=np.int64)]
    for buffer, key, (number, branch, split) in zip(buffers, keys, homes, strict=True):
        before = np.flatnonzero(buffer.loss_mask[1:])
        state = starts[number + branch * len(roots)] + before - split
        if branch:  # the first policy token is drawn from the last state of the prefix
            root = prefixes[key]
            state = np.where(before < split, starts[root] + before, state)
        deciding.append(state)
    return PackedRow(pieces, np.concatenate(deciding))


def whole_row(buffers: Sequence[TokenBuffer]) -> PackedRow:
    """Lay out all tokens of some rollouts, those that nothing depends on too.

    Args:
        buffers: B rollouts of at least one token.
    """
    return PackedRow(
        [Piece(buffer.ids, buffer.images) for buffer in buffers], np.empty(0, dtype=np.int64)
    )


def packed_tokens(buffers: Sequence[TokenBuffer]) -> int:
    """Return how many tokens ``pack`` lays out, without doing it.

    Args:
        buffers: B rollouts.

    Returns:
        N: each prefix once, and what follows it in each rollout.
    """
    prefixes = {prefix_key(buffer): prefix_length(buffer) for buffer in buffers}
    return sum(prefixes.values()) + sum(
        needed_length(buffer) - prefix_length(buffer) for buffer in buffers
    )


def prefix_length(buffer: TokenBuffer) -> int:
    """Return how many tokens are before the first policy token that has any before it.

    Args:
        buffer: a rollout.

    Returns:
        At least 1, or 0 when there is no such token.
    """
    try:
        return buffer.loss_mask.index(1, 1)
    except ValueError:
        return 0


def needed_length(buffer: TokenBuffer) -> int:
    """Return how many tokens the policy tokens of a rollout depend on.

    Args:
        buffer: a rollout.

    Returns:
        The index of its last policy token, 0 when there is none or nothing is before it.
    """
    mask = buffer.loss_mask
    return next((index for index in range(len(mask) - 1, 0, -1) if mask[index]), 0)


def prefix_key(buffer: TokenBuffer) -> bytes:
    """Return a hash of the prefix: ids and images.

    Args:
        buffer: a rollout.

    Returns:
        Equal for equal prefixes, different (but for 1 in 2^64 pairs) for others; empty without
        a policy token.
    """
    length = prefix_length(buffer)
    if not length:
        return b""
    digest = blake2b(np.array(buffer.ids[:length], dtype=np.int64).tobytes(), digest_size=16)
    for image in _images(buffer, 0, length):
        digest.update(image.key)
    return digest.digest()


def _piece(buffer: TokenBuffer, start: int, end: int, parent: int | None = None) -> Piece:
    return Piece(buffer.ids[start:end], _images(buffer, start, end), parent)


def _images(buffer: TokenBuffer, start: int, end: int) -> list[EncodedImage]:
    """Return the images whose placeholders lie in [start, end)."""
    before = buffer.ids[:start].count(buffer.image_token_id)
    inside = buffer.ids[start:end].count(buffer.image_token_id)
    found, at = [], 0
    for image in buffer.images:
        if before <= at < before + inside:
            found.append(image)
        at += image.tokens
    return found


def _branch_mask(prefixes: NDArray[np.int64], prefix: int, length: int) -> Tensor:
    """Return the mask of ``Layout``: the own prefix without its padding, the branch causally."""
    prefixes = np.unique(prefixes) if len(set(prefixes.tolist())) == 1 else prefixes
    seen = torch.arange(prefix) < torch.from_numpy(prefixes)[:, None]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    rows = len(prefixes)
    return torch.cat(
        [
            seen[:, None, None, :].expand(rows, 1, length, prefix),
            causal.expand(rows, 1, length, length),
        ],
        dim=-1,
    )
