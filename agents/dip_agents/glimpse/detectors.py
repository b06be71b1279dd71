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
    """A policy that answers at once, without a look, what it sees in one picture.

    Args:
        policy: is shown the picture as an overview.
        rules: of the episodes that it knows; the looks are taken away.
        score: of boxes that the answer gives none.
        seed: of a policy that samples, with the picture: one picture always gets one answer.
    """

    def __init__(
        self, policy: Policy, rules: EpisodeConfig, score: float = 1.0, seed: int = 0
    ) -> None:
        """Take the looks away."""
        self.policy, self.score, self.seed = policy, score, seed
        self.rules = replace(rules, max_looks=0, max_turns=1)
        self.asked = 0
        """Pictures so far."""
        self.unread = 0
        """Of these, the ones whose answer was malformed, and which therefore count as empty; the
        first of them is logged as a warning."""

    def __call__(self, picture: DetectorInput) -> Detections:
        """Return the boxes of the answer in pixels of the picture."""
        episode = Episode(picture_scene(picture.image, picture.scene.target), self.rules)
        observation = episode.observation()
        key = conversation_key(observation.messages)
        (said,) = self.policy.act([observation], [derived_seed(self.seed, key.hex())])
        self.asked += 1
        turn = episode.advance(said.text)
        answers = [s for s in turn.segments or () if isinstance(s, Answer)]
        if not answers:
            if not self.unread:
                logging.getLogger(__name__).warning(
                    "PolicyDetector: expected an answer, got %r (%s): such pictures count as empty "
                    "and are counted in `unread`; this is said once",
                    said.text[:80],
                    turn.parse_error or "no answer",
                )
            self.unread += 1
            return NOTHING
        scores = [self.score if score is None else score for score in answers[0].scores]
        return Detections(episode.view.text_to_scene(answers[0].boxes), np.array(scores))


class TorchvisionDetector:
    """Any detection model of torchvision, or one that is called and answers alike.

    Args:
        model: from a list of float images (3, H, W) in [0, 1] to a dictionary for each, with
            ``boxes`` (N, 4) xyxy in pixels, ``labels`` (N,) and ``scores`` (N,).
        label: of people; 1 for weights trained on COCO.
        device: where the model is put.
    """

    def __init__(self, model: nn.Module, label: int = 1, device: str = "cpu") -> None:
        """Put the model into evaluation mode."""
        self.model, self.label, self.device = model.to(device).eval(), label, device

    def __call__(self, picture: DetectorInput) -> Detections:
        """Return the people that the model finds.

        Raises:
            ConfigError: when the model answers something else.
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
    """Return a picture as a scene without truth.

    Args:
        image: RGB uint8 (h, w, 3).
        target: what is to be found in it, a singular noun.
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
