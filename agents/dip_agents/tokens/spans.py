"""From characters of a text back to the tokens that it was decoded from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence


def tokens_of_spans(
    decode: Callable[[Sequence[int]], str], ids: Sequence[int], spans: Sequence[tuple[int, int]]
) -> tuple[tuple[int, int], ...]:
    """Return which tokens write each part of a text.

    Texts of the first n tokens are decoded, a few for each part. A token that writes the end of one
    part and the start of the next, such as ``],[40``, belongs to the next: it decides how that
    begins.

    Args:
        decode: from ids to text; a longer list of ids gives a text that is no shorter.
        ids: of the whole text.
        spans: (start, stop) of the characters of each part, ascending, no overlaps.

    Returns:
        (start, stop) of the tokens of each part.
    """

    def length(count: int) -> int:
        return len(decode(ids[:count]))

    counts = range(len(ids) + 1)
    # The first token after which the text goes beyond the start is where a part begins.
    first = [bisect_left(counts, start + 1, key=length) - 1 for start, _ in spans]
    last = [bisect_left(counts, stop, key=length) for _, stop in spans]
    return tuple(
        (begin, min(end, after))
        for begin, end, after in zip(first, last, [*first, len(ids)][1:], strict=True)
    )
