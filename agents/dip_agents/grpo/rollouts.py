"""Collect groups of rollouts with an engine and keep every token; independent of the loss."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from dip_agents.engines.base import Chunk, Engine, Sample, Sampling
from dip_agents.grpo.box_stats import BoxStats, box_statistics
from dip_agents.grpo.branches import Branch, GroupPlan
from dip_agents.objectives.turns import next_anchor
from dip_agents.runtime.seeds import derived_seed
from dip_agents.tokens.buffer import TokenBuffer
from dip_agents.tokens.spans import tokens_of_spans
from dip_env.actions import region_spans
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.group import EpisodeGroup
from dip_env.result import Ending
from dip_env.rewards import LookStats, Score, look_floor, look_gains
from dip_env.scenes.base import SceneSource
from dip_wrappers.controls import blank_crops
from dip_wrappers.traces import GroupRecorder, TraceWriter


@dataclass(frozen=True)
class TurnRecord:
    """What is known of one turn in which the policy wrote tokens.

    Args:
        anchor: names everything that was shown before the turn, see ``turn_advantages``.
        looks_left: how often the turn could still look.
        reward: what the turn itself earned, where the environment rewards turns one by one.
        region_tokens: (start, stop) of the tokens that write each region of its looks, counted from
            its first token.
    """

    anchor: str
    looks_left: int
    reward: float | None = None
    region_tokens: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class RolloutStats:
    """What is known of one rollout beside its tokens and rewards.

    Args:
        turns: number of turns.
        regions: number of regions looked at.
        look_area: share of the scene that the regions cover together, in [0, 1].
        boxes: number of boxes of the answer.
        truth_count: number of non-ignored instances of the scene.
        parse_failures: number of turns that were malformed or refused.
        ending: how it ended.
        turn_records: one for each turn in which the policy wrote tokens, in order.
        transcript: role and text of each message.
        box_stats: of answer and looks, where they were measured.
        look_stats: of what its looks covered, where that was measured.
        look_gains: what each region adds to the look term, in order.
        truncated_turns: number of turns that ran into a token limit.
    """

    turns: int
    regions: int
    look_area: float
    boxes: int
    truth_count: int
    parse_failures: int
    ending: Ending
    turn_records: tuple[TurnRecord, ...] = ()
    transcript: tuple[dict[str, str], ...] = ()
    box_stats: BoxStats | None = None
    look_stats: LookStats | None = None
    look_gains: tuple[float, ...] = ()
    truncated_turns: int = 0

    @property
    def answered(self) -> bool:
        """True where the episode ended with an answer."""
        return self.ending == Ending.ANSWER

    @property
    def truncated(self) -> bool:
        """True where the token budget ended the episode."""
        return self.ending == Ending.TOKEN_BUDGET


@dataclass(frozen=True, eq=False)
class Rollout:
    """One episode as the trainer sees it.

    Args:
        buffer: its tokens.
        reward: total reward of the environment.
        terms: every reward term by name, unweighted, in [0, 1].
        stats: what else is known of it.
        branch: where it stands among those that share looks, in a group with such members.
    """

    buffer: TokenBuffer
    reward: float
    terms: dict[str, float]
    stats: RolloutStats
    branch: Branch | None = None


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """G rollouts of one scene.

    Args:
        scene_index: which scene of the source.
        rollouts: its members.
        weights: of every reward term by name; a reward is the weighted sum of its terms.
        environment_seconds: time that the environment took: scene, crops, parsing, rewards,
            tokenising; most of it while the engine decoded other rows.
        local: True where this process collected it; the groups of other processes lack the pixels.
    """

    scene_index: int
    rollouts: list[Rollout]
    weights: dict[str, float] = field(default_factory=dict)
    environment_seconds: float = 0.0
    local: bool = True


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

    Returns:
        P groups of G rollouts, in order.

    Raises:
        ConfigError: for numbers that make no groups, see ``GroupPlan``.
    """
    sampling = sampling or Sampling()
    plan = GroupPlan(group_size, answers_per_look, blank_answers)
    collectors = [
        _GroupCollector(engine, source, index, plan, config, sampling.token_budget, writer, seed)
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
        writer: TraceWriter | None,
        seed: int,
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
        self.recorder = GroupRecorder(writer, self.group, seed) if writer else None
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
            spans = region_spans(action) if turn.segments else []  # none where it was refused
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
    floor = look_floor(episode.config.reward, len(scene.truth))
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
        look_gains=look_gains(score.ambiguous, outcome.looks, scene.size, floor),
        truncated_turns=truncated_turns,
    )
