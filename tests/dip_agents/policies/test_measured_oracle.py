"""What `evaluate` measures of an oracle with known mistakes is what follows from the mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dip_agents.evaluation.evaluator import evaluate
from dip_agents.policies.oracle import OracleConfig, OraclePolicy
from dip_agents.policies.oracle_looks import NoLook
from dip_env import EpisodeConfig, make_source
from dip_env.formats.coco_json import read_detections, read_truth
from dip_env.metrics.unscored import measure_unscored
from dip_env.scenes import CocoScenes

CONFIG = EpisodeConfig(max_turns=1, max_looks=0)
SIGMAS = 4
ROLLOUTS = 8


@pytest.fixture(scope="module")
def drawn():
    """Crowds as drawn: people reach over the border, regions are ignored."""
    source = make_source("crowd", split="val")
    scenes = [source[k] for k in range(8)]
    assert any(scene.ignore.any() for scene in scenes)
    assert any((scene.truth[:, 2] > scene.size[0]).any() for scene in scenes)
    return scenes


@pytest.fixture
def coco_root(write_coco):
    """Twelve images of 640 x 480 with people in cells of 90 x 105, far apart; ids have gaps."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(12):
        images.append({"id": 7 * k + 3, "file_name": f"{k}.png", "width": 640, "height": 480})
        for cell in rng.choice(24, 18, replace=False):
            width, height = rng.uniform(12, 30), rng.uniform(20, 45)
            x, y = 50 + 90 * (cell % 6) + rng.uniform(0, 20), 50 + 105 * (cell // 6)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 7 * k + 3,
                    "category_id": 1,
                    "bbox": [float(x), float(y), float(width), float(height)],
                    "iscrowd": 0,
                }
            )
    return write_coco(annotations, images, size=(640, 480))


def play_oracle(source, **mistakes):
    policy = OraclePolicy(source, CONFIG, OracleConfig(decimals=2, look=NoLook(), **mistakes))
    return evaluate(policy, source, range(len(source)), CONFIG, group_size=ROLLOUTS)


def bounds(people, miss_rate, false_positive_rate):
    """Ranges of precision, recall and AP_tied, SIGMAS wide, from the oracle's rates alone."""
    found, invented = people * (1 - miss_rate), people * false_positive_rate
    recall = found / people
    recall_error = (miss_rate * (1 - miss_rate) / people) ** 0.5
    precision = found / (found + invented)
    # P = a / (a + b): dP = P (1 - P) (da / a - db / b), a binomial and b Poisson.
    spread = (miss_rate / found + (1 / invented if invented else 0)) ** 0.5
    precision_error = precision * (1 - precision) * spread
    ranges = {}
    ranges["recall"] = (recall - SIGMAS * recall_error, recall + SIGMAS * recall_error)
    ranges["precision"] = (
        precision - SIGMAS * precision_error,
        precision + SIGMAS * precision_error,
    )
    ranges["AP_tied"] = tuple(
        p * (np.floor(100 * min(r, 1) + 1e-9) + 1) / 101
        for p, r in zip(ranges["precision"], ranges["recall"], strict=True)
    )
    return ranges


def disagreements(result, miss_rate, false_positive_rate):
    """Return the metrics that lie outside their ranges."""
    people = int(result.score.counters["truth"].sum())
    ranges = bounds(people, miss_rate, false_positive_rate)
    return {
        name
        for name, (low, high) in ranges.items()
        if not low - 1e-9 <= result.metrics[name].value <= high + 1e-9
    }


