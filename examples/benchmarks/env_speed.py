"""What the environment costs on top of the work it contains, as ratios within one run.

    OMP_NUM_THREADS=1 python examples/benchmarks/env_speed.py

Whatever is compared runs in turns, in random order, on the same input and right after the same
reset, so that the state of caches and the other jobs of the machine hit all sides alike. Times are
medians of CPU time; images are decoded before. The exit code is 1 when a limit is missed. Needs the
core install only.

    look     a look step, against the bare Pillow crop-and-resize it contains
    answer   an answer step with 100 boxes for 100 people, against bare IoU and assignment
    group    scoring 8 rollouts of 100 boxes each for 100 people, in milliseconds
    episode  a reset, a look at 2 or 3 regions of 10 to 25 % of the width, an answer and its score,
             against the crops it contains, and on a new scene also against the overview
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import gymnasium
import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from dip_env import (
    Answer,
    Episode,
    EpisodeConfig,
    EpisodeGroup,
    Grammar,
    Look,
    Scene,
    Think,
    make_source,
)
from dip_env.actions import Segment
from dip_env.boxes import Boxes, box_iou
from dip_env.rewards import Outcome, score_group
from dip_env.views import View, fit_size, overview, shown_region

LOOK_LIMIT = 1.5
EPISODE_LIMIT = 1.9
NEW_SCENE_LIMIT = 1.25
ANSWER_LIMIT = 3.0
GROUP_LIMIT_MS = 20.0

PEOPLE = 100
GROUP_SIZE = 8
CONFIG = EpisodeConfig()
GRAMMAR = Grammar(CONFIG.max_regions, CONFIG.max_boxes)


@dataclass(frozen=True)
class Row:
    """One measurement: a ratio or milliseconds, the limit if there is one, and the rate."""

    what: str
    milliseconds: float
    value: float
    unit: str = "x"
    limit: float | None = None
    per_second: bool = False

    @property
    def verdict(self) -> str:
        """Whether the limit is kept."""
        if self.limit is None:
            return ""
        return "pass" if self.value <= self.limit else "MISSED"


@dataclass(frozen=True)
class Case:
    """One input: the step and the bare work that are to be compared on it.

    Args:
        env: reset to the scene before every timed run.
        index: of the scene.
        scene: the scene, its image decoded.
        action: what the environment is told.
        bare: what is compared with it, by name.
    """

    env: gymnasium.Env
    index: int
    scene: Scene
    action: str
    bare: dict[str, Callable[[], object]]

    def run(self, name: str) -> float:
        """Return the seconds of CPU time of one run."""
        self.env.reset(options={"scene": self.index})
        episode = Episode(self.scene, CONFIG)
        start = time.process_time()
        if name == "env.step":
            self.env.step(self.action)
        elif name == "Episode.step":
            episode.step(self.action)
        else:
            self.bare[name]()
        return time.process_time() - start


def compare(cases: list[Case], rounds: int, rng: np.random.Generator) -> dict[str, float]:
    """Return the median milliseconds of each side over all cases and rounds."""
    names = [*cases[0].bare, "Episode.step", "env.step"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for case in cases:
            for name in rng.permutation(names):
                seconds[name].append(case.run(name))
    return {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}


# --- look: three regions of a scene whose image is already decoded -------------------------------


def random_regions(share: float, size: tuple[int, int], rng: np.random.Generator) -> Boxes:
    """Return three regions (3, 4) at random places, as wide as a share of the scene."""
    shape = share * size[0] * np.array([1.0, 0.75])
    corners = rng.uniform(0, 1, (3, 2)) * (np.array(size) - shape)
    return np.concatenate([corners, corners + shape], axis=1)


def look_at(regions: Boxes, scene: Scene) -> tuple[str, Callable[[], None]]:
    """Return the action that looks at regions, scene frame, and the bare work in it."""
    view = View.of(scene.size, CONFIG.view_size, CONFIG.size_multiple)
    regions = np.round(view.scene_to_text(regions))
    # The same regions and crop sizes as the episode's, so both resample the same pixels.
    crops = []
    for region in view.text_to_scene(regions):
        x1, y1, x2, y2 = shown_region(region, view, CONFIG.crop_size, CONFIG.size_multiple)
        size = fit_size((x2 - x1, y2 - y1), CONFIG.crop_size, CONFIG.size_multiple)
        crops.append((size, (x1, y1, x2, y2)))

    def bare() -> None:
        for size, box in crops:
            scene.image.resize(size, Image.Resampling.BICUBIC, box=box)

    return GRAMMAR.format((Think("who is behind the kiosk?"), Look(regions))), bare


def look_case(
    env: gymnasium.Env, index: int, scene: Scene, share: float, rng: np.random.Generator
) -> Case:
    action, bare = look_at(random_regions(share, scene.size, rng), scene)
    return Case(env, index, scene, action, {"Pillow": bare})


def time_looks(
    scenes: list[Scene], share: float, rounds: int, rng: np.random.Generator
) -> list[Row]:
    env = gymnasium.make("DIPCrowd-v0", scenes=scenes)
    cases = [look_case(env, i, scene, share, rng) for i, scene in enumerate(scenes)]
    ms = compare(cases, rounds, rng)
    what = f"look, 3 regions of {share:.0%} of the width:"
    rows = [Row(f"{what} bare Pillow", ms["Pillow"], 1.0)]
    for name in ("Episode.step", "env.step"):
        rows.append(Row(f"{what} {name}", ms[name], ms[name] / ms["Pillow"], limit=LOOK_LIMIT))
    return rows


# --- answer: 100 boxes for 100 people ------------------------------------------------------------


def crowd(rng: np.random.Generator) -> Scene:
    """Return a scene of exactly 100 people in perspective, many of them overlapping."""
    size = (1280, 960)
    feet = rng.uniform(0.35, 1.0, PEOPLE)
    tall = 20 + 300 * (feet - 0.35)
    x = rng.uniform(0, size[0], PEOPLE)
    boxes = np.stack([x - 0.2 * tall, feet * 960 - tall, x + 0.2 * tall, feet * 960], axis=1)
    image = Image.new("RGB", size)
    return Scene(
        scene_id="benchmark",
        size=size,
        boxes=boxes.astype(np.float32),
        visible_boxes=boxes.astype(np.float32),
        visible_share=rng.uniform(0.2, 1.0, PEOPLE).astype(np.float32),
        ignore=np.zeros(PEOPLE, bool),
        labels=("person",) * PEOPLE,
        load_image=lambda: image,
    )


def guess(scene: Scene, rng: np.random.Generator) -> Boxes:
    """Return a prediction near each true box in random order, (N, 4) scene frame."""
    sides = np.tile(scene.truth[:, 2:] - scene.truth[:, :2], 2)
    shaken = scene.truth + rng.normal(0, 0.12, scene.truth.shape) * sides
    return shaken[rng.permutation(len(shaken))].astype(np.float64)


def textbook_iou(a: Boxes, b: Boxes) -> Boxes:
    """Intersection over union (N, M) by plain broadcasting, as textbooks write it."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    side = np.clip(high - low, 0, None)
    shared = side[..., 0] * side[..., 1]
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return shared / (area_a[:, None] + area_b[None, :] - shared)


