"""Play groups of episodes with an engine and keep every token; knows no loss and no weights."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dip_agents.engines.base import Chunk, Engine, Sample, Sampling
from dip_agents.grpo.box_stats import box_statistics
from dip_agents.objectives.turn_advantages import next_anchor
from dip_agents.runtime.seeds import derived_seed
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.boxes import union_area
from dip_env.config import EpisodeConfig
from dip_env.group import EpisodeGroup
from dip_env.result import Ending
from dip_env.scenes.base import SceneSource
from dip_wrappers.traces import GroupRecorder, TraceWriter


@dataclass(frozen=True, eq=False)
class Rollout:
    """One episode as the trainer sees it.

    Args:
        buffer: its tokens.
        reward: total reward of the environment.
        terms: every reward term by name, unweighted, in [0, 1].
        info: ``turns regions look_area boxes truth_count parse_failures ending transcript anchors
            looks_left``; ending is a ``dip_env.result.Ending``; anchors name what
            was shown before each turn (see ``turn_credit``), and ``looks_left`` how often each turn
            could still look. ``box_statistics`` adds its numbers. An environment that pays turns
            one by one adds ``turn_rewards``, one number per turn.
        weights: of every term; the reward is the weighted sum.
    """

    buffer: TokenBuffer
    reward: float
    terms: dict[str, float]
    info: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """G rollouts of one scene.

    Args:
        scene_index: which scene of the source.
        rollouts: its members.
        environment_seconds: what the environment's share took: scene, crops, parsing, rewards,
            tokenising; most of it while the engine decoded other rows.
        here: True where this process played it; of other processes' groups the pixels are missing.
    """

    scene_index: int
    rollouts: list[Rollout]
    environment_seconds: float = 0.0
    here: bool = True


def collect_rollouts(
    engine: Engine,
    source: SceneSource,
    scene_indices: Sequence[int],
    group_size: int,
    config: EpisodeConfig,
    *,
    seed: int,
    step: int = 0,
    first_place: int = 0,
    sampling: Sampling | None = None,
    writer: TraceWriter | None = None,
) -> list[RolloutGroup]:
    """Play one group of episodes on each scene and return what was said and paid.

    An observation that does not fit the token budget ends its episode before it is appended.

    Args:
        engine: says what the policy says.
        source: where the scenes come from.
        scene_indices: P scenes.
        group_size: G members each.
        config: the rules of the episodes.
        seed: of the run.
        step: of the trainer; other steps draw other samples.
        first_place: place of the first group in the whole batch, of which these may be a part;
            a group is the same in whatever part it is played.
        sampling: how turns are sampled; by default at temperature 1.
        writer: records every episode with its crops, where given.

    Returns:
        P groups of G rollouts, in order.
    """
    sampling = sampling or Sampling()
    tables = [
        _Table(engine, source, index, group_size, config, sampling.token_budget, writer, seed)
        for index in scene_indices
    ]

    def reply(row: int, sample: Sample) -> Chunk | None:
        at, member = divmod(row, group_size)
        return tables[at].reply(member, sample)

    def turn_seed(row: int, turn: int) -> int:
        # By place in the batch, not by scene: a scene may be played twice.
        place, member = divmod(row, group_size)
        return derived_seed(seed, step, first_place + place, member, turn)

    openings = [table.opening for table in tables]
    engine.play(openings, group_size, reply, sampling, turn_seed)
    return [table.rollouts() for table in tables]


class _Table:
    """One group at play: its episodes and the tokens of each member."""

    def __init__(
        self,
        engine: Engine,
        source: SceneSource,
        scene_index: int,
        group_size: int,
        config: EpisodeConfig,
        token_budget: int,
        writer: TraceWriter | None,
        seed: int,
    ) -> None:
        began = time.perf_counter()
        self.chat = engine.chat
        self.scene_index = scene_index
        self.token_budget = token_budget
        self.group = EpisodeGroup(source[scene_index], config, group_size, scene_index=scene_index)
        self.recorder = GroupRecorder(writer, self.group, seed) if writer else None
        messages = self.group.episodes[0].observation().messages
        prompt = TokenBuffer(self.chat.image_token_id, token_budget)
        prompt.append_env(*self.chat.opening(messages))
        self.opening = Chunk(tuple(prompt.ids), tuple(prompt.images), messages)
        self.buffers = [prompt.copy() for _ in range(group_size)]
        first = next_anchor("", prompt.ids, [image.key for image in prompt.images])
        self.shown = [first] * group_size
        self.anchors: list[list[str]] = [[] for _ in range(group_size)]
        self.looks_left: list[list[int]] = [[] for _ in range(group_size)]
        self.endings: list[Ending | None] = [None] * group_size
        self.seconds = time.perf_counter() - began

    def reply(self, member: int, sample: Sample) -> Chunk | None:
        """Play one turn of one member; None when that ended its episode."""
        began = time.perf_counter()
        try:
            return self._reply(member, sample)
        finally:
            self.seconds += time.perf_counter() - began

    def _reply(self, member: int, sample: Sample) -> Chunk | None:
        buffer, episode = self.buffers[member], self.group.episodes[member]
        buffer.append_policy(sample.ids, sample.logprobs)
        if sample.ids:  # a turn without tokens has nothing to learn
            self.anchors[member].append(self.shown[member])
            self.looks_left[member].append(episode.looks_left)
        action = self.chat.text(sample.ids)
        turn = self.group.step_member(member, action)
        if self.recorder is not None:
            self.recorder.step_member(member, action, turn)
        if episode.done or turn.message is None:
            full = sample.truncated and len(buffer) >= self.token_budget
            unanswered = Ending.TOKEN_BUDGET if full else Ending.MAX_TURNS
            self.endings[member] = Ending.ANSWER if episode.answered else unanswered
            return None
        ids, images = self.chat.reply(turn.message)
        keys = [image.key for image in images]
        self.shown[member] = next_anchor(self.shown[member], ids, keys)
        if buffer.ids[-1] != self.chat.eos_token_id:
            # A turn cut at its limit is closed for the model; the token is not its own.
            ids = [self.chat.eos_token_id, *ids]
        # One more token must fit, or there is nothing left to say.
        if len(buffer) + len(ids) >= self.token_budget:
            self.endings[member] = Ending.TOKEN_BUDGET
            self.group.abandon(member)
            if self.recorder is not None:
                self.recorder.finish()
            return None
        buffer.append_env(ids, images)
        return Chunk(tuple(ids), tuple(images), (turn.message,))

    def rollouts(self) -> RolloutGroup:
        """Return what was played, after the end."""
        rollouts = [
            _rollout(
                self.group,
                member,
                self.buffers[member],
                self.endings[member],
                {"anchors": self.anchors[member], "looks_left": self.looks_left[member]},
            )
            for member in range(len(self.buffers))
        ]
        return RolloutGroup(self.scene_index, rollouts, self.seconds)


def _rollout(
    group: EpisodeGroup,
    member: int,
    buffer: TokenBuffer,
    ending: Ending | None,
    of_turns: dict[str, list[Any]],
) -> Rollout:
    episode, terms = group.episodes[member], group.terms[member]
    outcome, scene = episode.outcome, episode.scene
    transcript = [{"role": m.role, "text": m.text} for m in episode.transcript]
    info = {
        "turns": len(outcome.segments_per_turn),
        "regions": len(outcome.looks),
        "look_area": union_area(outcome.looks) / (scene.size[0] * scene.size[1]),
        "boxes": len(outcome.answer),
        "truth_count": len(scene.truth),
        "parse_failures": sum(segments is None for segments in outcome.segments_per_turn),
        "ending": ending,
        "transcript": transcript,
        **of_turns,
        **box_statistics(outcome.answer, outcome.looks, scene.truth, scene.size),
    }
    weights = episode.config.reward.weights
    named = {name: float(getattr(terms, name)) for name in weights}
    return Rollout(buffer, float(terms.total(weights)), named, info, weights)
