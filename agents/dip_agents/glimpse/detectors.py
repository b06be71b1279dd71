"""Detectors that look at pixels, for ``dip_wrappers.glimpse``: policies and torchvision models."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from dip_agents.engines.choose import engine_for
from dip_agents.models.loading import load_model
from dip_agents.policies.base import Policy, conversation_key
from dip_agents.policies.vlm import VLMPolicy
from dip_agents.runtime.seeds import derived_seed
from dip_env.actions import Answer
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.scenes.base import Scene
from dip_wrappers.glimpse import Detections, DetectorInput
from dip_wrappers.glimpse.detections import NOTHING

TINY_TOKENS = 768
"""Enough for the answer to a dense crowd."""


class PolicyDetector:
    """A policy as a detector: it answers for one image without a look.

    Args:
        policy: sees the image as an overview.
        rules: of the episodes that it was trained on; looks are disabled.
        score: of answered boxes without a score.
        seed: of a policy that samples, combined with the image: one image always gets one answer.
    """

    def __init__(
        self, policy: Policy, rules: EpisodeConfig, score: float = 1.0, seed: int = 0
    ) -> None:
        """Store the settings and disable looks."""
        self.policy, self.score, self.seed = policy, score, seed
        self.rules = replace(rules, max_looks=0, max_turns=1)
        self.asked = 0
        """Images so far."""
        self.unread = 0
        """Images whose answer was malformed, so that they count as empty; the first is logged as a
        warning."""

    def __call__(self, picture: DetectorInput) -> Detections:
        """Return the boxes of the answer in pixels of the image."""
        episode = Episode(picture_scene(picture.image, picture.scene.target), self.rules)
        observation = episode.observation()
        key = conversation_key(observation.messages)
        (completion,) = self.policy.act([observation], [derived_seed(self.seed, key.hex())])
        self.asked += 1
        turn = episode.advance(completion.text)
        answers = [s for s in turn.segments or () if isinstance(s, Answer)]
        if not answers:
            if not self.unread:
                logging.getLogger(__name__).warning(
                    "PolicyDetector: expected an answer, got %r (%s): such images count as empty "
                    "and are counted in `unread`; this is logged once",
                    completion.text[:80],
                    turn.parse_error or "no answer",
                )
            self.unread += 1
            return NOTHING
        scores = [self.score if score is None else score for score in answers[0].scores]
        return Detections(episode.view.text_to_scene(answers[0].boxes), np.array(scores))


class TorchvisionDetector:
    """Any detection model with the interface of torchvision's.

    Args:
        model: from a list of float images (3, H, W) in [0, 1] to a dictionary for each, with
            ``boxes`` (N, 4) xyxy in pixels, ``labels`` (N,) and ``scores`` (N,).
        label: class index of people; 1 for weights trained on COCO.
        device: of the model.
    """

    def __init__(self, model: nn.Module, label: int = 1, device: str = "cpu") -> None:
        """Put the model into evaluation mode."""
        self.model, self.label, self.device = model.to(device).eval(), label, device

    def __call__(self, picture: DetectorInput) -> Detections:
        """Return the people that the model detects.

        Raises:
            ConfigError: when the model returns something else.
        """
        pixels = torch.from_numpy(np.array(picture.image)).to(self.device)
        with torch.inference_mode():
            (found,) = self.model([pixels.permute(2, 0, 1).float() / 255])
        missing = [key for key in ("boxes", "labels", "scores") if key not in found]
        if missing:
            raise ConfigError(
                f"detector: expected boxes, labels and scores of {type(self.model).__name__}, "
                f"got {sorted(found)}"
            )
        people = found["labels"] == self.label
        boxes, scores = found["boxes"][people], found["scores"][people]
        return Detections(boxes.double().cpu().numpy(), scores.double().cpu().numpy())


def tiny_detector(device: Literal["auto", "cpu", "cuda"] = "auto") -> PolicyDetector:
    """Return the bundled tiny model as a detector, greedy; all its boxes score 1.

    Args:
        device: where it runs; auto takes the GPU when there is one.
    """
    loaded = load_model("tiny", device=device)
    policy = VLMPolicy(engine_for(loaded.vlm), 0.0, TINY_TOKENS, 2 * TINY_TOKENS)
    return PolicyDetector(policy, loaded.rules)


def picture_scene(image: np.ndarray, target: str = "person") -> Scene:
    """Return an image as a scene without annotations.

    Args:
        image: RGB uint8 (h, w, 3).
        target: what to detect in it, a singular noun.
    """
    return Scene(
        scene_id="picture",
        size=(image.shape[1], image.shape[0]),
        boxes=np.zeros((0, 4), np.float32),
        visible_boxes=np.zeros((0, 4), np.float32),
        visible_share=np.zeros(0, np.float32),
        ignore=np.zeros(0, bool),
        labels=(),
        load_image=lambda: Image.fromarray(image),
        target=target,
    )
