from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dip_agents.engines.base import Sample, Sampling
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.objectives.turns import turn_segments
from dip_env.group import EpisodeGroup
from dip_env.result import Ending
from dip_env.scenes import ToyScenes
from dip_wrappers.traces import TraceWriter, load_traces


def play(vlm, toy, rules, **changes):
    sampling = Sampling(changes.pop("temperature", 1.0), 24, changes.pop("token_budget", 260))
    return collect_rollouts(
        HFEngine(vlm), toy, [0, 1], 3, rules, **({"seed": 0, "sampling": sampling} | changes)
    )


def test_buffers_hold_the_generated_text_and_the_rewards_of_the_environment(
    micro, toy, minimal_prompt_rules
):
    vlm = micro("qwen3_vl")
    for group in play(vlm, toy, minimal_prompt_rules):
        replay = EpisodeGroup(toy[group.scene_index], minimal_prompt_rules, 3)
        said = []
        for rollout in group.rollouts:
            buffer = rollout.buffer
            assert buffer.ids.count(vlm.image_token_id) == sum(i.tokens for i in buffer.images)
            turns = [m["text"] for m in rollout.stats.transcript if m["role"] == "assistant"]
            spoken = vlm.chat.text(
                [i for i, m in zip(buffer.ids, buffer.loss_mask, strict=True) if m]
            )
            assert spoken == "".join(turns)
            said.append(turns)
        while not replay.done:
            turns = replay.step([texts.pop(0) if texts else None for texts in said])
        assert [r.reward for r in group.rollouts] == [turn.reward for turn in turns]


@pytest.mark.grpo_property(8)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@torch.no_grad()
def test_sampler_and_trainer_agree_on_the_distribution(
    micro, toy, minimal_prompt_rules, temperature
):
    vlm = micro("qwen3_vl")
    groups = play(vlm, toy, minimal_prompt_rules, temperature=temperature)
    buffers = [rollout.buffer for group in groups for rollout in group.rollouts]
    out = vlm.token_logprobs(buffers, temperature)
    for row, buffer in enumerate(buffers):
        for t, sampled in enumerate(buffer.loss_mask):
            if sampled:
                assert buffer.logprobs[t] == pytest.approx(float(out.logprobs[row, t]), abs=1e-4)


