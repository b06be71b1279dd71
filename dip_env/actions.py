"""The action grammar: one strict, bounded parser, its formatter and its description.

An action is one or more segments, only white space between them::

    <think>text</think>  <look>[[x1,y1,x2,y2],...]</look>  <answer>[item,...]</answer>

The answer comes last, and its items are ``[x1,y1,x2,y2]`` or
``{"bbox_2d":[x1,y1,x2,y2],"label":"...","score":0.5}``. Numbers are in the text frame; this module
knows no image. Time is linear in the length of the text: every quantifier below is possessive, so
no pattern backtracks, and every character is read a bounded number of times.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import numpy as np

from dip_env.boxes import Boxes, as_boxes
from dip_env.errors import ActionParseError

QUOTE_CHARS = 40
"""Most characters of an action that an error message quotes."""

T = TypeVar("T")
_Item = tuple[list[float], str | None, float | None]

_SPACE = r"[ \t\n\r]*+"
_COMMA = rf"{_SPACE},{_SPACE}"
_COLON = rf"{_SPACE}:{_SPACE}"
_NUMBER = r"-?(?:0|[1-9][0-9]{0,8}+)(?:\.[0-9]{1,9}+)?+"
_BOX = rf"\[{_SPACE}{_NUMBER}(?:{_COMMA}{_NUMBER}){{3}}{_SPACE}\]"
_PLAIN_ITEM = (
    rf'(?:{_BOX}|\{{{_SPACE}"bbox_2d"{_COLON}{_BOX}'
    rf'(?:{_COMMA}"label"{_COLON}"[^"\\\x00-\x1f]*+")?+'
    rf'(?:{_COMMA}"score"{_COLON}(?:0(?:\.[0-9]{{1,9}}+)?+|1(?:\.0{{1,9}}+)?+))?+{_SPACE}\}})'
)
# The lists that policies really write, checked in one match: keys in the usual order, no escapes.
_PLAIN_LIST = re.compile(rf"\[{_SPACE}{_PLAIN_ITEM}(?:{_COMMA}{_PLAIN_ITEM})*+{_SPACE}\]{_SPACE}")
_ONE_NUMBER = re.compile(rf"{_NUMBER}(?![0-9.eE+])")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]++|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*+"')
_KEY = re.compile(rf'"(bbox_2d|label|score)"{_COLON}')
_STEP = re.compile(rf"([,\]}}]){_SPACE}")
_TAG = re.compile(r"</?(?:think|look|answer)>")
_OPENING_TAG = re.compile(r"<(think|look|answer)>")
_GAP = re.compile(_SPACE)
_OUTSIDE_TAGS = re.compile(r"\s*+")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Think:
    """Reasoning in plain text.

    Args:
        text: any text without a tag of the grammar.

    Raises:
        ValueError: when the text holds a tag of the grammar.
    """

    text: str

    def __post_init__(self) -> None:
        """Keep out what would read as another segment."""
        if tag := _TAG.search(self.text):
            raise ValueError(f"think: expected text without tags, got {tag[0]}")


@dataclass(frozen=True, eq=False)
class Look:
    """A wish to see regions from close by.

    Args:
        regions: float64 (R, 4) xyxy, text frame.
    """

    regions: Boxes

    def __post_init__(self) -> None:
        """Accept anything ``as_boxes`` takes."""
        object.__setattr__(self, "regions", as_boxes(self.regions))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Look) and np.array_equal(self.regions, other.regions)


@dataclass(frozen=True, eq=False)
class Answer:
    """The final boxes.

    Args:
        boxes: float64 (N, 4) xyxy, text frame.
        labels: label of each box or None, N entries; empty stands for none at all.
        scores: confidence of each box in [0, 1] or None, N entries; empty stands for none at all.

    Raises:
        ValueError: for labels or scores of another length than the boxes.
    """

    boxes: Boxes
    labels: tuple[str | None, ...] = ()
    scores: tuple[float | None, ...] = ()

    def __post_init__(self) -> None:
        """Accept anything ``as_boxes`` takes and fill in absent labels and scores."""
        boxes = as_boxes(self.boxes)
        object.__setattr__(self, "boxes", boxes)
        for name in ("labels", "scores"):
            values = tuple(getattr(self, name)) or (None,) * len(boxes)
            if len(values) != len(boxes):
                raise ValueError(f"{name}: expected {len(boxes)} entries, got {len(values)}")
            object.__setattr__(self, name, values)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Answer)
            and np.array_equal(self.boxes, other.boxes)
            and self.labels == other.labels
            and self.scores == other.scores
        )


Segment = Think | Look | Answer


@dataclass(frozen=True)
class Grammar:
    """The limits of an action, with the parser, formatter and description that share them.

    Args:
        max_regions: regions one look may hold.
        max_boxes: boxes one answer may hold.
        max_chars: characters one action may hold.
        max_think_chars: characters one think may hold.
    """

    max_regions: int = 3
    max_boxes: int = 1000
    max_chars: int = 65536
    max_think_chars: int = 8192

    def parse(self, text: str) -> tuple[Segment, ...]:
        """Read an action.

        Args:
            text: the whole action.

        Returns:
            Its segments in order, at least one; an answer, if there is one, is the last.

        Raises:
            ActionParseError: when the text leaves the grammar or a limit; the message says what was
                expected and what came, and quotes at most 40 characters.
            TypeError: when ``text`` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"action: expected str, got {type(text).__name__}")
        reader = _Reader(text)
        if len(text) > self.max_chars:
            reader.fail(
                f"at most {self.max_chars} characters in an action", f"{len(text)}", self.max_chars
            )
        # Half a surrogate pair cannot be encoded, so it would break whoever stores the action.
        lone = None if text.isascii() else _SURROGATE.search(text)
        if lone:
            reader.fail("Unicode text", "a lone surrogate", lone.start())
        segments: list[Segment] = []
        reader.skip(_OUTSIDE_TAGS)
        while not segments or not reader.at_end:
            segments.append(self._segment(reader, segments))
            reader.skip(_OUTSIDE_TAGS)
        return tuple(segments)

    def format(self, segments: Sequence[Segment]) -> str:
        """Write an action, the inverse of ``parse``.

        Args:
            segments: what to write; numbers are printed with at most two decimals.

        Returns:
            Text that parses back to the segments (up to the rounding of numbers).

        Raises:
            ActionParseError: when the segments have no text that the grammar allows.
        """
        text = "".join(_format_segment(segment) for segment in segments)
        self.parse(text)
        return text

    def describe(self) -> str:
        """Return the format text of the prompt, without the task and the budget."""
        return (
            "<think>your reasoning</think>, <look>[[x1,y1,x2,y2],...]</look> (at most "
            f"{self.max_regions} region{'s' if self.max_regions > 1 else ''}) and, at the end, "
            "<answer>[[x1,y1,x2,y2],...]</answer>"
        )

    def _segment(self, reader: _Reader, before: Sequence[Segment]) -> Segment:
        """Read one segment where the reader stands."""
        if before and isinstance(before[-1], Answer):
            reader.fail("nothing after </answer>")
        start = reader.pos
        tag = reader.take(_OPENING_TAG, "<think>, <look> or <answer>")
        if tag == "think":
            return Think(self._think_text(reader, start))
        is_look = tag == "look"
        limit = self.max_regions if is_look else self.max_boxes
        what = "regions in a look" if is_look else "boxes in an answer"
        items = reader.boxes(limit, what, labelled=not is_look)
        if is_look and not items:
            reader.fail("at least one region in a look", "none", start)
        reader.take_literal(f"</{tag}>")
        boxes, labels, scores = zip(*items, strict=True) if items else ((), (), ())
        return Look(as_boxes(boxes)) if is_look else Answer(as_boxes(boxes), labels, scores)

    def _think_text(self, reader: _Reader, start: int) -> str:
        """Read the text of a think up to and with its closing tag."""
        begin = reader.pos
        tag = _TAG.search(reader.text, begin)
        end = tag.start() if tag else len(reader.text)
        if end - begin > self.max_think_chars:
            limit = f"at most {self.max_think_chars} characters in a think"
            reader.fail(limit, f"{end - begin}", begin + self.max_think_chars)
        if tag is None:
            reader.fail(f"</think> for the <think> at character {start}", pos=end)
        reader.pos = end
        reader.take_literal("</think>")
        return reader.text[begin:end]


