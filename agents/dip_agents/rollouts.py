"""Play groups of episodes with a model and keep every token; knows no loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dip_agents.engines.hf import Session
from dip_agents.seeds import derived_seed
from dip_agents.token_buffer import TokenBuffer
from dip_agents.vlm import VLM
from dip_env.boxes import union_area
from dip_env.config import EpisodeConfig
from dip_env.group import EpisodeGroup
from dip_env.scenes.base import SceneSource
from dip_wrappers.traces import GroupRecorder, TraceWriter


@dataclass(frozen=True, eq=False)
class Rollout:
    """One episode as the trainer sees it.

    Args:
        buffer: its tokens.
        reward: total reward of the environment.
        terms: every reward term by name, unweighted, in [0, 1].
        info: ``turns looks look_area boxes truth_count parse_failures ending transcript``;
            ending is ``answer``, ``max_turns`` or ``token_budget``.
    """

    buffer: TokenBuffer
    reward: float
    terms: dict[str, float]
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """G rollouts of one scene.

    Args:
        scene_index: which scene of the source.
        rollouts: its members.
    """

    scene_index: int
    rollouts: list[Rollout]


def collect(
    vlm: VLM,
    source: SceneSource,
    scene_indices: Sequence[int],
    group_size: int,
    config: EpisodeConfig,
    *,
    seed: int,
    step: int = 0,
    temperature: float = 1.0,
    max_new_tokens: int = 256,
    token_budget: int = 2048,
    writer: TraceWriter | None = None,
) -> list[RolloutGroup]:
    """Play one group of episodes on each scene and return what was said and paid.

    Every group is prefilled once and its members decode together. An observation that does not
    fit the token budget ends its episode before it is appended.

    Args:
        vlm: the policy; in eval mode, weights fixed meanwhile.
        source: where the scenes come from.
        scene_indices: P scenes.
        group_size: G members each.
        config: the rules of the episodes.
        seed: of the run.
        step: of the trainer; other steps draw other samples.
        temperature: above 0 samples, 0 is greedy.
        max_new_tokens: tokens of one turn.
        token_budget: tokens of one episode, prompt included.
        writer: records every episode with its crops, where given.

    Returns:
        P groups of G rollouts, in order.
    """
    groups = [
        EpisodeGroup(source[index], config, group_size, scene_index=index)
        for index in scene_indices
    ]
    prompts = []
    for group in groups:
        prompt = TokenBuffer(vlm.image_token_id, token_budget)
        prompt.append_env(*vlm.chat.opening(group.episodes[0].observation().messages))
        prompts.append(prompt)
    recorders = [GroupRecorder(writer, group, seed) for group in groups] if writer else []
    session = Session(vlm, prompts, group_size, token_budget)
    buffers = [prompt.copy() for prompt in prompts for _ in range(group_size)]
    endings: dict[int, str] = {}
    turn = 0
    while len(endings) < len(buffers):
        rows = [row for row in range(len(buffers)) if row not in endings]
        # By place in the batch, not by scene: a scene may be played twice.
        seeds = [
            derived_seed(seed, step, row // group_size, row % group_size, turn) for row in rows
        ]
        samples = session.sample(rows, seeds, temperature, max_new_tokens)
        texts: dict[int, str] = {}
        for row, sample in zip(rows, samples, strict=True):
            buffers[row].append_policy(sample.ids, sample.logprobs)
            texts[row] = vlm.chat.text(sample.ids)
        chunks = {}
        for at, group in enumerate(groups):
            members = range(at * group_size, (at + 1) * group_size)
            if group.done:
                continue
            actions = [texts.get(row) for row in members]
            turns = group.step(actions)
            if recorders:
                recorders[at].step(actions, turns)
            for row, result in zip(members, turns, strict=True):
                if row not in texts:
                    continue
                episode = group.episodes[row - members.start]
                if episode.done or result.message is None:
                    endings[row] = "answer" if episode.answered else "max_turns"
                    continue
                ids, images = vlm.chat.reply(result.message)
                if buffers[row].ids[-1] != vlm.chat.eos_token_id:
                    # A turn cut at its limit is closed for the model; the token is not its own.
                    ids = [vlm.chat.eos_token_id, *ids]
                # One more token must fit, or there is nothing left to say.
                if len(buffers[row]) + len(ids) >= token_budget:
                    endings[row] = "token_budget"
                    group.abandon(row - members.start)
                    continue
                buffers[row].append_env(ids, images)
                chunks[row] = (ids, images)
        if chunks:
            session.append(list(chunks), list(chunks.values()))
        turn += 1
    for recorder in recorders:
        recorder.finish()
    return [
        RolloutGroup(
            index,
            [
                _rollout(group, g, buffers[at * group_size + g], endings[at * group_size + g])
                for g in range(group_size)
            ],
        )
        for at, (index, group) in enumerate(zip(scene_indices, groups, strict=True))
    ]


def _rollout(group: EpisodeGroup, member: int, buffer: TokenBuffer, ending: str) -> Rollout:
    episode, terms = group.episodes[member], group.terms[member]
    outcome, scene = episode.outcome, episode.scene
    transcript = [{"role": m.role, "text": m.text} for m in episode.transcript]
    info = {
        "turns": len(outcome.segments_per_turn),
        "looks": len(outcome.looks),
        "look_area": union_area(outcome.looks) / (scene.size[0] * scene.size[1]),
        "boxes": len(outcome.answer),
        "truth_count": len(scene.truth),
        "parse_failures": sum(segments is None for segments in outcome.segments_per_turn),
        "ending": ending,
        "transcript": transcript,
    }
    weights = episode.config.reward.weights
    named = {name: float(getattr(terms, name)) for name in weights}
    return Rollout(buffer, float(terms.total(weights)), named, info)
