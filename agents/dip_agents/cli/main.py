"""The ``dip`` command's front door, and the commands that need no model and no torch."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console

from dip_env.errors import ConfigError, DipError, SceneError
from dip_env.metrics.curves import MissRateRule
from dip_env.metrics.score import Protocol, score_files
from dip_env.scenes import make_source
from dip_env.scenes.base import SceneSource, is_endless
from dip_env.scenes.preview.contact_sheet import contact_sheet
from dip_env.scenes.preview.summary import summarise
from dip_env.scenes.readers.base import DatasetScenes
from dip_env.scenes.transforms.filtered import FilteredScenes

Flat = tyro.conf.OmitArgPrefixes
OneWay = tyro.conf.FlagCreatePairsOff

PIPED_WIDTH = 140
"""Characters in a line where no terminal says how many fit."""


@dataclass(frozen=True)
class SceneArgs:
    """Where scenes come from."""

    scenes: str = "easy"
    """A procedural preset (easy, crowd, night, drone, dense) or a reader (crowdhuman, citypersons,
    wider_pedestrian, uavdt, coco)."""
    root: Path | None = None
    """Folder of the data, for readers."""
    scene_seed: int = 0
    """Seed of a procedural source."""
    reader: tuple[str, ...] = ()
    """Further arguments of the source, such as every=10 boxes=visible bad_boxes=drop."""
    min_people: int = 0
    """Leave out scenes with fewer people that count."""
    min_height: float = 0.0
    """Ignore instances that are less tall, in pixels of the source."""
    min_visible: float = 0.0
    """Ignore instances of which a smaller share is seen."""

    def open(self, split: str) -> SceneSource:
        """Open one split of the source."""
        options = dict(_option(text) for text in self.reader)
        source = make_source(self.scenes, self.root, split, self.scene_seed, **options)
        if not (self.min_people or self.min_height or self.min_visible):
            return source
        return FilteredScenes(
            source,
            min_people=self.min_people,
            min_height=self.min_height,
            min_visible=self.min_visible,
        )


def _option(text: str) -> tuple[str, Any]:
    """Read one ``name=value``; a value that is JSON is meant as such, any other as text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"reader: expected name=value, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


@dataclass(frozen=True)
class Scenes:
    """Print what a source holds and draw a contact sheet with its boxes."""

    source: Annotated[SceneArgs, Flat] = field(default_factory=SceneArgs)
    split: str = "train"
    """Which part of the source."""
    n: int = 12
    """Scenes on the sheet; an endless source is counted over these only."""
    first: int = 0
    """Number of the first of them."""
    columns: int = 4
    """Scenes in a row."""
    out: Path = Path("runs/scenes.png")
    """The sheet."""


@dataclass(frozen=True)
class Score:
    """Score detections against truth by a published protocol; prints one JSON object."""

    truth: tyro.conf.Positional[Path]
    """COCO json; iscrowd marks what is ignored, vis_bbox the visible part."""
    detections: tyro.conf.Positional[Path]
    """COCO results: a list of image_id, bbox, score."""
    protocol: Protocol = "coco"
    """Whose rules."""
    no_scores: Annotated[bool, OneWay] = False
    """Answers without scores: precision, recall, F1 and metrics that need no order."""
    mr_rule: MissRateRule | None = None
    """Which point of the curve a miss rate is read at; the protocol's own by default."""
    images: Literal["all", "annotated"] = "all"
    """Count all images of the truth, or only those with annotations."""
    categories: tuple[str, ...] = ()
    """Names of the categories that count; all by default."""
    breakdown: Annotated[bool, OneWay] = False
    """Add recall by height and visible share, and F1 by people per image."""
    bootstrap: int = 0
    """Resamplings of the images for 95 % intervals; 0 for none."""
    compare: Path | None = None
    """Other detections on the same truth: adds the paired difference with its interval."""
    seed: int = 0
    """Of the bootstrap."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with 0, with 1 when an audit fails, with 2 on bad input.

    Commands that need a model are loaded only when one of them, or help on all, is asked for:
    that takes seconds.

    Args:
        arguments: instead of those of the process.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    light: dict[str, tuple[type, Callable[[Any], int]]] = {
        "scenes": (Scenes, run_scenes),
        "score": (Score, run_score),
    }
    try:
        if given and given[0] in light:
            kind, run = light[given[0]]
            sys.exit(run(tyro.cli(kind, prog=f"dip {given[0]}", args=given[1:])))
        sys.exit(_with_a_model(given))
    except DipError as error:
        print(f"dip: {error}", file=sys.stderr)
        sys.exit(2)


def _with_a_model(given: Sequence[str]) -> int:
    """Load what trains and plays, and run one of its commands."""
    try:
        from dip_agents.cli import parsing
        from dip_agents.cli.run import run
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'expected the package {error.name!r}, which is missing: pip install "dip-env[train]"'
        ) from error
    # Rich takes a file or a pipe for 80 characters wide, too few for the tables.
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return run(parsing.parse(given), Console(width=PIPED_WIDTH if piped else None))


def run_score(args: Score) -> int:
    """Score one file; standard output gets one JSON object and nothing else.

    Args:
        args: the command's settings.

    Returns:
        The exit code.
    """
    # A library that prints (pycocotools does) must not spoil the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        found = score_files(
            args.truth,
            args.detections,
            args.protocol,
            scores=not args.no_scores,
            mr_rule=args.mr_rule,
            annotated_only=args.images == "annotated",
            categories=args.categories,
            breakdown=args.breakdown,
            bootstrap_rounds=args.bootstrap,
            compare=args.compare,
            seed=args.seed,
        )
    print(json.dumps(found, allow_nan=False, indent=2))
    return 0


def run_scenes(args: Scenes) -> int:
    """Count what a source holds and draw some of it.

    Args:
        args: the command's settings.

    Returns:
        The exit code.

    Raises:
        ConfigError: for a first scene beyond the source.
        SceneError: for a missing image, unless all are missing: then the counts are all
            there is, and standard error says so.
    """
    source = args.source.open(args.split)
    indices = range(args.first, min(args.first + args.n, len(source)))
    if not indices:
        raise ConfigError(f"first: expected under {len(source)}, got {args.first}")
    counted = indices if is_endless(source) else range(len(source))
    summary = summarise(source, counted)
    print(json.dumps(summary, indent=2))
    if isinstance(source, DatasetScenes) and summary["images_missing"] == len(source):
        print(
            f"dip: {source.images}: no image file is there: counts only, no contact sheet",
            file=sys.stderr,
        )
        return 0
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(source, indices, columns=args.columns).save(args.out)
    except OSError as error:
        raise SceneError(f"{args.out}: the contact sheet cannot be written: {error}") from error
    print(f"contact sheet: {args.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":  # for launchers, which start modules
    main()