def answer_case(env: gymnasium.Env, index: int, scene: Scene, rng: np.random.Generator) -> Case:
    view = View.of(scene.size, CONFIG.view_size, CONFIG.size_multiple)
    boxes = np.round(view.scene_to_text(guess(scene, rng)))
    # Whole numbers may flatten the smallest people; both sides get the same boxes.
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    pred, truth = view.text_to_scene(boxes), scene.truth.astype(np.float64)
    bare: dict[str, Callable[[], object]] = {
        "textbook": lambda: linear_sum_assignment(textbook_iou(pred, truth), maximize=True),
        "box_iou": lambda: linear_sum_assignment(box_iou(pred, truth), maximize=True),
    }
    return Case(env, index, scene, GRAMMAR.format((Think("100 people."), Answer(boxes))), bare)


def time_answers(rounds: int, rng: np.random.Generator) -> list[Row]:
    scenes = [crowd(rng) for _ in range(8)]
    env = gymnasium.make("DIPCrowd-v0", scenes=scenes)
    ms = compare([answer_case(env, i, scene, rng) for i, scene in enumerate(scenes)], rounds, rng)
    step, base = ms["Episode.step"], ms["textbook"]
    what = "answer, 100 for 100:"
    return [
        Row(f"{what} bare textbook IoU + assignment", base, 1.0),
        Row(f"{what} Episode.step", step, step / base, limit=ANSWER_LIMIT),
        Row(f"{what} env.step", ms["env.step"], ms["env.step"] / base),
        Row(f"{what} bare box_iou + assignment", ms["box_iou"], ms["box_iou"] / base),
        Row(f"{what} Episode.step in units of the line above", step, step / ms["box_iou"]),
    ]


