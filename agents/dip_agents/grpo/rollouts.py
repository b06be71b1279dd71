"""Collect groups of rollouts with an engine and keep every token; independent of the loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from dip_agents.engines.base import Chunk, Engine, Sample, Sampling
from dip_agents.grpo.box_stats import box_statistics
from dip_agents.grpo.branches import Branch, GroupPlan
from dip_agents.grpo.records import Rollout, RolloutGroup, RolloutStats, TurnRecord
from dip_agents.objectives.turns import next_anchor
from dip_agents.runtime.seeds import derived_seed
from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.spans import tokens_of_spans
from dip_env.actions import region_spans
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.group import EpisodeGroup
from dip_env.result import Ending
from dip_env.rewards import Score, look_floor, look_gains
from dip_env.scenes.base import SceneSource
from dip_wrappers.controls import blank_crops
from dip_wrappers.traces import GroupRecorder, TraceWriter


def collect_rollouts(
    engine: Engine,
    source: SceneSource,
    scene_indices: Sequence[int],
    group_size: int,
    config: EpisodeConfig,
    *,
    seed: int,
    step: int = 0,
    first_index: int = 0,
    sampling: Sampling | None = None,
    writer: TraceWriter | None = None,
    answers_per_look: int = 1,
    blank_answers: int = 0,
    measure_regions: bool = False,
) -> list[RolloutGroup]:
    """Collect one group of rollouts on each scene.

    An observation that does not fit the token budget ends its episode before it is appended.

    With several answers per look the engine plays twice: first each branch once, to the end of the
    turn in which it looks, then every member from its fork on, with all tokens and images so far as
    its opening. The environment takes the shared turns for every member, so that each has an
    episode, tokens and a trace of its own. A branch that ends without a fork, because it never
    looked or had no room for its crops, is one sample, and its members are copies of it.

    Args:
        engine: samples the turns of the policy.
        source: where the scenes come from.
        scene_indices: P scenes.
        group_size: G members each.
        config: the rules of the episodes.
        seed: of the run.
        step: of the trainer; other steps draw other samples.
        first_index: index of the first group in the whole batch, of which these may be a part;
            a group is the same in whatever part it is collected.
        sampling: how turns are sampled; by default at temperature 1.
        writer: records every episode with its crops, where given.
        answers_per_look: K, members that share a look, see ``GroupPlan``.
        blank_answers: C of the K that see blank crops, as under the control ``blank_crops``.
        measure_regions: also find the tokens and the gain of each region of a look, which the look
            credit ``regions`` reads.

    Returns:
        P groups of G rollouts, in order.

    Raises:
        ConfigError: for numbers that make no groups, see ``GroupPlan``.
    """
    sampling = sampling or Sampling()
    plan = GroupPlan(group_size, answers_per_look, blank_answers)
    record = None if writer is None else partial(GroupRecorder, writer, seed=seed)
    budget = sampling.token_budget
    collectors = [
        _GroupCollector(engine, source, index, plan, config, budget, record, measure_regions)
        for index in scene_indices
    ]

    def reply(row: int, sample: Sample) -> Chunk | None:
        index, look = divmod(row, plan.looks)
        return collectors[index].reply_to_fork(look, sample)

    def turn_seed(row: int, turn: int) -> int:
        # By index in the batch, not by scene: a batch may hold a scene twice.
        index, look = divmod(row, plan.looks)
        return derived_seed(seed, step, first_index + index, plan.members(look)[0], turn)

    openings = [collector.opening for collector in collectors]
    engine.play(openings, plan.looks, reply, sampling, turn_seed)

    forked = [
        (index, member) for index, one in enumerate(collectors) for member in sorted(one.forks)
    ]

    def reply_after_fork(row: int, sample: Sample) -> Chunk | None:
        index, member = forked[row]
        return collectors[index].reply(member, sample)

    def seed_after_fork(row: int, turn: int) -> int:
        index, member = forked[row]
        taken = collectors[index].forks[member].turn
        return derived_seed(seed, step, first_index + index, member, taken + turn)

    if forked:
        prefixes = [collectors[index].prefix(member) for index, member in forked[:: plan.repeats]]
        engine.play(prefixes, plan.repeats, reply_after_fork, sampling, seed_after_fork)
    return [collector.rollouts() for collector in collectors]


@dataclass(frozen=True)
class _Fork:
    """What a member had when its branch parted.

    Args:
        turn: turns taken.
        records: those of them with policy tokens.
        tokens: of its buffer.
    """

    turn: int
    records: int
    tokens: int


class _GroupCollector:
    """One group while it is collected: its episodes and the tokens of each member."""

    def __init__(
        self,
        engine: Engine,
        source: SceneSource,
        scene_index: int,
        plan: GroupPlan,
        config: EpisodeConfig,
        token_budget: int,
        record: Callable[[EpisodeGroup], GroupRecorder] | None,
        measure_regions: bool,
    ) -> None:
        began = time.perf_counter()
        self.chat = engine.chat
        self.scene_index = scene_index
        self.token_budget = token_budget
        self.plan, size = plan, plan.group_size
        blank = blank_crops().episode
        self.group = EpisodeGroup(
            source[scene_index],
            config,
            size,
            scene_index=scene_index,
            new_episode=[blank if plan.is_blank(member) else Episode for member in range(size)],
            siblings=plan.siblings(),
        )
        self.recorder = record(self.group) if record is not None else None
        self.measure_regions = measure_regions
        messages = self.group.episodes[0].observation().messages
        prompt = TokenBuffer(self.chat.image_token_id, token_budget)
        prompt.append_env(*self.chat.opening(messages))
        self.opening = Chunk(tuple(prompt.ids), tuple(prompt.images), messages)
        self.buffers = [prompt.copy() for _ in range(size)]
        first = next_anchor("", prompt.ids, [image.key for image in prompt.images])
        self.shown = [first] * size
        self.turns: list[list[TurnRecord]] = [[] for _ in range(size)]
        self.endings: list[Ending | None] = [None] * size
        self.truncated = [0] * size
        self.forks: dict[int, _Fork] = {}
        """Of the members that parted after a look."""
        self.seconds = time.perf_counter() - began

    def reply_to_fork(self, look: int, sample: Sample) -> Chunk | None:
        """Play one turn of all members of a branch; None when they ended, or part after a look."""
        members = self.plan.members(look)
        chunks = [self.reply(member, sample) for member in members]
        if not self.plan.branched or chunks[0] is None:
            return chunks[0]
        if not len(self.group.episodes[members[0]].looks):
            return chunks[0]
        for member in members:
            taken = self.group.episodes[member].turn
            records, tokens = len(self.turns[member]), len(self.buffers[member])
            self.forks[member] = _Fork(taken, records, tokens)
        return None

    def prefix(self, member: int) -> Chunk:
        """Return everything a member has so far, as the opening of what follows."""
        buffer = self.buffers[member]
        messages = self.group.episodes[member].observation().messages
        return Chunk(tuple(buffer.ids), tuple(buffer.images), messages)

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
        self.truncated[member] += sample.truncated
        action, looks_left = self.chat.text(sample.ids), episode.looks_left
        turn = self.group.step_member(member, action)
        if sample.ids:  # a turn without tokens has nothing to learn
            # None where the action was refused.
            spans = region_spans(action) if self.measure_regions and turn.segments else []
            regions = tokens_of_spans(self.chat.text, sample.ids, spans)
            record = TurnRecord(self.shown[member], looks_left, region_tokens=regions)
            self.turns[member].append(record)
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
            # A truncated turn is closed for the model; the token is not one that it sampled.
            ids = [self.chat.eos_token_id, *ids]
        # One more token must fit, or the policy could not write anything.
        if len(buffer) + len(ids) >= self.token_budget:
            self.endings[member] = Ending.TOKEN_BUDGET
            self.group.abandon(member)
            if self.recorder is not None:
                self.recorder.finish()
            return None
        buffer.append_env(ids, images)
        return Chunk(tuple(ids), tuple(images), (turn.message,))

    def rollouts(self) -> RolloutGroup:
        """Return the group, after the end of all its episodes."""
        rollouts = [self._rollout(member) for member in range(len(self.buffers))]
        weights = self.group.episodes[0].config.reward.weights
        return RolloutGroup(self.scene_index, rollouts, weights, self.seconds)

    def _rollout(self, member: int) -> Rollout:
        episode, score = self.group.episodes[member], self.group.scores[member]
        terms = score.terms
        ending = self.endings[member]
        assert ending is not None
        weights = episode.config.reward.weights
        stats = rollout_stats(episode, ending, self.turns[member], score, self.truncated[member])
        if self.measure_regions:
            stats = replace(stats, look_gains=_look_gains(episode, score))
        reward, branch = float(terms.total(weights)), self._branch(member)
        return Rollout(self.buffers[member], reward, terms.as_dict(), stats, branch)

    def _branch(self, member: int) -> Branch | None:
        """Return where a member stands among those that share looks, if any do."""
        if not self.plan.branched:
            return None
        fork = self.forks.get(member)
        look, answer = divmod(member, self.plan.answers_per_look)
        return Branch(
            look,
            answer,
            turns=len(self.turns[member]) if fork is None else fork.records,
            tokens=len(self.buffers[member]) if fork is None else fork.tokens,
            looked=fork is not None,
            blank=self.plan.is_blank(member),
        )


def rollout_stats(
    episode: Episode,
    ending: Ending,
    turn_records: Sequence[TurnRecord],
    score: Score,
    truncated_turns: int = 0,
) -> RolloutStats:
    """Describe an episode that has ended.

    Args:
        episode: the episode.
        ending: how it ended.
        turn_records: one for each turn in which the policy wrote tokens.
        score: of the episode.
        truncated_turns: turns that ran into a token limit.

    Returns:
        All that is known of it beside its tokens and rewards.
    """
    outcome, scene = episode.outcome, episode.scene
    return RolloutStats(
        turns=len(outcome.segments_per_turn),
        regions=len(outcome.looks),
        look_area=score.looks.area,
        boxes=len(outcome.answer),
        truth_count=len(scene.truth),
        parse_failures=sum(segments is None for segments in outcome.segments_per_turn),
        ending=ending,
        turn_records=tuple(turn_records),
        transcript=tuple({"role": m.role, "text": m.text} for m in episode.transcript),
        box_stats=box_statistics(outcome.answer, outcome.looks, scene.truth, scene.size),
        look_stats=score.looks,
        truncated_turns=truncated_turns,
    )


def _look_gains(episode: Episode, score: Score) -> tuple[float, ...]:
    """Return what each region of an episode's looks adds to its look term."""
    scene = episode.scene
    floor = look_floor(episode.config.reward, len(scene.truth))
    return look_gains(score.ambiguous, episode.looks, scene.size, floor)
