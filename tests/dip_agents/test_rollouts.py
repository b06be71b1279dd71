import pytest
import torch

from dip_agents.engines.base import Sampling
from dip_agents.engines.hf import HFEngine
from dip_agents.rollouts import collect
from dip_agents.turn_credit import turn_segments
from dip_env.group import EpisodeGroup
from dip_wrappers.traces import TraceWriter, load_traces


def play(vlm, toy, rules, **changes):
    sampling = Sampling(1.0, 24, changes.pop("token_budget", 260))
    return collect(
        HFEngine(vlm), toy, [0, 1], 3, rules, **({"seed": 0, "sampling": sampling} | changes)
    )


def test_buffers_hold_what_was_said_and_the_rewards_of_the_environment(micro, toy, brief_rules):
    vlm = micro("qwen3_vl")
    for group in play(vlm, toy, brief_rules):
        replay = EpisodeGroup(toy[group.scene_index], brief_rules, 3)
        said = []
        for rollout in group.rollouts:
            buffer = rollout.buffer
            assert buffer.ids.count(vlm.image_token_id) == sum(i.tokens for i in buffer.images)
            turns = [m["text"] for m in rollout.info["transcript"] if m["role"] == "assistant"]
            spoken = vlm.chat.text(
                [i for i, m in zip(buffer.ids, buffer.loss_mask, strict=True) if m]
            )
            assert spoken == "".join(turns)
            said.append(turns)
        while not replay.done:
            turns = replay.step([texts.pop(0) if texts else None for texts in said])
        assert [r.reward for r in group.rollouts] == [turn.reward for turn in turns]


@torch.no_grad()
def test_sampler_and_trainer_speak_of_the_same_distribution(micro, toy, brief_rules):
    vlm = micro("qwen3_vl")
    buffers = [r.buffer for g in play(vlm, toy, brief_rules) for r in g.rollouts]
    out = vlm.token_logprobs(buffers)
    for row, buffer in enumerate(buffers):
        for t, sampled in enumerate(buffer.loss_mask):
            if sampled:
                assert buffer.logprobs[t] == pytest.approx(float(out.logprobs[row, t]), abs=1e-4)


def test_the_same_seed_and_step_say_the_same_and_members_differ(micro, toy, brief_rules):
    vlm = micro("qwen3_vl")
    first, again = play(vlm, toy, brief_rules), play(vlm, toy, brief_rules)
    other = play(vlm, toy, brief_rules, step=1)
    ids = [[r.buffer.ids for g in groups for r in g.rollouts] for groups in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]
    assert first[0].rollouts[0].buffer.ids != first[0].rollouts[1].buffer.ids


def test_an_observation_without_room_ends_the_episode_before_it_is_appended(
    micro, toy, brief_rules
):
    vlm = micro("qwen3_vl")
    prompt = len(play(vlm, toy, brief_rules)[0].rollouts[0].buffer.ids)
    tight = play(vlm, toy, brief_rules, token_budget=60)
    assert prompt > 60
    for rollout in (r for g in tight for r in g.rollouts):
        assert rollout.info["ending"] == "token_budget"
        assert len(rollout.buffer) <= 60
        assert rollout.buffer.loss_mask[-1] == 1  # the last thing in it was said by the policy
        assert rollout.info["turns"] == 1


def test_traces_are_written_with_the_rollouts(micro, toy, brief_rules, tmp_path):
    with TraceWriter(tmp_path, source="toy") as writer:
        groups = play(micro("qwen3_vl"), toy, brief_rules, writer=writer)
    traces = load_traces(tmp_path)
    assert len(traces) == 6
    assert all(trace.ended for trace in traces)
    assert sorted(t.reward for t in traces) == sorted(r.reward for g in groups for r in g.rollouts)


def test_anchors_name_what_each_turn_was_shown(micro, toy, brief_rules):
    groups = play(micro("qwen3_vl"), toy, brief_rules)
    for group in groups:
        anchors = [rollout.info["anchors"] for rollout in group.rollouts]
        assert len({row[0] for row in anchors}) == 1  # all see the same overview first
        for rollout, row in zip(group.rollouts, anchors, strict=True):
            assert len(row) == len(turn_segments(rollout.buffer.loss_mask)) == rollout.info["turns"]
            assert len(set(row)) == len(row)
        # Random words are no look: who failed in the same way reads the same message.
        env = {}
        for rollout, row in zip(group.rollouts, anchors, strict=True):
            said = [m["text"] for m in rollout.info["transcript"] if m["role"] == "user"]
            for turn, anchor in enumerate(row):
                assert env.setdefault(anchor, said[: turn + 1]) == said[: turn + 1]
    assert groups[0].rollouts[0].info["anchors"][0] != groups[1].rollouts[0].info["anchors"][0]


def test_the_reward_is_the_weighted_sum_of_the_terms(micro, toy, brief_rules):
    for group in play(micro("qwen3_vl"), toy, brief_rules):
        for rollout in group.rollouts:
            assert rollout.weights == brief_rules.reward.weights
            total = sum(rollout.weights[name] * value for name, value in rollout.terms.items())
            assert rollout.reward == pytest.approx(total)
