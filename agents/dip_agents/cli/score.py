"""``dip score``: score a file of detections against ground truth by a published protocol."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dip_agents.cli.settings import Resolved
from dip_env.errors import ConfigError
from dip_env.metrics.curves import MissRateRule
from dip_env.metrics.score import Protocol

EXAMPLES = (
    "dip score truth.json detections.json --protocol crowdhuman",
    "dip score truth.json answers.json --no-scores --breakdown --bootstrap 1000",
    "dip score truth.json after.json --no-scores --compare before.json",
)


@dataclass(frozen=True)
class Settings:
    """Score detections against ground truth by a published protocol; prints one JSON object."""

    truth: Path
    """COCO json; iscrowd marks what is ignored, vis_bbox the visible part."""
    detections: Path
    """COCO results: a list of image_id, bbox, score."""
    protocol: Protocol = "coco"
    """Published evaluator whose rules apply."""
    scores: bool = True
    """Read the scores; without them: precision, recall, F1 and metrics that need no order."""
    mr_rule: MissRateRule | None = None
    """Point of the curve at which a miss rate is read; the protocol's own by default."""
    images: Literal["all", "annotated"] = "all"
    """Count all images of the ground truth, or only those with annotations."""
    categories: tuple[str, ...] = ()
    """Names of the categories that count; all by default."""
    breakdown: bool = False
    """Add recall by height and visible share, and F1 by people per image."""
    bootstrap: int = 0
    """Resamplings of the images for 95 % intervals; 0 for none."""
    compare: Path | None = None
    """Other detections on the same truth: adds the paired difference with its interval."""
    seed: int = 0
    """Seed of the bootstrap."""

    POSITIONAL = ("truth", "detections")

    def __post_init__(self) -> None:
        """Check the number of resamplings.

        Raises:
            ConfigError: for one below 0.
        """
        if self.bootstrap < 0:
            raise ConfigError(f"bootstrap: expected at least 0, got {self.bootstrap}")


def run(resolved: Resolved[Settings]) -> int:
    """Score one file; standard output gets one JSON object and nothing else.

    Args:
        resolved: the settings.

    Returns:
        The exit code.
    """
    from dip_env.metrics.score import score_files

    args = resolved.settings
    # A library that prints (pycocotools does) must not spoil the JSON.
    with contextlib.redirect_stdout(sys.stderr):
        found = score_files(
            args.truth,
            args.detections,
            args.protocol,
            scores=args.scores,
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