@pytest.mark.grpo_property(11)
def test_the_same_seed_and_step_say_the_same_and_members_differ(micro, toy, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    first, again = play(vlm, toy, minimal_prompt_rules), play(vlm, toy, minimal_prompt_rules)
    other = play(vlm, toy, minimal_prompt_rules, step=1)
    ids = [[r.buffer.ids for g in groups for r in g.rollouts] for groups in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert first[0].rollouts[0].buffer.ids != first[0].rollouts[1].buffer.ids


def test_an_observation_without_room_ends_the_episode_before_it_is_appended(
    micro, toy, minimal_prompt_rules
):
    vlm = micro("qwen3_vl")
    prompt = len(play(vlm, toy, minimal_prompt_rules)[0].rollouts[0].buffer.ids)
    tight = play(vlm, toy, minimal_prompt_rules, token_budget=60)
    assert prompt > 60
    for rollout in (r for g in tight for r in g.rollouts):
        assert rollout.stats.ending == "token_budget"
        assert len(rollout.buffer) <= 60
        assert rollout.buffer.loss_mask[-1] == 1  # the last token in it is the policy's
        assert rollout.stats.turns == 1


def tagged(name, numbers):
    boxes = st.lists(st.lists(numbers, min_size=4, max_size=4), min_size=1, max_size=2)
    return boxes.map(lambda found: f"<{name}>{found}</{name}>".replace(" ", ""))


ANYWHERE = st.integers(-20, 160)
REGIONS = st.integers(0, 95).map(lambda x: f"[{x},{x % 7},{x + 20},60]")
LOOKS = st.lists(REGIONS, min_size=1, max_size=2).map(lambda r: f"<look>[{','.join(r)}]</look>")
SEGMENTS = st.one_of(
    LOOKS,
    tagged("look", ANYWHERE),
    tagged("answer", ANYWHERE),
    st.text(max_size=6).map(lambda text: f"<think>{text}</think>"),
    st.sampled_from(["", "<answer>[[1,2", "<|image_pad|>", "\ud83d", "<look>[]</look>"]),
)
TURNS = st.one_of(
    LOOKS, LOOKS, LOOKS, tagged("answer", ANYWHERE), st.lists(SEGMENTS, max_size=3).map("".join)
)


@pytest.mark.grpo_property(7)
def test_whatever_is_generated_and_however_little_room_there_is_every_image_is_whole(
    micro, minimal_prompt_rules, speaker
):
    chat, scenes, seen = micro("qwen3_vl").chat, ToyScenes(), Counter()
    first = [EpisodeGroup(scenes[i], minimal_prompt_rules).episodes[0].opening for i in (0, 1)]
    longest = max(len(chat.opening([message])[0]) for message in first)

    two_crops = ["<look>[[0,0,20,60],[60,4,80,60]]</look>"]

    @settings(max_examples=150)
    @example(lines=[two_crops] * 4, room=300, max_new_tokens=90, max_looks=2, max_turns=4)
    @given(
        lines=st.lists(st.lists(TURNS, min_size=1, max_size=4), min_size=4, max_size=4),
        room=st.integers(0, 300),
        max_new_tokens=st.one_of(st.integers(30, 90), st.integers(1, 90)),
        max_looks=st.sampled_from([2, 3, 1, 0]),
        max_turns=st.sampled_from([4, 3, 2, 1]),
    )
    def holds(lines, room, max_new_tokens, max_looks, max_turns):
        rules = replace(minimal_prompt_rules, max_looks=max_looks, max_turns=max_turns)
        engine, budget = speaker(chat, lines), longest + room
        sampling = Sampling(1.0, max_new_tokens, budget)
        groups = collect_rollouts(engine, scenes, [0, 1], 2, rules, seed=0, sampling=sampling)
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        for rollout, fed in zip(rollouts, engine.fed, strict=True):
            buffer, stats = rollout.buffer, rollout.stats
            assert buffer.ids == fed
            assert len(buffer) == len(buffer.loss_mask) == len(buffer.logprobs) <= budget
            visual = np.array(buffer.ids) == buffer.image_token_id
            assert not (visual & np.array(buffer.loss_mask, bool)).any()
            # Each image has a run of placeholders of its own, as long as its features.
            edges = np.flatnonzero(np.diff(visual.astype(int), prepend=0, append=0))
            runs = np.diff(edges.reshape(-1, 2))[:, 0].tolist()
            assert runs == [image.tokens for image in buffer.images]
            for image in buffer.images:
                patches = image.grid[0] * image.grid[1] * image.grid[2]
                assert image.tokens * chat.merge**2 == patches == len(chat.patches([image]))
            assert stats.ending in set(Ending)
            if stats.ending == "max_turns":
                assert stats.turns == max_turns
            if stats.ending != "answer":
                assert rollout.terms["accuracy"] == 0.0
            assert len(buffer.images) <= 1 + max_looks * rules.max_regions
            seen[stats.ending] += 1
            seen["looked"] += len(buffer.images) > 1
            seen["saw three crops"] += len(buffer.images) > 3
            seen["no room left"] += len(buffer) == budget

    holds()
    wanted = (*Ending, "looked", "saw three crops", "no room left")
    assert all(seen[how] for how in wanted), seen


@pytest.mark.grpo_property(7)
def test_there_is_room_for_a_token_after_every_observation_at_every_budget(
    micro, toy, minimal_prompt_rules, speaker
):
    chat, endings = micro("qwen3_vl").chat, set()
    opening = len(chat.opening([EpisodeGroup(toy[0], minimal_prompt_rules).episodes[0].opening])[0])
    for budget in range(opening, opening + 140):
        engine = speaker(chat, [["<look>[[5,5,60,60]]</look>", "<answer>[]</answer>"]])
        sampling = Sampling(1.0, 40, budget)
        [group] = collect_rollouts(
            engine, toy, [0], 1, minimal_prompt_rules, seed=0, sampling=sampling
        )
        [rollout] = group.rollouts
        endings.add((len(rollout.buffer.images), rollout.stats.ending))
        assert rollout.buffer.ids == engine.fed[0]
        assert len(rollout.buffer) <= budget
    # Cut before the crop, after it, and not at all.
    assert endings == {(1, "token_budget"), (2, "token_budget"), (2, "answer")}


def test_traces_are_written_with_the_rollouts(micro, toy, minimal_prompt_rules, tmp_path):
    with TraceWriter(tmp_path, source="toy") as writer:
        groups = play(micro("qwen3_vl"), toy, minimal_prompt_rules, writer=writer)
    traces = load_traces(tmp_path)
    assert len(traces) == 6
    assert all(trace.ended for trace in traces)
    assert sorted(t.reward for t in traces) == sorted(r.reward for g in groups for r in g.rollouts)


def test_anchors_name_what_each_turn_was_shown(micro, toy, minimal_prompt_rules):
    groups = play(micro("qwen3_vl"), toy, minimal_prompt_rules)
    for group in groups:
        anchors = [
            [turn.anchor for turn in rollout.stats.turn_records] for rollout in group.rollouts
        ]
        assert len({row[0] for row in anchors}) == 1  # all see the same overview first
        for rollout, row in zip(group.rollouts, anchors, strict=True):
            assert len(row) == len(turn_segments(rollout.buffer.loss_mask)) == rollout.stats.turns
            assert len(set(row)) == len(row)
        # Random tokens are no look: who failed in the same way reads the same message.
        env = {}
        for rollout, row in zip(group.rollouts, anchors, strict=True):
            said = [m["text"] for m in rollout.stats.transcript if m["role"] == "user"]
            for turn, anchor in enumerate(row):
                assert env.setdefault(anchor, said[: turn + 1]) == said[: turn + 1]
    assert (
        groups[0].rollouts[0].stats.turn_records[0].anchor
        != groups[1].rollouts[0].stats.turn_records[0].anchor
    )


def test_the_reward_is_the_weighted_sum_of_the_terms(micro, toy, minimal_prompt_rules):
    for group in play(micro("qwen3_vl"), toy, minimal_prompt_rules):
        for rollout in group.rollouts:
            assert group.weights == minimal_prompt_rules.reward.weights
            total = sum(group.weights[name] * value for name, value in rollout.terms.items())
            assert rollout.reward == pytest.approx(total)


def test_an_answer_cut_by_the_budget_in_the_last_turn_counts_as_cut(
    micro, toy, minimal_prompt_rules
):
    vlm = micro("qwen3_vl")
    rules = replace(minimal_prompt_rules, max_turns=1)
    prompt = play(vlm, toy, rules)[0].rollouts[0].buffer.loss_mask.index(1)
    sampling = Sampling(1.0, 64, prompt + 20)  # the turn may be longer than what is left
    groups = collect_rollouts(HFEngine(vlm), toy, [0], 4, rules, seed=0, sampling=sampling)
    assert [len(r.buffer) for r in groups[0].rollouts] == [prompt + 20] * 4
    assert {r.stats.ending for r in groups[0].rollouts} == {"token_budget"}
    roomy = collect_rollouts(
        HFEngine(vlm), toy, [0], 4, rules, seed=0, sampling=Sampling(1.0, 20, prompt + 64)
    )
    assert {r.stats.ending for r in roomy[0].rollouts} == {"max_turns"}


class Says:
    """An engine whose rows say given texts, one a turn."""

    def __init__(self, vlm, texts):
        self.chat, self.texts = vlm.chat, texts

    def play(self, openings, group_size, reply, sampling, turn_seed):
        for row, turns in enumerate(self.texts):
            for text in turns:
                ids = self.chat.tokenizer(text, add_special_tokens=False)["input_ids"]
                reply(row, Sample(tuple(ids), (0.0,) * len(ids), truncated=False))


def test_each_turn_knows_how_often_it_could_look(micro, toy, minimal_prompt_rules):
    look, answer = "<think>a</think><look>[[0,0,30,30]]</look>", "<answer>[]</answer>"
    engine = Says(micro("qwen3_vl"), [[look, answer], [answer], ["neither", answer]])
    (group,) = collect_rollouts(
        engine, toy, [0], 3, replace(minimal_prompt_rules, max_looks=1), seed=0
    )
    assert [[t.looks_left for t in r.stats.turn_records] for r in group.rollouts] == [
        [1, 0],
        [1],
        [1, 1],
    ]
    assert [r.stats.regions for r in group.rollouts] == [1, 0, 0]


def test_each_turn_knows_the_tokens_of_its_regions_and_each_rollout_what_they_add(
    micro, toy, minimal_prompt_rules
):
    two = "<think>a</think><look>[[0,0,30,30],[40,0,70,30]]</look>"
    refused = "<look>[[0,0,30,30],[900,900,990,990]]</look>"
    answer = "<answer>[]</answer>"
    engine = Says(micro("qwen3_vl"), [[two, answer], [answer], [refused, answer]])
    (plain,) = collect_rollouts(engine, toy, [0], 3, minimal_prompt_rules, seed=0)
    assert not any(rollout.stats.look_gains for rollout in plain.rollouts)
    assert not any(t.region_tokens for r in plain.rollouts for t in r.stats.turn_records)
    (group,) = collect_rollouts(
        engine, toy, [0], 3, minimal_prompt_rules, seed=0, measure_regions=True
    )
    written = [
        [
            engine.chat.text(rollout.buffer.ids[begin + start : begin + stop])
            for (begin, _), turn in zip(
                turn_segments(rollout.buffer.loss_mask), rollout.stats.turn_records, strict=True
            )
            for start, stop in turn.region_tokens
        ]
        for rollout in group.rollouts
    ]
    assert written == [["[[0,0,30,30", "],[40,0,70,30]]"], [], []]
    for rollout in group.rollouts:
        assert len(rollout.stats.look_gains) == rollout.stats.regions
        assert sum(rollout.stats.look_gains) == pytest.approx(rollout.terms["look"])


def test_turns_that_run_into_a_token_limit_are_counted(micro, minimal_prompt_rules, speaker, toy):
    chat, answer = micro().chat, "<answer>[]</answer>"
    engine = speaker(chat, [["<think>" + "1 " * 40, answer], [answer]])
    sampling = Sampling(1.0, len(chat.policy_ids(answer)), 2000)
    rules = replace(minimal_prompt_rules, max_turns=3)
    (group,) = collect_rollouts(engine, toy, [0], 2, rules, seed=0, sampling=sampling)
    assert [rollout.stats.truncated_turns for rollout in group.rollouts] == [1, 0]
    assert [rollout.stats.turns for rollout in group.rollouts] == [2, 1]
