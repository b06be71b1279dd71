"""Detectors that look at pixels."""

from __future__ import annotations

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import dip_env  # noqa: F401
from dip_agents.glimpse.detectors import (
    PolicyDetector,
    TorchvisionDetector,
    picture_scene,
    tiny_detector,
)
from dip_agents.policies.base import CallablePolicy
from dip_agents.policies.scripted import RandomPolicy
from dip_env.boxes import box_iou
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.scenes import make_source
from dip_wrappers.glimpse import DetectorInput, Glimpse, GridLooks

RULES = EpisodeConfig(view_size=128, crop_size=64)


def picture(width=64, height=32):
    image = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3) % 256
    scene = picture_scene(image.astype(np.uint8))
    return DetectorInput(image.astype(np.uint8), np.array([0.0, 0.0, width, height]), scene)


def answering(text):
    seen = []

    def policy(transcript):
        seen.append(transcript)
        return text

    return PolicyDetector(CallablePolicy(policy), RULES), seen


def test_an_answer_comes_back_in_pixels_of_the_picture_with_its_scores():
    # A picture of 64 x 32 is shown at 128 x 64: twice as large.
    boxes = '[{"bbox_2d":[10,20,30,40],"score":0.25},[100,10,120,60]]'
    detector, seen = answering(f"<think>two</think><answer>{boxes}</answer>")
    found = detector(picture())
    np.testing.assert_allclose(found.boxes, [[5, 10, 15, 20], [50, 5, 60, 30]])
    assert found.scores.tolist() == [0.25, 1.0]
    assert "image 128x64" in seen[0] and "<look>" not in seen[0]
    assert (detector.asked, detector.unread) == (1, 0)


@pytest.mark.parametrize("text", ["people everywhere", "<think>a</think><answer>[[1,2"])
def test_an_answer_that_cannot_be_read_is_empty_counted_and_warned_of_once(text, caplog):
    detector, _ = answering(text)
    assert len(detector(picture())) == len(detector(picture())) == 0
    assert (detector.asked, detector.unread) == (2, 2)
    (record,) = caplog.records
    assert repr(text) in record.getMessage()


def test_the_policy_is_asked_for_what_is_to_be_found_in_the_scene():
    detector, seen = answering("<think>none</think><answer>[]</answer>")
    one = picture()
    detector(replace(one, scene=replace(one.scene, target="vehicle")))
    assert "Find every vehicle" in seen[0]


def test_one_picture_always_gets_one_answer_of_a_policy_that_samples():
    rules = replace(RULES, max_looks=0)
    detector = PolicyDetector(RandomPolicy(rules), rules)
    first, second = picture(), picture(32, 64)
    found = [detector(one).boxes.tolist() for one in (first, second, first)]
    assert found[0] == found[2] != found[1]
    again = PolicyDetector(RandomPolicy(rules), rules, seed=1)(first).boxes.tolist()
    assert again != found[0]


def test_the_tiny_model_finds_people_near_and_far():
    detector = tiny_detector("cpu")
    source = make_source("easy", split="val")
    truth = found = right = 0
    for index in range(6):
        scene = source[index]
        image = np.asarray(scene.image)
        seen = detector(DetectorInput(image, np.array([0.0, 0.0, *scene.size]), scene))
        hits = box_iou(seen.boxes, scene.truth) >= 0.5
        truth, found = truth + len(scene.truth), found + len(seen)
        right += int(hits.any(axis=1).sum())
    assert detector.unread == 0
    assert right / found > 0.7 and right / truth > 0.7


class Fixed(nn.Module):
    """Answers as torchvision's models do, and remembers what it was shown."""

    def __init__(self, **answer):
        super().__init__()
        self.answer = {key: torch.tensor(value) for key, value in answer.items()}

    def forward(self, images):
        assert not self.training and len(images) == 1
        self.seen = images[0]
        return [self.answer]


def test_a_torchvision_model_gets_its_format_and_only_people_count():
    model = Fixed(boxes=[[1.0, 2, 3, 4], [5, 6, 7, 8]], labels=[1, 3], scores=[0.9, 0.8])
    found = TorchvisionDetector(model)(picture())
    assert found.boxes.tolist() == [[1, 2, 3, 4]] and found.scores.tolist() == pytest.approx([0.9])
    assert model.seen.shape == (3, 32, 64) and model.seen.dtype == torch.float32
    assert float(model.seen[1, 0, 0]) == pytest.approx(1 / 255)
    assert TorchvisionDetector(model, label=3)(picture()).boxes.tolist() == [[5, 6, 7, 8]]
    with pytest.raises(ConfigError, match=r"expected boxes, labels and scores of Fixed, got \['b"):
        TorchvisionDetector(Fixed(boxes=[[1.0, 2, 3, 4]]))(picture())


@pytest.mark.slow
def test_a_real_torchvision_model_answers_in_the_numeric_environment():
    detection = pytest.importorskip("torchvision").models.detection
    torch.manual_seed(0)
    model = detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None)
    env = Glimpse(
        gym.make("DIPCrowd-v0", scenes="toy", view_size=128, crop_size=64),
        TorchvisionDetector(model),
        GridLooks((2,)),
    )
    env.reset(seed=0)
    done = False
    while not done:
        _, reward, done, _, info = env.step(0)
    assert 0 <= reward <= 1
    assert len(info["found_boxes"]) == len(info["found_scores"])
