"""Metrics of detections by any protocol, as plain values for JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from dip_env.errors import ConfigError
from dip_env.formats.box_sets import Detections, Floats, Truth
from dip_env.formats.coco_json import read_detections, read_truth
from dip_env.metrics.breakdown import break_down
from dip_env.metrics.curves import MISS_RATE_RULES, MissRateRule
from dip_env.metrics.intervals import bootstrap, paired
from dip_env.metrics.protocols.citypersons import measure_citypersons
from dip_env.metrics.protocols.coco import measure_coco
from dip_env.metrics.protocols.crowdhuman import measure_crowdhuman
from dip_env.metrics.protocols.uavdt import measure_uavdt
from dip_env.metrics.protocols.wider import measure_wider
from dip_env.metrics.unscored import UnscoredScore, measure_unscored

Protocol = Literal["coco", "crowdhuman", "citypersons", "wider", "uavdt"]
PROTOCOLS: tuple[str, ...] = get_args(Protocol)

WITH_MISS_RATE = ("crowdhuman", "citypersons")
"""Protocols with an MR^-2, whose rule can be chosen."""

AS_ANNOTATED = ("citypersons", "wider", "uavdt")
"""Protocols whose evaluators take boxes as annotated, also where they leave the image: a height or
a visible share is that of the whole. The one of CrowdHuman clips by itself; COCO's are clipped."""

BoxSetType = TypeVar("BoxSetType", Truth, Detections)

COUNTS = ("tp", "fp", "fn", "dropped")
"""Metrics that are numbers of boxes."""


class Measured(Interface):
    """The result of a protocol: metrics as a function of image weights."""

    def values(self, counts: Floats | None = None) -> dict[str, float | None]:
        """Return the metrics by name; None where one is not defined."""
        ...

    def reasons(self) -> dict[str, str]:
        """Return why a metric is not defined, by name."""
        ...

    def details(self) -> dict[str, Any]:
        """Return further counts."""
        ...


def measure(
    truth: Truth,
    detections: Detections,
    protocol: Protocol = "coco",
    *,
    scores: bool = True,
    mr_rule: MissRateRule | None = None,
) -> Measured:
    """Match detections with the ground truth by one protocol.

    Args:
        truth: persons and ignore regions.
        detections: in the same images.
        protocol: the rules; each reproduces its published evaluator.
        scores: False for detections without scores: the same metrics under any protocol.
        mr_rule: which point of the curve a miss rate is read at; the protocol's own by default.

    Returns:
        The metrics, to be read with ``values()``.

    Raises:
        ConfigError: for an unknown name, a rule where there is no miss rate, or detections of other
            images.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(f"protocol: expected one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    if mr_rule is not None and mr_rule not in MISS_RATE_RULES:
        raise ConfigError(f"mr_rule: expected one of {', '.join(MISS_RATE_RULES)}, got {mr_rule!r}")
    if mr_rule is not None and (not scores or protocol not in WITH_MISS_RATE):
        raise ConfigError(
            f"mr_rule: expected a protocol with a miss rate ({' or '.join(WITH_MISS_RATE)}, "
            f"with scores), got {protocol}{'' if scores else ' without scores'}"
        )
    if truth.images != detections.images:
        raise ConfigError(
            f"detections: expected the {truth.images} images of the ground truth, "
            f"got {detections.images}"
        )
    if not scores:
        return measure_unscored(truth, detections)
    if protocol == "crowdhuman":
        return measure_crowdhuman(truth, detections, mr_rule or "crowddet")
    if protocol == "citypersons":
        return measure_citypersons(truth, detections, mr_rule or "citypersons")
    if protocol == "coco" and truth.iscrowd is not None:
        # pycocotools overwrites an annotation's ignore key with its iscrowd.
        truth = replace(truth, ignore=truth.iscrowd)
    others: Mapping[str, Callable[[Truth, Detections], Measured]] = {
        "coco": measure_coco,
        "wider": measure_wider,
        "uavdt": measure_uavdt,
    }
    return others[protocol](truth, detections)


def score_files(
    truth_file: str | Path,
    detection_file: str | Path,
    protocol: Protocol = "coco",
    *,
    scores: bool = True,
    mr_rule: MissRateRule | None = None,
    annotated_only: bool = False,
    categories: Sequence[str] = (),
    breakdown: bool = False,
    bootstrap_rounds: int = 0,
    compare: str | Path | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a file of detections.

    Args:
        truth_file: COCO json; ``iscrowd`` marks ignored instances. Of a file that ``dip evaluate``
            wrote, protocols whose evaluators do not clip read the boxes as annotated.
        detection_file: COCO results.
        protocol: the rules.
        scores: False for detections without scores.
        mr_rule: which point of the curve a miss rate is read at; the protocol's own by default.
        annotated_only: leave out images without annotations, with their detections.
        categories: names of the categories to evaluate, all by default.
        breakdown: add recall by height and visible share, and scores by people per image.
        bootstrap_rounds: resamplings of the images for 95 % intervals, 0 for none.
        compare: other detections of the same images; adds the difference, the first minus these.
        seed: of the bootstrap.

    Returns:
        Plain values for JSON, never NaN: the metrics at the top level (fractions), and
        ``protocol``, ``details``, ``undefined`` (why a metric is null), a ``warning`` where all
        scores are equal, and, if requested, ``intervals``, ``breakdown`` and ``difference``.

    Raises:
        SceneError: for a malformed file.
        ConfigError: for a setting that cannot work.
    """
    if bootstrap_rounds < 0:
        raise ConfigError(f"bootstrap_rounds: expected a number >= 0, got {bootstrap_rounds}")
    if seed < 0:
        raise ConfigError(f"seed: expected a number >= 0, got {seed}")
    truth = read_truth(truth_file, as_annotated=scores and protocol in AS_ANNOTATED)

    def read(file: str | Path) -> tuple[Truth, Detections]:
        detections = read_detections(file, truth, scores_needed=scores)
        return select(truth, detections, categories=categories, annotated_only=annotated_only)

    kept, detections = read(detection_file)
    found = measure(kept, detections, protocol, scores=scores, mr_rule=mr_rule)
    result: dict[str, Any] = {
        **{name: _plain(name, value) for name, value in found.values().items()},
        "protocol": protocol,
        "scores": scores,
        "details": found.details(),
        "undefined": found.reasons(),
    }
    if scores and len(detections.scores) > 1 and np.ptp(detections.scores) == 0:
        result["warning"] = (
            f"all {len(detections.scores)} scores are {detections.scores[0]:g}: what depends on "
            "their order, such as AP and MR, follows that of the file; without scores "
            "(scores=False) nothing does"
        )
    if breakdown:
        result["breakdown"] = break_down(
            kept, detections, found if isinstance(found, UnscoredScore) else None
        )
    rounds = bootstrap_rounds or (1000 if compare is not None else 0)
    if bootstrap_rounds:
        intervals = bootstrap(
            found.values, kept.images, rounds=rounds, seed=seed, reasons=found.reasons()
        )
        result["intervals"] = {name: asdict(interval) for name, interval in intervals.items()}
    if compare is not None:
        other = measure(*read(compare), protocol, scores=scores, mr_rule=mr_rule)
        reasons = other.reasons() | found.reasons()
        difference = paired(
            other.values, found.values, kept.images, rounds=rounds, seed=seed, reasons=reasons
        )
        result["difference"] = {name: asdict(interval) for name, interval in difference.items()}
    if rounds:
        result["bootstrap"] = {"rounds": rounds, "seed": seed, "level": 0.95, "over": "images"}
    return result


