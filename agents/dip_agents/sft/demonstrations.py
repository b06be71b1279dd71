"""Demonstrations as tokens, the data of supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from dip_agents.policies.base import Policy
from dip_agents.policies.oracle import OracleConfig, OraclePolicy, shown_in
from dip_agents.policies.oracle_looks import AmbiguousTiles, RandomTiles
from dip_agents.runtime.seeds import derived_seed
from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.chat import ChatTokens
from dip_env.boxes import clip_boxes
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.scenes.base import Scene, SceneSource
from dip_env.scenes.transforms.cached import CachedScenes
from dip_env.views import Crop
from dip_wrappers.controlled import Control
from dip_wrappers.controls import blurred_overview, own_looks

GOLDEN = 0.6180339887498949
"""Multiples of it fall evenly into [0, 1)."""
KEPT_BYTES = 2**25
"""Of scenes kept in a data set: a few, such as six of 1280 x 960 pixels."""
BLUR_RADIUS = 4.0
"""Of the overview in blurred demonstrations, view pixels."""
BLURRED_SCALE = 0.25
"""Scale at which a sharp overview shows as much as a blurred one (source: ours, by eye)."""


@dataclass(frozen=True, eq=False)
class Demonstration:
    """One demonstrated episode.

    Args:
        buffer: its tokens; loss mask 1 on those of the demonstrator.
        boxes: per image of the buffer, the true boxes in pixels of that image, (N, 4).
        in_view: per image, the same people's whole boxes in pixels of the overview, (N, 4).
    """

    buffer: TokenBuffer
    boxes: list[NDArray[np.float64]]
    in_view: list[NDArray[np.float64]]


def play_demonstration(
    scene: Scene,
    index: int,
    config: EpisodeConfig,
    policy: Policy,
    chat: ChatTokens,
    seed: int,
    *,
    control: Control | None = None,
    min_height: float = 0.0,
) -> Demonstration:
    """Play one episode with a policy and return it as tokens.

    Args:
        scene: the scene.
        index: its number in the policy's source.
        config: the rules of the episode.
        policy: the demonstrator.
        chat: the learner's tokens.
        seed: of the demonstrator.
        control: a change of the episode. Looks are then part of the prompt and not learned, since
            the demonstrator chose them by what the learner may not see.
        min_height: people less tall in the overview, in its pixels, do not count as shown by it.

    Returns:
        The demonstration.
    """
    begin = Episode if control is None else control.episode
    episode = begin(scene, config, scene_index=index)
    buffer = TokenBuffer(chat.image_token_id)
    buffer.append_env(*chat.opening(episode.observation().messages))
    truth = clip_boxes(scene.truth, scene.size)
    whole = episode.view.scene_to_view(truth)
    boxes = [whole[whole[:, 3] - whole[:, 1] >= min_height]]
    in_view = boxes.copy()
    while not episode.done:
        completion = policy.act([episode.observation()], [derived_seed(seed, index, len(boxes))])[0]
        turn = episode.step(completion.text)
        # From the transcript, since a control may have changed the looks.
        ids = chat.policy_ids(episode.last_action)
        if control is None or episode.done:
            buffer.append_policy(ids, [0.0] * len(ids))
        else:
            buffer.append_env(ids)
        if turn.message is not None:
            buffer.append_env(*chat.reply(turn.message))
        for crop in turn.crops:
            shown = truth[shown_in(truth, crop)]
            boxes.append(_in_crop(shown, crop))
            in_view.append(episode.view.scene_to_view(shown))
    return Demonstration(buffer, boxes, in_view)


def _in_crop(boxes: NDArray[np.float64], crop: Crop) -> NDArray[np.float64]:
    """Clip boxes (N, 4) of the scene frame to a crop and convert them to its pixels."""
    low, high = np.tile(crop.region[:2], 2), np.tile(crop.region[2:], 2)
    scale = np.array([crop.image.shape[1], crop.image.shape[0]] * 2) / (high - low)
    return (np.clip(boxes, low, high) - low) * scale


@dataclass(frozen=True)
class DemonstrationKind:
    """One kind of demonstration.

    Args:
        rules: of its episodes.
        policy: the demonstrator.
        control: see ``play_demonstration``.
        min_height: see ``play_demonstration``.
    """

    rules: EpisodeConfig
    policy: Policy
    control: Control | None = None
    min_height: float = 0.0


@dataclass(frozen=True)
class DemonstrationShares:
    """What demonstrations are for; from the rest the model learns to look as the demonstrator does.

    Args:
        p_no_look: share of demonstrations without a look: their rules allow none.
        p_given_look: share of demonstrations with a look that is part of the prompt, at what is
            ambiguous.
        p_blurred_overview: share of those with a given look and a blurred overview, so that small
            people are visible in crops only; a model easily learns to ignore crops where the
            overview shows the same. Nothing is given where the rules allow no look before the
            answer.
        magnifications: of given looks, in turns; by default that of the rules.
    """

    p_no_look: float = 0.0
    p_given_look: float = 0.0
    p_blurred_overview: float = 0.0
    magnifications: Sequence[float] = ()


class DemonstrationDataset(Dataset[Demonstration]):
    """A data set of demonstrations, each played when it is accessed.

    Args:
        source: scenes; demonstration i plays scene i.
        count: number of demonstrations.
        config: the rules of the episodes.
        demonstrator: mistakes and looks of the oracle that plays; for blurred demonstrations its
            ``overview_scale`` is replaced.
        chat: the learner's tokens.
        seed: of the demonstrator.
        shares: of the kinds of demonstrations.
    """

    def __init__(
        self,
        source: SceneSource,
        count: int,
        config: EpisodeConfig,
        demonstrator: OracleConfig,
        chat: ChatTokens,
        seed: int = 0,
        shares: DemonstrationShares | None = None,
    ) -> None:
        """Store the parts; scenes are drawn on access."""
        # The demonstrator reads each scene again, right after the episode was started on it.
        self.source: SceneSource = CachedScenes(source, max_bytes=KEPT_BYTES)
        self.count, self.config = min(count, len(source)), config
        self.chat, self.seed = chat, seed
        self.policy = OraclePolicy(self.source, config, demonstrator)
        shares = shares or DemonstrationShares()
        no_look = replace(config, max_looks=0)
        self.rest = [DemonstrationKind(config, self.policy)]
        self.shares = [(shares.p_no_look, [DemonstrationKind(no_look, self.policy)])]
        if config.max_looks > 0 and config.max_turns > 1:
            scales = shares.magnifications or (config.magnification,)
            look = demonstrator.look
            useful = AmbiguousTiles() if isinstance(look, RandomTiles) else look
            given = replace(demonstrator, look=useful)
            blurred = replace(given, overview_scale=BLURRED_SCALE)
            blur, least = blurred_overview(BLUR_RADIUS), given.min_visible_height / BLURRED_SCALE
            self.shares += [
                (shares.p_given_look, self._given(given, scales, own_looks())),
                (shares.p_blurred_overview, self._given(blurred, scales, blur, least)),
            ]

    def _given(
        self,
        demonstrator: OracleConfig,
        scales: Sequence[float],
        control: Control,
        min_height: float = 0.0,
    ) -> list[DemonstrationKind]:
        """Return kinds with a given look, one at each magnification."""
        wanted = [replace(self.config, magnification=scale) for scale in scales]
        return [
            DemonstrationKind(
                rules, OraclePolicy(self.source, rules, demonstrator), control, min_height
            )
            for rules in wanted
        ]

    def __len__(self) -> int:
        """Return the number of demonstrations."""
        return self.count

    def __getitem__(self, index: int) -> Demonstration:
        """Play demonstration ``index``."""
        kind = self._kind(index)
        return play_demonstration(
            self.source[index],
            index,
            kind.rules,
            kind.policy,
            self.chat,
            self.seed,
            control=kind.control,
            min_height=kind.min_height,
        )

    def _kind(self, index: int) -> DemonstrationKind:
        """Choose the kind of a demonstration: spread evenly over them, whatever their order."""
        draw = (index * GOLDEN) % 1
        chosen = self.rest
        for share, kinds in self.shares:
            if draw < share:
                chosen = kinds
                break
            draw -= share
        return chosen[index % len(chosen)]
