"""What the parser promises whatever it is told: linear time, no exception, no reward out of range.

    python examples/benchmarks/parser_bounds.py

First, hostile texts of n/4, n/2 and n characters (n = 1 MB) are parsed, once with the limits of the
environment and once without any. Four times the text may take at most eight times as long: linear
time takes four, plus what outgrows the caches; quadratic time takes sixteen. Then random and
mutated actions are played, alone and in groups, under several rules. The exit code is 1 when a
promise is broken. Needs the core install only.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from dip_env import (
    Answer,
    EpisodeConfig,
    EpisodeGroup,
    Grammar,
    Look,
    RewardConfig,
    Think,
    ToyScenes,
)
from dip_env.actions import Segment
from dip_env.env import action_space
from dip_env.errors import ActionParseError

MEGABYTE = 1_000_000
GROWTH_LIMIT = 8.0
AT_ONCE_MS = 0.5
"""Under this a time is that of the first few characters, and its growth is noise."""

# --- time ----------------------------------------------------------------------------------------


def repeated(unit: str, before: str = "", after: str = "") -> Callable[[int], str]:
    """Return a function from n to a text of about n characters that repeats a unit."""
    return lambda n: before + unit * ((n - len(before) - len(after)) // len(unit)) + after


HOSTILE: dict[str, Callable[[int], str]] = {
    '"["': repeated("["),
    "digits": repeated("7"),
    "spaces": repeated(" "),
    "nested tags": repeated("<think><look><answer>"),
    '"<"': repeated("<"),
    "an open think": repeated("a", "<think>"),
    "a think of half tags": repeated("</thin", "<think>"),
    "a full think": repeated("a", "<think>", "</think>"),
    "many thinks": repeated("<think>a</think>"),
    "many looks": repeated("<look>[[1,2,3,4]]</look> "),
    'a look of "["': repeated("[", "<look>"),
    "a look of digits": repeated("7", "<look>[["),
    "a look of spaces": repeated(" ", "<look>"),
    "a look of too many regions": repeated("[1,2,3,4],", "<look>[", "[1,2,3,4]]</look>"),
    "an answer": repeated("[1,2,3,4],", "<answer>[", "[1,2,3,4]]</answer>"),
    "an answer with labels": repeated(
        '{"bbox_2d":[1,2,3,4],"label":"person","score":0.5},', "<answer>[", "[1,2,3,4]]</answer>"
    ),
    "an answer with keys in odd order": repeated(
        '{"score":1,"bbox_2d":[1,2,3,4]},', "<answer>[", "[1,2,3,4]]</answer>"
    ),
    "an answer cut off": repeated("[1,2,3,4],", "<answer>["),
    "an answer with a late error": repeated("[1,2,3,4],", "<answer>[", "[1,2,NaN,4]]</answer>"),
    "answers one after another": repeated("<answer>[]</answer>"),
    "a number without end": repeated("9", "<answer>[[0."),
    "a label of backslashes": repeated("\\\\", '<answer>[{"bbox_2d":[1,2,3,4],"label":"'),
    "a label of escapes": repeated("\\u00e9", '<answer>[{"bbox_2d":[1,2,3,4],"label":"', '"}]'),
    "spaces in a box": repeated(" ", "<answer>[[1,2,3", "x"),
    "other scripts": repeated("é人🙂", "<think>"),
    "half a surrogate pair at the end": repeated("é", "<think>", "\ud83d"),
}
"""Texts that make careless parsers slow, each as a function of its length."""


def parse_ms(grammar: Grammar, text: str) -> float:
    """Return the CPU time of one parse in milliseconds."""
    start = time.process_time()
    try:
        grammar.parse(text)
    except ActionParseError as error:
        assert len(str(error)) < 400, "an error message must not quote the whole text"
    return 1e3 * (time.process_time() - start)


def best_ms(jobs: list[tuple[Grammar, str]], repeats: int) -> list[float]:
    """Return the shortest time of each job, all run in turns; noise only ever adds to it."""
    gc.disable()  # as timeit does: a collection scans what the rest of the program holds
    times = [[parse_ms(grammar, text) for grammar, text in jobs] for _ in range(repeats)]
    gc.enable()
    return [min(column) for column in zip(*times, strict=True)]


def check_times(top: int, repeats: int) -> int:
    """Print how parse time grows with the text; return how many texts broke the promise."""
    limited = Grammar(EpisodeConfig().max_regions)
    unlimited = Grammar(3, max_boxes=top, max_chars=top, max_think_chars=top)
    print(f"| {top:,} characters of | ms, limited | ms, n/4 | ms, n/2 | ms, n | growth | |")
    print("|---|---:|---:|---:|---:|---:|---|")
    broken = 0
    for name, make in HOSTILE.items():
        jobs = [(unlimited, make(size)) for size in (top // 4, top // 2, top)]
        with_limits, *times = best_ms([(limited, make(top)), *jobs], repeats)
        quarter, half, whole = times
        growth = whole / quarter
        kept = whole < AT_ONCE_MS or growth <= GROWTH_LIMIT
        broken += not kept
        shown = "at once" if whole < AT_ONCE_MS else f"{growth:.1f} x"
        print(
            f"| {name} | {with_limits:.3f} | {quarter:.3f} | {half:.3f} | {whole:.3f} "
            f"| {shown} | {'pass' if kept else 'BROKEN'} |"
        )
    return broken


# --- actions -------------------------------------------------------------------------------------

RULES = (
    EpisodeConfig(view_size=128, crop_size=64),
    EpisodeConfig(
        view_size=128,
        crop_size=64,
        max_looks=1,
        coordinate_format="norm1000",
        reward=RewardConfig(accuracy="weighted_sum", iou="0.5:0.95", graded_format=True),
    ),
    EpisodeConfig(view_size=64, crop_size=32, max_turns=2, max_regions=1, max_boxes=5),
)
"""Rules to play by; small pictures, since this is not about resampling."""

ODD_NUMBERS = (
    *("NaN", "Infinity", "-1", "-0", "0.5", "999999999", "-999999999.999999999", "1e3", "1E999"),
    *("0x10", "01", "+1", ".5", "5.", "true", "null", '"7"', "\u0663", "\uff11", "", "1" * 400),
)
ALPHABET = "<>/[]{},:.\"'\\ \n\t-+0123456789eEthinklookanswerbbox_2dscorelabel\x00é人🙂\ud800"
PIECES = (
    *("<think>", "</think>", "<look>", "</look>", "<answer>", "</answer>", "[[", "]]", "[", "]"),
    *('{"bbox_2d":', '"label":"', '"score":', "}", ",", " ", "\n", "1", "[1,2,3,4]", "person"),
)


def random_boxes(
    count: int, size: tuple[int, int], odd: float, rng: np.random.Generator
) -> np.ndarray:
    """Return boxes (count, 4), text frame; a share of them odd in some way."""
    corners = rng.uniform(0, 1, (count, 2, 2)) * np.array(size)
    boxes = np.sort(corners, axis=1).reshape(count, 4)
    for k in np.flatnonzero(rng.random(count) < odd):
        box = boxes[k]
        inverted, flat, outside, huge = box[::-1], box[[0, 1, 0, 1]], box + size[0], box * -1e5
        boxes[k] = (inverted, flat, outside, huge, boxes[0])[rng.integers(5)]
    return np.round(boxes, int(rng.integers(3)))


def random_action(config: EpisodeConfig, size: tuple[int, int], rng: np.random.Generator) -> str:
    """Return a well-formed action: any segments in any order, the answer last."""
    segments: list[Segment] = []
    for _ in range(rng.integers(1, 4)):
        if rng.random() < 0.5:
            segments.append(Think("é" * int(rng.integers(0, 20))))
        else:
            count = int(rng.integers(1, config.max_regions + 1))
            segments.append(Look(random_boxes(count, size, 0.1, rng)))
    if rng.random() < 0.5:
        count = int(rng.integers(0, min(config.max_boxes, 12) + 1))
        boxes = random_boxes(count, size, 0.3, rng)
        labels = [None if rng.random() < 0.5 else 'a \\ " 人' for _ in range(count)]
        scores = [None if rng.random() < 0.5 else 0.25 for _ in range(count)]
        segments.append(Answer(boxes, tuple(labels), tuple(scores)))
    return Grammar(config.max_regions, config.max_boxes).format(segments)


def mutated(text: str, rng: np.random.Generator) -> str:
    """Return a text with one to four small changes."""
    for _ in range(rng.integers(1, 5)):
        a, b = sorted(rng.integers(0, len(text) + 1, 2).tolist())
        kind = rng.integers(6)
        if kind == 0:
            text = text[:a] + text[a + 1 :]
        elif kind == 1:
            text = text[:a] + ALPHABET[rng.integers(len(ALPHABET))] + text[a:]
        elif kind == 2:
            text = text[:a] + ODD_NUMBERS[rng.integers(len(ODD_NUMBERS))] + text[a + 1 :]
        elif kind == 3:
            text = text[:a] + text[b:]
        elif kind == 4:
            text = text[:b] + text[a : a + 200] + text[b:]
        else:
            text = text[:a]
    return text


def noise(rng: np.random.Generator) -> str:
    """Return random characters, or random pieces of the grammar."""
    source = ALPHABET if rng.random() < 0.5 else PIECES
    return "".join(source[i] for i in rng.integers(len(source), size=rng.integers(0, 40)))


def actions(config: EpisodeConfig, rng: np.random.Generator, counts: Counter[str]) -> Iterator[str]:
    """Yield actions for ever: sampled, random, mutated ones and noise, counted by kind."""
    space = action_space(config)
    space.seed(int(rng.integers(2**31)))
    while True:
        kind = ("sampled", "random", "mutated", "mutated", "noise")[rng.integers(5)]
        counts[kind] += 1
        if kind == "sampled":
            yield space.sample()
        elif kind == "random":
            yield random_action(config, space.text_size, rng)
        elif kind == "mutated":
            yield mutated(random_action(config, space.text_size, rng), rng)
        else:
            yield noise(rng)


@dataclass
class Counts:
    """What was played and what came of it."""

    kinds: Counter[str] = field(default_factory=Counter)
    fates: Counter[str] = field(default_factory=Counter)
    rewards: list[float] = field(default_factory=list)
    answered: int = 0
    out_of_range: int = 0


def play(group: EpisodeGroup, stream: Iterator[str], counts: Counts) -> None:
    """Play a group to its end and count; whatever raises here ends the benchmark."""
    grammar = Grammar(group.config.max_regions, group.config.max_boxes)
    highest = sum(group.config.reward.weights.values()) + 1e-9
    while not group.done:
        texts = [None if episode.done else next(stream) for episode in group.episodes]
        turns = group.step(texts)
        for text, turn in zip(texts, turns, strict=True):
            if text is None:
                continue
            try:
                grammar.parse(text)
                refused = turn.parse_error is not None
                counts.fates["parsed, but refused" if refused else "parsed"] += 1
            except ActionParseError:
                counts.fates["malformed"] += 1
        if not group.done:
            counts.out_of_range += sum(turn.reward != 0 for turn in turns)
    for episode, turn in zip(group.episodes, turns, strict=True):
        counts.rewards.append(turn.reward)
        counts.answered += episode.answered
        terms = turn.result.terms.as_dict().values()
        counts.out_of_range += not 0 <= turn.reward <= highest
        counts.out_of_range += sum(not 0 <= value <= 1 for value in terms)


def check_actions(n: int, seed: int) -> int:
    """Play n actions; print what became of them and return how many rewards left their range."""
    rng = np.random.default_rng(seed)
    counts = Counts()
    source = ToyScenes()
    while counts.fates.total() < n:
        config = RULES[rng.integers(len(RULES))]
        # Alone the look term reads the prior, in a group the siblings.
        members = int(rng.choice([1, 3]))
        group = EpisodeGroup(source[int(rng.integers(len(source)))], config, members)
        play(group, actions(config, rng, counts.kinds), counts)
    print(f"played {counts.fates.total():,} actions: {dict(counts.kinds)}")
    print(f"what became of them: {dict(counts.fates)}")
    print(f"{counts.answered:,} of {len(counts.rewards):,} episodes ended with an answer")
    low, high = min(counts.rewards), max(counts.rewards)
    print(f"rewards from {low:.3f} to {high:.3f}, {counts.out_of_range} out of range")
    return counts.out_of_range


def main() -> int:
    parser = argparse.ArgumentParser(description="Try to slow down or break the parser.")
    parser.add_argument("--n", type=int, default=100_000, help="random and mutated actions")
    parser.add_argument("--chars", type=int, default=MEGABYTE, help="longest hostile text")
    parser.add_argument("--repeats", type=int, default=7, help="parses of each hostile text")
    parser.add_argument("--seed", type=int, default=0, help="of the actions")
    args = parser.parse_args()
    slow = check_times(args.chars, args.repeats)
    print()
    wrong = check_actions(args.n, args.seed)
    if slow or wrong:
        print(f"broken: {slow} texts take more than linear time, {wrong} rewards out of range")
        return 1
    print("every promise is kept")
    return 0


if __name__ == "__main__":
    sys.exit(main())
