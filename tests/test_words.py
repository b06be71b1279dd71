"""One word per thing, and the field's: retired words stand in no code, option or document."""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SELF = Path(__file__).relative_to(ROOT).as_posix()

NAMES = {
    "condition or variant": r"[Aa]rms?|ARMS?|\w*_arms?|arms?_\w+",
    "look_coverage": r"[Ll]andings?|landing_\w+|\w+_landings?",
    "demonstration": r"[Ll]essons?|Lesson\w+|\w*_lessons?",
    "train_sft, train_grpo": r"teach|reinforce",
    "diagnostics": r"[Ss]ymptoms?|Symptom\w+|symptoms?_\w+",
    "DistributedContext": r"Ranks",
    "all_gather": r"everyones_\w+",
    "counters": r"TALLIES|Tallies|tally|tallies",
    "minimal_prompt": r"brief|brief_\w+",
    "weight_sync": r"hand_over|HandOver",
    "zero_variance_groups": r"equal_groups|EqualGroups",
    "p_no_look, p_blurred_overview": r"without_looks|blurred_share",
    "truncated_turns": r"cut_turns",
    "pending": r"unfed",
    "quantize_boxes": r"printable",
    "box_statistics": r"box_shapes|shape_metrics",
    "AttackContext, MeanReward, Exploit": r"Situation|Earned|Win",
    "SceneRandom": r"Dice",
    "DetectorInput": r"[Ss]ights?",
    "CellPolicy": r"PlacesPolicy|PlaceScores",
    "source_arg": r"reader_args",
}
"""What to write -> names that are retired, as whole tokens of Python."""

OPTIONS = (
    *("--brief", "--no-brief", "--hand-over", "--equal-groups", "--without-looks", "--blurred"),
    *("--smallest", "--eval-scenes", "--scene-count", "--reader", "--arms", "--engine own"),
)
"""Options that are retired."""

PROSE = {
    "condition, variant": r"\b[Aa]rms?\b",
    "demonstration": r"\b[Ll]essons?\b",
    "diagnostics": r"\b[Ss]ymptoms?\b",
    "fine-tune, train on": r"\b(?:taught|[Tt]each(?:es|er|ing)?)\b(?! multimodal)",
    "greedy decoding": r"most likely words",
    "numeric actions": r"[Aa]gents? without words",
    "silently": r"without a word",
    "for lack of": r"for want of",
    "independent of": r"\bknows? (?:no|nothing)\b",
    "ensure": r"[Ss]ee to it that",
    "slower path": r"slower road|fast road|own road",
    "entry point": r"front door",
    "package layout": r"\bthe rooms\b",
    "non-ignored instances": r"people (?:that|who) count\b",
    "inconsistent answers": r"\bwaver(?:s|ed|ing)?\b",
    "ground truth": r"\b(?:[Ii]n|[Oo]f|[Kk]now(?:s|ing)?|[Rr]eads|[Bb]eside) the truth\b",
    "highest-scoring": r"\bsurest\b",
    "is rewarded, is credited": r"\b(?:is|are|be|was|were|being) paid\b|\bpays\b",
    "weight sync": r"\bhand(?:s|ed)? over\b",
    "zero-variance groups": r"\bequal groups\b",
    "minimal prompt": r"\bbrief prompts?\b",
    "truncated turn": r"\bcut turns?\b",
    "sampler mismatch": r"drifts off",
}
"""What to write -> phrases that are retired in comments, docstrings, messages and documents."""

LIMBS = ("dip_env/scenes/procedural/", "tests/dip_env/scenes/procedural/")
"""Where an arm is a part of a body."""
FROZEN = ("CHANGELOG.md",)
"""Tells what was before."""


def tracked(*endings: str) -> list[str]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a checkout")
    return [
        name
        for name in done.stdout.split()
        if name.endswith(endings) and name not in (SELF, *FROZEN) and (ROOT / name).is_file()
    ]


def retired_names(name: str, text: str) -> Iterator[str]:
    """Yield each retired name in Python code, with what to write instead."""
    patterns = {use: re.compile(retired) for use, retired in NAMES.items()}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.NAME:
            continue
        for use, pattern in patterns.items():
            if pattern.fullmatch(token.string) and not (
                use.startswith("condition") and name.startswith(LIMBS)
            ):
                yield f"{name}:{token.start[0]}: {token.string} -> {use}"


def retired_prose(name: str, text: str) -> Iterator[str]:
    """Yield each retired phrase in comments and strings of Python, or anywhere in a document."""
    if name.endswith(".py"):
        parts = [
            (token.start[0], token.string)
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type in (tokenize.COMMENT, tokenize.STRING)
        ]
    else:
        parts = list(enumerate(text.splitlines(), start=1))
    for line, part in parts:
        for use, retired in PROSE.items():
            if use.startswith("condition") and name.startswith(LIMBS):
                continue
            for found in re.finditer(retired, part):
                at = line + part.count("\n", 0, found.start())
                yield f"{name}:{at}: {found[0]!r} -> {use}"


def test_no_retired_name_is_left_in_the_code():
    found = [hit for n in tracked(".py") for hit in retired_names(n, (ROOT / n).read_text())]
    assert found == []


def test_no_retired_option_is_left():
    names = tracked(".py", ".md", ".toml", ".yaml", ".sh")
    pattern = re.compile("|".join(rf"(?<![\w-]){re.escape(o)}(?![\w-])" for o in OPTIONS))
    found = [
        f"{name}: {hit[0]}" for name in names for hit in pattern.finditer((ROOT / name).read_text())
    ]
    assert found == []


def test_no_retired_phrase_is_left_in_the_documents():
    found = [hit for n in tracked(".py", ".md") for hit in retired_prose(n, (ROOT / n).read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "arm = 1"),
        ("a.py", "def f(best_arm): pass"),
        ("dip_env/scenes/procedural/a.py", "lesson = 1"),
    ],
)
def test_the_check_of_names_can_fail(name, text):
    assert list(retired_names(name, text))
    assert not list(retired_names("a.py", "alarm = armour = charm = 1"))
    assert not list(retired_names("dip_env/scenes/procedural/a.py", "arms = 2"))


def test_the_check_of_phrases_can_fail():
    assert list(retired_prose("a.py", "# it knows no model"))
    assert list(retired_prose("a.py", 'x = """One\n\nwithout a word"""')) == [
        "a.py:3: 'without a word' -> silently"
    ]
    assert list(retired_prose("a.md", "the reward that is paid"))
    assert not list(retired_prose("a.py", "taught = 1"))  # a name, which the other check reads