# --- group: 8 rollouts of 100 boxes --------------------------------------------------------------


def time_groups(rounds: int, rng: np.random.Generator) -> list[Row]:
    groups: list[tuple[list[Outcome], Scene]] = []
    for scene in [crowd(rng) for _ in range(8)]:
        outcomes = []
        for _ in range(GROUP_SIZE):
            looks, answer = random_regions(0.25, scene.size, rng), guess(scene, rng)
            said: tuple[tuple[Segment, ...], ...] = ((Think("a"), Look(looks)), (Answer(answer),))
            outcomes.append(Outcome(answer, looks, said, answered=True))
        groups.append((outcomes, scene))
    seconds = []
    for _ in range(rounds):
        for outcomes, scene in groups:
            start = time.process_time()
            score_group(outcomes, scene, CONFIG)
            seconds.append(time.process_time() - start)
    ms = 1e3 * float(np.median(seconds))
    what = f"group of {GROUP_SIZE}, 100 for 100: score_group"
    return [Row(what, ms, ms, unit="ms", limit=GROUP_LIMIT_MS)]


# --- episode: reset, one look, one answer, and the score -----------------------------------------


@dataclass(frozen=True)
class Play:
    """One whole episode as it is played in every way.

    Args:
        env: on all scenes.
        index: of the scene.
        scene: the scene, its image decoded and its overview kept.
        look: the first action of each member of a group; a lone episode takes the first.
        answers: the second action of each.
        crops: the bare crops of the look of each.
    """

    env: gymnasium.Env
    index: int
    scene: Scene
    look: list[str]
    answers: list[str]
    crops: list[Callable[[], None]]

    def bare_crops(self) -> None:
        """Resample the crops of a lone episode."""
        self.crops[0]()

    def bare_overview_and_crops(self) -> None:
        """Resample what an episode on a new scene shows."""
        overview(self.scene.image, Episode(self.scene, CONFIG).view)
        self.crops[0]()

    def bare_group(self) -> None:
        """Resample the crops of every member."""
        for crops in self.crops:
            crops()

    def gym(self) -> None:
        """Play through gymnasium."""
        self.env.reset(options={"scene": self.index})
        self.env.step(self.look[0])
        self.env.step(self.answers[0])

    def episode(self) -> None:
        """Play a lone episode on a scene that was played before."""
        self._play(self.scene)

    def new_scene(self) -> None:
        """Play a lone episode on a scene that was not."""
        image = self.scene.image
        # A copy keeps no overview yet, and its image is decoded like that of the original.
        self._play(replace(self.scene, load_image=lambda: image))

    def group(self) -> None:
        """Play a group; its look term compares siblings."""
        group = EpisodeGroup(self.scene, CONFIG, GROUP_SIZE)
        group.episodes[0].observation()
        group.step(self.look)
        group.step(self.answers)

    def _play(self, scene: Scene) -> None:
        episode = Episode(scene, CONFIG)
        episode.observation()  # as any policy would: it makes the overview
        episode.step(self.look[0])
        episode.step(self.answers[0])


