"""The action grammar: one strict, bounded parser, its formatter and its description.

An action is one or more segments, only white space between them::

    <think>text</think>  <look>[[x1,y1,x2,y2],...]</look>  <answer>[item,...]</answer>

The answer comes last, and its items are ``[x1,y1,x2,y2]`` or
``{"bbox_2d":[x1,y1,x2,y2],"label":"...","score":0.5}``. Numbers are in the text frame. Parsing
takes time linear in the length of any text. Independent of images.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dip_env.action_reader import SURROGATE, Reader
from dip_env.boxes import Boxes, as_boxes

_TAG = re.compile(r"</?(?:think|look|answer)>")
_OPENING_TAG = re.compile(r"<(think|look|answer)>")
_OUTSIDE_TAGS = re.compile(r"\s*+")
_LOOK = re.compile(r"<look>(.*?)</look>", re.DOTALL)
_BOX = re.compile(r"\[[^][,]*+,[^][]*+\]")

MAX_THINK_CHARS = 8192
"""Default limit of a think."""


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
        """Refuse text that would parse as another segment."""
        if tag := _TAG.search(self.text):
            raise ValueError(f"think: expected text without tags, got {tag[0]}")


def as_thought(text: str, max_chars: int = MAX_THINK_CHARS) -> Think:
    """Make a think of any text, such as reasoning that a server has split off.

    Args:
        text: the reasoning; tags of the grammar in it are broken up.
        max_chars: longest think; a note replaces the middle of a longer one.

    Returns:
        The think.
    """
    text = _TAG.sub(lambda tag: tag[0].replace("<", "< "), text)
    if len(text) > max_chars:
        mark = f" [{len(text)} characters, the middle is left out] "
        half = (max_chars - len(mark)) // 2
        text = text[:half] + mark + text[-half:]
    return Think(text)


@dataclass(frozen=True, eq=False)
class Look:
    """A request to see regions enlarged.

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


def region_spans(action: str) -> list[tuple[int, int]]:
    """Return where an action writes each region that it looks at.

    Args:
        action: a well-formed one.

    Returns:
        (start, stop) of the characters of each box of its looks, in order.
    """
    return [
        box.span()
        for look in _LOOK.finditer(action)
        for box in _BOX.finditer(action, *look.span(1))
    ]


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
    max_think_chars: int = MAX_THINK_CHARS

    def parse(self, text: str) -> tuple[Segment, ...]:
        """Read an action.

        Args:
            text: the whole action.

        Returns:
            Its segments in order, at least one; an answer, if there is one, is the last.

        Raises:
            ActionParseError: for text outside the grammar or beyond a limit; the message states
                what was expected and what came, and quotes at most 40 characters.
            TypeError: when ``text`` is not a string.
        """
        if not isinstance(text, str):
            raise TypeError(f"action: expected str, got {type(text).__name__}")
        reader = Reader(text)
        if len(text) > self.max_chars:
            reader.fail(
                f"at most {self.max_chars} characters in an action", f"{len(text)}", self.max_chars
            )
        # Half a surrogate pair cannot be encoded, so no file could store the action.
        lone = None if text.isascii() else SURROGATE.search(text)
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

    def describe(self, looks: bool = True) -> str:
        """Return the format text of the prompt, without the task and the budget.

        Args:
            looks: whether any may be taken; otherwise they are not mentioned.
        """
        regions = f"{self.max_regions} region{'s' if self.max_regions > 1 else ''}"
        look = f", <look>[[x1,y1,x2,y2],...]</look> (at most {regions})" if looks else ""
        return (
            f"<think>your reasoning</think>{look} and, at the end, "
            "<answer>[[x1,y1,x2,y2],...]</answer>"
        )

    def _segment(self, reader: Reader, before: Sequence[Segment]) -> Segment:
        """Read one segment at the reader's position."""
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

    def _think_text(self, reader: Reader, start: int) -> str:
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


def _format_segment(segment: Segment) -> str:
    """Return the text of one segment."""
    if isinstance(segment, Think):
        return f"<think>{segment.text}</think>"
    if isinstance(segment, Look):
        return f"<look>[{','.join(map(_format_box, segment.regions.tolist()))}]</look>"
    items = map(_format_item, segment.boxes.tolist(), segment.labels, segment.scores)
    return f"<answer>[{','.join(items)}]</answer>"


def _format_item(box: list[float], label: str | None, score: float | None) -> str:
    """Return the text of one answer item, a bare box when it has neither label nor score."""
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
    """Return the shortest text with at most two decimals."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
