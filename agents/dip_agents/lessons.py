"""Demonstrations as tokens: what supervised fine-tuning learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dip_agents.chat_tokens import ChatTokens
from dip_agents.policy import Policy
from dip_agents.seeds import derived_seed
from dip_agents.token_buffer import TokenBuffer
from dip_env.boxes import box_area, clip_boxes
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.scenes.base import Scene, SceneSource

MIN_SHARE_IN_CROP = 0.4
"""Share of a person's box that must lie in a crop to count as shown there."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """One demonstrated episode.

    Args:
        buffer: its tokens; loss mask 1 on what the demonstrator said.
        boxes: per image of the buffer, the true boxes in pixels of that image, (N, 4).
    """

    buffer: TokenBuffer
    boxes: list[NDArray[np.float64]]


def play_lesson(
    scene: Scene, index: int, config: EpisodeConfig, policy: Policy, chat: ChatTokens, seed: int
) -> Lesson:
    """Let a policy play one episode and keep it as tokens.

    Args:
        scene: the scene.
        index: its number in the policy's source.
        config: the rules of the episode.
        policy: the demonstrator.
        chat: the learner's tokens.
        seed: of the demonstrator.

    Returns:
        The lesson.
    """
    episode = Episode(scene, config, scene_index=index)
    buffer = TokenBuffer(chat.image_token_id)
    buffer.append_env(*chat.opening(episode.observation().messages))
    boxes = [episode.view.scene_to_view(clip_boxes(scene.truth, scene.size))]
    while not episode.done:
        said = policy.act([episode.observation()], [derived_seed(seed, index, len(boxes))])[0]
        ids = chat.policy_ids(said.text)
        buffer.append_policy(ids, [0.0] * len(ids))
        turn = episode.step(said.text)
        if turn.message is not None:
            buffer.append_env(*chat.reply(turn.message))
        for crop in turn.crops:
            boxes.append(_in_crop(scene, crop.region, crop.image.shape))
    return Lesson(buffer, boxes)


def _in_crop(
    scene: Scene, region: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the true boxes a crop shows, clipped, in pixels of the crop."""
    truth = clip_boxes(scene.truth, scene.size)
    low, high = np.tile(region[:2], 2), np.tile(region[2:], 2)
    inside = np.clip(truth, low, high)
    area = np.maximum(box_area(truth), 1e-9)
    inside = inside[box_area(inside) >= MIN_SHARE_IN_CROP * area]
    scale = np.array([shape[1], shape[0]] * 2) / (high - low)
    return (inside - low) * scale


class LessonData(Dataset[Lesson]):
    """A data set of lessons, each played when it is asked for.

    Args:
        source: scenes; lesson i plays scene i.
        count: number of lessons.
        config: the rules of the episodes.
        teacher: makes the demonstrator for the source; called in the worker process.
        chat: the learner's tokens.
        seed: of the demonstrator.
    """

    def __init__(
        self,
        source: SceneSource,
        count: int,
        config: EpisodeConfig,
        teacher: Callable[[SceneSource, EpisodeConfig], Policy],
        chat: ChatTokens,
        seed: int = 0,
    ) -> None:
        """Keep everything; nothing is drawn yet."""
        self.source, self.count, self.config = source, min(count, len(source)), config
        self.chat, self.seed = chat, seed
        self.policy = teacher(source, config)

    def __len__(self) -> int:
        """Return the number of lessons."""
        return self.count

    def __getitem__(self, index: int) -> Lesson:
        """Play lesson ``index``."""
        scene = self.source[index]
        return play_lesson(scene, index, self.config, self.policy, self.chat, self.seed)