def play_of(env: gymnasium.Env, index: int, scene: Scene, rng: np.random.Generator) -> Play:
    view = View.of(scene.size, CONFIG.view_size, CONFIG.size_multiple)
    looks, answers, crops = [], [], []
    for _ in range(GROUP_SIZE):
        regions = random_regions(rng.uniform(0.1, 0.25), scene.size, rng)
        action, bare = look_at(regions[: rng.integers(2, 4)], scene)
        boxes = np.round(view.scene_to_text(guess(scene, rng)))
        looks.append(action)
        crops.append(bare)
        answers.append(GRAMMAR.format((Think("that is all."), Answer(boxes))))
    return Play(env, index, scene, looks, answers, crops)


def time_episodes(scenes: list[Scene], rounds: int, rng: np.random.Generator) -> list[Row]:
    env = gymnasium.make("DIPCrowd-v0", scenes=scenes)
    # Several plays of a scene: their regions differ in number and size.
    plays = [play_of(env, i, scene, rng) for i, scene in enumerate(scenes) for _ in range(4)]
    names = ["bare_crops", "bare_overview_and_crops", "bare_group"]
    names += ["gym", "episode", "new_scene", "group"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for play in plays:
        play.gym()  # decodes the image and keeps the overview
    # All plays in a row, as a rollout would: their work is unequal, and only its sum compares.
    for _ in range(rounds):
        for name in rng.permutation(names):
            start = time.process_time()
            for play in plays:
                getattr(play, name)()
            seconds[name].append((time.process_time() - start) / len(plays))
    ms = {name: 1e3 * float(np.median(times)) for name, times in seconds.items()}
    ms["group"], ms["bare_group"] = ms["group"] / GROUP_SIZE, ms["bare_group"] / GROUP_SIZE
    group, new = ms["bare_group"], ms["bare_overview_and_crops"]

    def row(what: str, name: str, bare: float, limit: float | None = None) -> Row:
        return Row(f"episode, {what}", ms[name], ms[name] / bare, limit=limit, per_second=True)

    return [
        row("bare Pillow crops", "bare_crops", ms["bare_crops"]),
        row("Episode", "episode", ms["bare_crops"], EPISODE_LIMIT),
        row("gymnasium.make", "gym", ms["bare_crops"], EPISODE_LIMIT),
        row(f"one of a group of {GROUP_SIZE}, bare Pillow crops", "bare_group", group),
        row(f"one of an EpisodeGroup of {GROUP_SIZE}", "group", group, EPISODE_LIMIT),
        row("new scene: bare Pillow overview and crops", "bare_overview_and_crops", new),
        row("new scene: Episode", "new_scene", new, NEW_SCENE_LIMIT),
    ]


def table(rows: list[Row]) -> str:
    """Return rows as a Markdown table."""
    lines = ["| what | ms | per second | value | limit | |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:g} {row.unit}"
        value = f"{row.value:.2f} {row.unit}"
        rate = f"{1e3 / row.milliseconds:.0f}" if row.per_second else ""
        ms = f"{row.milliseconds:.3f}"
        lines.append(f"| {row.what} | {ms} | {rate} | {value} | {limit} | {row.verdict} |")
    return "\n".join(lines)


def report(rows: list[Row]) -> int:
    """Print the table and the verdict; return the exit code."""
    print(table(rows))
    missed = [row.what for row in rows if row.verdict == "MISSED"]
    print(f"\nmissed: {'; '.join(missed)}" if missed else "\nevery limit is kept")
    return 1 if missed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the environment against its own work.")
    parser.add_argument("--rounds", type=int, default=60, help="runs of every side on every input")
    parser.add_argument("--preset", default="crowd", help="scenes of the look benchmark")
    parser.add_argument("--seed", type=int, default=0, help="of regions, boxes and order")
    parser.add_argument("--quick", action="store_true", help="toy scenes, few rounds: a smoke test")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    rounds = 2 if args.quick else args.rounds
    source = make_source("toy" if args.quick else args.preset)
    scenes = [source[index] for index in range(4)]
    for scene in scenes:
        scene.image.load()  # decoding is no part of a look
    rows = [row for share in (0.1, 0.25, 0.5) for row in time_looks(scenes, share, rounds, rng)]
    rows += time_answers(rounds, rng)
    rows += time_groups(rounds, rng)
    rows += time_episodes(scenes, rounds, rng)
    return report(rows)


if __name__ == "__main__":
    sys.exit(main())
