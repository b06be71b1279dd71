"""A detector that samples from the ground truth: cheap, and its error model is known exactly."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from dip_env.ambiguity import detectability
from dip_env.boxes import Boxes, as_boxes, box_iou, covered_share
from dip_wrappers.glimpse.detections import Detections, joined
from dip_wrappers.glimpse.detectors import DetectorInput

Row = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class SimulatedDetector:
    """Finds a person with a probability that depends on the pixels it sees (source: ours).

    The probability p is that of ``dip_env.ambiguity.detectability`` for the height in pixels of the
    image (of the scene, where the image enlarges it) and the visible share inside it, less for
    people who overlap others. The score is ``s(logit p + z)`` with the logistic function s and a
    logistic draw z, so that a share p of such people score at least 0.5. Draws depend only on the
    scene and the person: the same region gives the same detections, and only more pixels, never
    another look at as many, find more.
    Look-alikes (``scene.notes["lookalikes"]``, which procedural scenes have) are taken for people
    with the probability ``mistaken``, falling to 0 as they get tall enough to be told apart; so are
    stray boxes.

    Args:
        seed: of the draws.
        clutter: loss in log-odds for each other person who overlaps by IoU 0.1 or more.
        jitter: standard deviation of each edge, pixels of the image, plus 2 % of the side.
        mistaken: probability that a small look-alike is taken for a person.
        told_apart: height in pixels at which half of these mistakes are made.
        stray: mean number of false boxes per scene that only an image with few pixels shows.
        lowest_score: detections with a lower score are not reported.
    """

    seed: int = 0
    clutter: float = 0.7
    jitter: float = 0.8
    mistaken: float = 0.8
    told_apart: float = 40.0
    stray: float = 2.0
    lowest_score: float = 0.05

    reads_pixels: ClassVar[bool] = False
    """It reads ground truth and region: blanked crops change nothing for it."""

    def __call__(self, picture: DetectorInput) -> Detections:
        """Return boxes in pixels of ``picture.image``, with scores."""
        found = joined(self._people(picture), self._others(picture))
        return found.above(self.lowest_score)

    def _people(self, picture: DetectorInput) -> Detections:
        scene = picture.scene
        boxes, visible = scene.truth.astype(np.float64), scene.visible_boxes[~scene.ignore]
        shares = scene.visible_share[~scene.ignore] * covered_share(visible, picture.region[None])
        shown = picture.from_scene(boxes)
        probability = detectability(_heights(picture, boxes), shares)
        neighbours = (box_iou(boxes, boxes) >= 0.1).sum(axis=1) - 1
        rng = self._rng(picture, "people")
        odds = _odds(probability) - self.clutter * neighbours + rng.logistic(size=len(boxes))
        return self._report(picture, shown, expit(odds), shares > 0, rng)

    def _others(self, picture: DetectorInput) -> Detections:
        rng = self._rng(picture, "others")
        boxes = self._false_people(picture, rng)
        shown = picture.from_scene(boxes)
        heights = np.maximum(_heights(picture, boxes), 1e-6)
        # Large ones are told apart; those far too small are not detected either.
        probability = self.mistaken * expit(-3.0 * np.log2(heights / self.told_apart))
        probability = probability * detectability(heights, np.ones(len(boxes)))
        odds = _odds(probability) + rng.logistic(size=len(boxes))
        inside = covered_share(boxes, picture.region[None]) > 0.5
        return self._report(picture, shown, expit(odds), inside, rng)

    def _false_people(self, picture: DetectorInput, rng: np.random.Generator) -> Boxes:
        scene = picture.scene
        width, height = scene.size
        known = as_boxes(scene.notes.get("lookalikes", ()))
        count = int(rng.poisson(self.stray))
        tall = rng.uniform(0.03, 0.12, count) * height
        x, y = rng.uniform(0, width - tall * 0.4), rng.uniform(0.2 * height, height - tall)
        strays = np.stack([x, y, x + tall * 0.4, y + tall], axis=1)
        return np.concatenate([known, strays])

    def _report(
        self,
        picture: DetectorInput,
        shown: Boxes,
        scores: Row,
        seen: Flags,
        rng: np.random.Generator,
    ) -> Detections:
        """Jitter the boxes, clip them, and leave out those outside the image."""
        sides = np.tile(shown[:, 2:] - shown[:, :2], 2)
        off = shown + rng.normal(size=shown.shape) * (self.jitter + 0.02 * sides)
        width, height = picture.size
        off = np.clip(off, 0, (width, height, width, height))
        good = seen & (off[:, 2:] - off[:, :2] >= 1).all(axis=1)
        return Detections(off[good], scores[good])

    def _rng(self, picture: DetectorInput, what: str) -> np.random.Generator:
        key = f"{self.seed}/{what}/{picture.scene.scene_id}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        return np.random.default_rng(int.from_bytes(digest, "big"))


def _heights(picture: DetectorInput, boxes: Boxes) -> Row:
    """Return the height of each box in informative pixels, (N,): enlarging adds none."""
    return np.asarray((boxes[:, 3] - boxes[:, 1]) * min(1.0, picture.scale[1]))


def _odds(probability: Row) -> Row:
    """Return log-odds, finite also for probabilities of 0 or 1."""
    return np.asarray(logit(np.clip(probability, 1e-9, 1 - 1e-9)))