def assert_measured_as_made(source):
    perfect = play_oracle(source)
    for name in ("precision", "recall", "F1", "AP_tied", "AP50_tied", "AP75_tied"):
        assert perfect.metrics[name].value == 1.0, name
    assert perfect.metrics["mean_iou"].value > 0.99
    assert perfect.metrics["JI"].value == pytest.approx(1.0, abs=1e-5)

    result = play_oracle(source, miss_rate=0.3, false_positive_rate=0.5)
    assert disagreements(result, 0.3, 0.5) == set()
    # The ranges are narrow enough to tell other oracles.
    for other in (0.2, 0.4):
        assert {"recall", "AP_tied"} <= disagreements(result, other, 0.5)
    for other in (0.3, 0.7):
        assert "precision" in disagreements(result, 0.3, other)

    # Printing with two decimals moves no box below IoU .95: all ten thresholds agree.
    precision, recall = (result.metrics[name].value for name in ("precision", "recall"))
    point = precision * (np.floor(100 * recall + 1e-9) + 1) / 101
    per_iou = result.score.unscored.details()["per_iou"]
    assert [row["AP_tied"] for row in per_iou.values()] == pytest.approx([point] * 10, abs=1e-12)


def test_an_oracle_on_drawn_crowds_scores_what_its_mistakes_leave(drawn):
    assert_measured_as_made(drawn)


def test_an_oracle_on_a_coco_file_scores_what_its_mistakes_leave(coco_root):
    assert_measured_as_made(CocoScenes(coco_root))


def test_missing_everybody_and_inventing_nobody_are_the_ends_of_the_scale(coco_root):
    source = CocoScenes(coco_root)
    nobody = play_oracle(source, miss_rate=1.0)
    assert nobody.metrics["recall"].value == nobody.metrics["AP_tied"].value == 0
    assert nobody.metrics["precision"].value is None
    sure = play_oracle(source, miss_rate=0.5)
    assert sure.metrics["precision"].value == 1.0
    assert disagreements(sure, 0.5, 0.0) == set()


def simulate(jitter, n=200_000):
    """IoU of the unit square with itself after its edges have moved; sizes do not matter."""
    x1, y1, x2, y2 = jitter * np.random.default_rng(1).standard_normal((4, n))
    wide = np.minimum(1 + x2, 1) - np.maximum(x1, 0)
    tall = np.minimum(1 + y2, 1) - np.maximum(y1, 0)
    shared = wide * tall
    return shared / (1 + (1 + x2 - x1) * (1 + y2 - y1) - shared)


def shaken_as(result, jitter):
    """Tell whether overlaps and found shares are those of a jitter, within SIGMAS."""
    iou = simulate(jitter)
    people = int(result.score.counters["truth"].sum())
    paired = iou[iou >= 0.5]
    mean_error = SIGMAS * paired.std() / people**0.5
    agree = [abs(result.metrics["mean_iou"].value - paired.mean()) <= mean_error]
    for name, threshold in (("AP50_tied", 0.5), ("AP75_tied", 0.75)):
        share = (iou >= threshold).mean()
        error = SIGMAS * (share * (1 - share) / people) ** 0.5
        # As many answers as people, so P = R, and the one point is at (R, R).
        low, high = (
            r * (np.floor(100 * r + 1e-9) + 1) / 101 for r in (share - error, min(share + error, 1))
        )
        agree.append(low <= result.metrics[name].value <= high)
    return all(agree)


def test_shaken_boxes_overlap_as_simulated(coco_root):
    source = CocoScenes(coco_root)
    result = play_oracle(source, jitter=0.08)
    assert shaken_as(result, 0.08)
    assert not shaken_as(result, 0.07)
    assert not shaken_as(result, 0.09)
    assert result.metrics["AP75_tied"].value < 0.9 < result.metrics["AP50_tied"].value


def test_answers_can_be_scored_against_the_data_sets_own_file(coco_root, tmp_path):
    source = CocoScenes(coco_root)
    policy = OraclePolicy(source, CONFIG, OracleConfig(decimals=2, miss_rate=0.3, jitter=0.05))
    evaluate(policy, source, range(len(source)), CONFIG, out=tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    truth = read_truth(coco_root / "annotations.json")
    found = read_detections(tmp_path / "out" / "detections.json", truth)
    values = measure_unscored(truth, found).values()
    for name in ("precision", "recall", "mean_iou", "JI", "AP_tied", "count_mae"):
        # Scenes hold float32, the file holds float64.
        assert metrics[name] == pytest.approx(values[name], abs=1e-6), name
