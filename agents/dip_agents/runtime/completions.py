"""The completions table: the text that the policy generated, on disk to be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np


def write_completions(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as ``step_000010.jsonl`` for programs and ``step_000010.md`` for eyes.

    Args:
        folder: made when missing.
        rows: one for each rollout, all of one step, with ``step``, ``scene``, ``member``,
            ``reward``, ``terms``, ``advantage``, ``length``, ``policy_tokens``, ``turns``,
            ``regions``, ``ending`` and ``transcript``, and ``blank_crops`` where some are shown.

    Returns:
        The path of the JSON lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"step_{rows[0]['step']:06d}"
    lines = "".join(json.dumps(row, default=_to_plain, ensure_ascii=False) + "\n" for row in rows)
    stem.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
    stem.with_suffix(".md").write_text("\n".join(map(_readable, rows)), encoding="utf-8")
    return stem.with_suffix(".jsonl")


def drop_steps_after(folder: Path, step: int) -> None:
    """Delete files and folders of later steps: a run that goes on before them makes them anew.

    Args:
        folder: with entries that begin with ``step_000010``, such as tables or traces; may not
            exist.
        step: the last step to keep.
    """
    for path in folder.glob("step_*"):
        number = path.name.removeprefix("step_").partition(".")[0].partition("_")[0]
        if not number.isdecimal() or int(number) <= step:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _readable(row: Mapping[str, Any]) -> str:
    """Render one row as Markdown; texts are fenced, so that no tag is lost in a viewer."""
    terms = ", ".join(f"{name} {value:.3f}" for name, value in row["terms"].items())
    head = [
        f"## Step {row['step']}, scene {row['scene']}, member {row['member']}"
        + (", crops blanked" if row.get("blank_crops") else ""),
        "",
        f"reward {row['reward']:.3f} ({terms}), advantage {row['advantage']:+.3f}, "
        f"{row['turns']} turns, {row['regions']} regions looked at, {row['policy_tokens']} of "
        f"{row['length']} tokens written, ending: {row['ending']}",
        "",
    ]
    for message in row["transcript"]:
        text = str(message.get("text", ""))
        fence = "`" * max(3, _longest_run(text, "`") + 1)
        head += [f"**{message.get('role', '?')}**", "", fence, text, fence, ""]
    return "\n".join(head)


def _longest_run(text: str, character: str) -> int:
    longest = run = 0
    for c in text:
        run = run + 1 if c == character else 0
        longest = max(longest, run)
    return longest


def _to_plain(value: Any) -> Any:
    """Turn numpy values into JSON ones; pixels are named by their shape, not printed."""
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype != np.uint8 else f"image {value.shape}"
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"completions: expected a JSON value, got {type(value).__name__}")