class _Reader:
    """A text and the position reached in it; every method reads forward or fails."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0

    @property
    def at_end(self) -> bool:
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

    def boxes(self, limit: int, what: str, labelled: bool) -> list[_Item]:
        """Read a list of at most ``limit`` boxes, bare or (where allowed) labelled."""
        self.skip()
        plain = _PLAIN_LIST.match(self.text, self.pos)
        if plain is not None:
            values = json.loads(plain[0])
            if len(values) <= limit and (labelled or all(type(v) is list for v in values)):
                self.pos = plain.end()
                return [_plain_item(value) for value in values]
        # Item by item, slower: unusual lists, and the place of the error in wrong ones.
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

    def bare_box(self) -> _Item:
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
        what = "a JSON number (at most 9 digits before and after the point, no exponent)"
        return float(self.take(_ONE_NUMBER, what))

    def labelled_box(self) -> _Item:
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
        if _SURROGATE.search(label):
            self.fail("Unicode text", "a lone surrogate", start)
        return label

    def score(self) -> float:
        """Read a number from 0 to 1."""
        start = self.pos
        score = self.number()
        if not 0 <= score <= 1:
            self.fail("a score from 0 to 1", pos=start)
        return score


def _plain_item(value: list[float] | dict[str, Any]) -> _Item:
    """The item that a checked JSON value stands for."""
    if isinstance(value, list):
        return value, None, None
    score = value.get("score")
    return value["bbox_2d"], value.get("label"), None if score is None else float(score)


def _format_segment(segment: Segment) -> str:
    """Text of one segment."""
    if isinstance(segment, Think):
        return f"<think>{segment.text}</think>"
    if isinstance(segment, Look):
        return f"<look>[{','.join(map(_format_box, segment.regions.tolist()))}]</look>"
    items = map(_format_item, segment.boxes.tolist(), segment.labels, segment.scores)
    return f"<answer>[{','.join(items)}]</answer>"


def _format_item(box: list[float], label: str | None, score: float | None) -> str:
    """Text of one answer item, a bare box when it has neither label nor score."""
    if label is None and score is None:
        return _format_box(box)
    parts = [f'"bbox_2d":{_format_box(box)}']
    if label is not None:
        parts.append(f'"label":{json.dumps(label, ensure_ascii=False)}')
    if score is not None:
        parts.append(f'"score":{_format_number(score)}')
    return f"{{{','.join(parts)}}}"


def _format_box(box: list[float]) -> str:
    return f"[{','.join(map(_format_number, box))}]"


def _format_number(value: float) -> str:
    """Shortest text with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