def select(
    truth: Truth,
    detections: Detections,
    *,
    categories: Sequence[str] = (),
    annotated_only: bool = False,
) -> tuple[Truth, Detections]:
    """Keep some categories or some images.

    Args:
        truth: persons and ignore regions.
        detections: in the same images.
        categories: names of the categories to keep (all that share a name), all by default.
        annotated_only: leave out images without annotations, with their detections.

    Returns:
        The selected parts of both, in the same order.

    Raises:
        ConfigError: for a name that the ground truth does not have.
    """
    if categories:
        known = set(truth.category_names.values())
        for name in categories:
            if name not in known:
                raise ConfigError(f"categories: expected some of {sorted(known)}, got {name!r}")
        wanted = [number for number, name in truth.category_names.items() if name in categories]
        truth = keep_rows(truth, np.isin(truth.category, wanted))
        detections = keep_rows(detections, np.isin(detections.category, wanted))
        names = {number: truth.category_names[number] for number in wanted}
        truth = replace(truth, category_names=names)
    if annotated_only:
        stay = np.diff(truth.starts) > 0
        truth, detections = _images(truth, stay), _images(detections, stay)
        truth = replace(
            truth,
            image_ids=tuple(i for i, kept in zip(truth.image_ids, stay, strict=True) if kept),
            sizes=truth.sizes[stay],
        )
    return truth, detections


def _plain(name: str, value: float | None) -> float | int | None:
    return int(value) if name in COUNTS and value is not None else value


def keep_rows(boxes: BoxSetType, keep: NDArray[np.bool_]) -> BoxSetType:
    """Return some of the boxes, in all of the images.

    Args:
        boxes: of the images.
        keep: (N,) which of them.
    """
    per_image = np.bincount(boxes.image[keep], minlength=boxes.images)
    columns = {
        name: column[keep]
        for name, column in vars(boxes).items()
        if name in _ROW_COLUMNS and column is not None
    }
    return replace(boxes, starts=np.concatenate([[0], np.cumsum(per_image)]), **columns)


def _images(boxes: BoxSetType, stay: NDArray[np.bool_]) -> BoxSetType:
    """Keep some images with their rows."""
    kept = keep_rows(boxes, stay[boxes.image])
    return replace(kept, starts=np.concatenate([[0], np.cumsum(np.diff(kept.starts)[stay])]))


_ROW_COLUMNS = ("xywh", "category", "ignore", "iscrowd", "visible_xywh", "area", "scores")
"""Columns of truth and detections with one entry per box."""
