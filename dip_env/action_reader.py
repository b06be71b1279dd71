"""Reads an action piece by piece: white space, tags, numbers, strings and lists of boxes.

Independent of the segments and limits of the grammar: it holds the spelling of each piece and the
error messages. Time is linear in the length of the text: every quantifier is possessive, so no
pattern backtracks, and every character is read a bounded number of times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from dip_env.errors import ActionParseError

QUOTE_CHARS = 40
"""Most characters of an action that an error message quotes."""

T = TypeVar("T")
Item = tuple[list[float], str | None, float | None]

_SPACE = r"[ \t\n\r]*+"
_COMMA = rf"{_SPACE},{_SPACE}"
_COLON = rf"{_SPACE}:{_SPACE}"
_NUMBER = r"-?(?:0|[1-9][0-9]{0,8}+)(?:\.[0-9]{1,20}+)?+"
_BOX = rf"\[{_SPACE}{_NUMBER}(?:{_COMMA}{_NUMBER}){{3}}{_SPACE}\]"
_PLAIN_ITEM = (
    rf'(?:{_BOX}|\{{{_SPACE}"bbox_2d"{_COLON}{_BOX}'
    rf'(?:{_COMMA}"label"{_COLON}"[^"\\\x00-\x1f]*+")?+'
    rf'(?:{_COMMA}"score"{_COLON}(?:0(?:\.[0-9]{{1,20}}+)?+|1(?:\.0{{1,20}}+)?+))?+{_SPACE}\}})'
)
# The lists that policies usually write, checked in one match: keys in this order, no escapes.
_PLAIN_LIST = re.compile(rf"\[{_SPACE}{_PLAIN_ITEM}(?:{_COMMA}{_PLAIN_ITEM})*+{_SPACE}\]{_SPACE}")
_ONE_NUMBER = re.compile(rf"{_NUMBER}(?![0-9.eE+])")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"')
_KEY = re.compile(rf'"(bbox_2d|label|score)"{_COLON}')
_STEP = re.compile(rf"([,\]}}]){_SPACE}")
_GAP = re.compile(_SPACE)
SURROGATE = re.compile("[\ud800-\udfff]")


class Reader:
    """A text and the position reached in it; every method reads forward or fails.

    Args:
        text: the whole action.

    Raises:
        ActionParseError: from any method that finds something else than it reads.
    """

    def __init__(self, text: str) -> None:
        """Start at the first character."""
        self.text = text
        self.pos = 0

    @property
    def at_end(self) -> bool:
        """True when everything is read."""
        return self.pos == len(self.text)

    def fail(self, expected: str, got: str | None = None, pos: int | None = None) -> NoReturn:
        """Raise the parse error; ``got`` defaults to a quote of the text at ``pos``."""
        pos = self.pos if pos is None else pos
        if got is None:
            quote = self.text[pos : pos + QUOTE_CHARS]
            got = repr(quote) if quote else "the end of the text"
        raise ActionParseError(f"expected {expected}, got {got}", pos)

    def skip(self, pattern: re.Pattern[str] = _GAP) -> None:
        """Move past a pattern of white space."""
        if match := pattern.match(self.text, self.pos):
            self.pos = match.end()

    def sees(self, literal: str) -> bool:
        """Return whether these characters come next."""
        return self.text.startswith(literal, self.pos)

    def take(self, pattern: re.Pattern[str], expected: str) -> str:
        """Read a pattern and return its group, or the whole match if it has none."""
        match = pattern.match(self.text, self.pos)
        if match is None:
            self.fail(expected)
        self.pos = match.end()
        return match[match.lastindex or 0]

    def take_literal(self, literal: str) -> None:
        """Read exactly these characters and the white space after them."""
        if not self.sees(literal):
            self.fail(literal)
        self.pos += len(literal)
        self.skip()

    def closes(self, bracket: str) -> bool:
        """Read what follows an item: False for a comma, True for the closing bracket."""
        self.skip()
        match = _STEP.match(self.text, self.pos)
        if match is None or match[1] not in (",", bracket):
            self.fail(f"',' or '{bracket}'")
        self.pos = match.end()
        return match[1] == bracket

    def boxes(self, limit: int, what: str, labelled: bool) -> list[Item]:
        """Read a list of at most ``limit`` boxes, bare or (where allowed) labelled."""
        self.skip()
        plain = _PLAIN_LIST.match(self.text, self.pos)
        if plain is not None:
            values = json.loads(plain[0])
            bare = all(type(value) is list for value in values)
            if len(values) <= limit and (labelled or bare):
                self.pos = plain.end()
                if bare:
                    return [(value, None, None) for value in values]
                return [_plain_item(value) for value in values]
        # Slower fallback path, item by item: unusual lists, and the position of an error.
        return self.items(self.labelled_box if labelled else self.bare_box, limit, what)

    def items(self, read: Callable[[], T], limit: int, what: str) -> list[T]:
        """Read a JSON list of at most ``limit`` items and the white space after it."""
        self.take_literal("[")
        found: list[T] = []
        if self.sees("]"):
            self.take_literal("]")
            return found
        while True:
            if len(found) == limit:
                self.fail(f"at most {limit} {what}")
            found.append(read())
            if self.closes("]"):
                return found

    def bare_box(self) -> Item:
        """Read ``[x1,y1,x2,y2]``."""
        start = self.pos
        if not self.sees("["):
            self.fail("a box [x1,y1,x2,y2]")
        box = self.items(self.number, 4, "numbers in a box")
        if len(box) != 4:
            self.fail("4 numbers in a box", f"{len(box)}", start)
        return box, None, None

    def number(self) -> float:
        """Read one number."""
        what = "a JSON number (at most 9 digits before and 20 after the point, no exponent)"
        return float(self.take(_ONE_NUMBER, what))

    def labelled_box(self) -> Item:
        """Read a bare box or ``{"bbox_2d":[x1,y1,x2,y2],...}`` with keys in any order."""
        if not self.sees("{"):
            return self.bare_box()
        start = self.pos
        self.take_literal("{")
        box: list[float] | None = None
        label: str | None = None
        score: float | None = None
        seen: set[str] = set()
        while True:
            at_key = self.pos
            key = self.take(_KEY, 'the key "bbox_2d", "label" or "score"')
            if key in seen:
                self.fail("each key once", f'"{key}" again', at_key)
            seen.add(key)
            if key == "bbox_2d":
                box = self.bare_box()[0]
            elif key == "label":
                label = self.label()
            else:
                score = self.score()
            if self.closes("}"):
                break
        if box is None:
            self.fail('the key "bbox_2d" in every item', pos=start)
        return box, label, score

    def label(self) -> str:
        """Read a JSON string."""
        start = self.pos
        label: str = json.loads(self.take(_STRING, "a JSON string"))
        if SURROGATE.search(label):
            self.fail("Unicode text", "a lone surrogate", start)
        return label

    def score(self) -> float:
        """Read a number from 0 to 1."""
        start = self.pos
        score = self.number()
        if not 0 <= score <= 1:
            self.fail("a score from 0 to 1", pos=start)
        return score


def _plain_item(value: list[float] | dict[str, Any]) -> Item:
    """Return the item that a checked JSON value represents."""
    if isinstance(value, list):
        return value, None, None
    score = value.get("score")
    return value["bbox_2d"], value.get("label"), None if score is None else float(score)
