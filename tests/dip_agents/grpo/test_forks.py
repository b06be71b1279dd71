"""Groups whose members share looks, on engines that sample and on one that says given texts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dip_agents.engines.base import Sample, Sampling
from dip_agents.engines.generic import GenericEngine
from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.credit import compute_advantages
from dip_agents.grpo.gather import all_gather_groups
from dip_agents.grpo.metrics import branch_metrics, rollout_metrics
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.objectives.turns import turn_segments
from dip_agents.runtime.distributed import DistributedContext
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.group import EpisodeGroup
from dip_env.scenes import ToyScenes
from dip_wrappers.traces import TraceWriter, load_traces, rescore

LOOK = "<think>a</think><look>[[{},{},{},60]]</look>"
ANSWERS = (
    "<answer>[]</answer>",
    "<answer>[[8,20,24,66]]</answer>",
    "<answer>[[100,16,120,77]]</answer>",
)


class Reading:
    """A chat that reads looks and answers into whatever tokens a random model samples."""

    def __init__(self, chat):
        self.chat = chat

    def __getattr__(self, name):
        return getattr(self.chat, name)

    def text(self, ids):
        number = sum(ids) // 3
        if sum(ids) % 3:  # two of three turns
            return LOOK.format(number % 60, number % 7, number % 60 + 20)
        return ANSWERS[number % 3]


class Noting:
    """An engine that notes the seeds and openings it is given."""

    def __init__(self, engine):
        self.engine, self.chat = engine, Reading(engine.chat)
        self.exact_logprobs = engine.exact_logprobs
        self.seeds, self.plays = [], []

    def play(self, prompts, repeats, reply, sampling, turn_seed):
        def noted(row, turn):
            self.seeds.append(turn_seed(row, turn))
            return self.seeds[-1]

        self.plays.append((list(prompts), repeats))
        self.engine.play(prompts, repeats, reply, sampling, noted)


def collect(engine, toy, rules, size=6, answers=3, blank=0, **settings):
    settings = {"seed": 4, "sampling": Sampling(1.0, 16, 400)} | settings
    return collect_rollouts(
        engine,
        toy,
        [0, 1, 2],
        size,
        rules,
        answers_per_look=answers,
        blank_answers=blank,
        **settings,
    )


def branches_of(group):
    by_look = {}
    for rollout in group.rollouts:
        by_look.setdefault(rollout.branch.look, []).append(rollout)
    return list(by_look.values())


@pytest.fixture(scope="module")
def played(micro):
    rules = EpisodeConfig(
        view_size=128, crop_size=64, max_looks=1, max_regions=2, max_turns=3, minimal_prompt=True
    )
    engine = Noting(HFEngine(micro("qwen3_vl")))
    return engine, collect(engine, ToyScenes(), rules), rules


def test_members_share_all_tokens_up_to_the_fork_and_part_there(played):
    _, groups, _ = played
    parted = 0
    for branch in (branch for group in groups for branch in branches_of(group)):
        first = branch[0]
        shared = first.branch.tokens
        for rollout in branch:
            buffer = rollout.buffer
            for name in ("ids", "loss_mask", "logprobs"):
                assert getattr(buffer, name)[:shared] == getattr(first.buffer, name)[:shared]
            records = rollout.stats.turn_records
            assert records[: rollout.branch.turns] == first.stats.turn_records[: first.branch.turns]
            # The fork comes after the turn that looks, behind its crops.
            if rollout.branch.looked:
                ends = [stop for _, stop in turn_segments(buffer.loss_mask)]
                assert ends[rollout.branch.turns - 1] < shared < len(buffer)
                assert records[rollout.branch.turns].looks_left == 0
        if first.branch.looked:
            parted += len({tuple(r.buffer.ids[shared:]) for r in branch}) == len(branch)
    assert parted >= 3


def test_a_branch_without_a_fork_is_copies_of_one_rollout(played):
    _, groups, _ = played
    copies = [b for g in groups for b in branches_of(g) if not b[0].branch.looked]
    assert copies
    for branch in copies:
        assert {tuple(r.buffer.ids) for r in branch} == {tuple(branch[0].buffer.ids)}
        assert {r.reward for r in branch} == {branch[0].reward}
        assert {r.branch.tokens for r in branch} == {len(branch[0].buffer)}
    assert branch_metrics(groups)["rollout/forked"] == 1 - len(copies) / 6


@pytest.mark.parametrize("blank", [0, 1])
@torch.no_grad()
def test_the_sampler_goes_on_from_a_fork_as_the_trainer_reads_it(
    micro, toy, minimal_prompt_rules, blank
):
    vlm = micro("qwen3_vl")
    groups = collect(Noting(HFEngine(vlm)), toy, minimal_prompt_rules, blank=blank)
    buffers = [rollout.buffer for group in groups for rollout in group.rollouts]
    out = vlm.token_logprobs(buffers, 1.0)
    for row, buffer in enumerate(buffers):
        mine = np.flatnonzero(buffer.loss_mask)
        known = np.array(buffer.logprobs)[mine]
        np.testing.assert_allclose(known, out.logprobs[row, mine].numpy(), atol=2e-4)


def test_every_turn_has_a_seed_of_its_own_and_a_step_is_the_same_every_time(played, toy, micro):
    engine, groups, rules = played
    assert len(set(engine.seeds)) == len(engine.seeds)
    again = collect(Noting(HFEngine(micro("qwen3_vl"))), toy, rules)
    other = collect(Noting(HFEngine(micro("qwen3_vl"))), toy, rules, step=1)
    ids = [[r.buffer.ids for g in part for r in g.rollouts] for part in (groups, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_a_group_is_the_same_in_whatever_part_of_a_batch_it_is_collected(played, toy, micro):
    _, groups, rules = played
    engine = Noting(HFEngine(micro("qwen3_vl")))
    (alone,) = collect_rollouts(
        engine, toy, [2], 6, rules, seed=4, first_index=2, sampling=Sampling(1.0, 16, 400),
        answers_per_look=3,
    )  # fmt: skip
    for one, other in zip(alone.rollouts, groups[2].rollouts, strict=True):
        assert one.buffer.ids == other.buffer.ids


def test_the_environment_rewards_members_as_if_each_had_played_alone(played, toy):
    _, groups, rules = played
    for group in groups:
        looks = np.array([rollout.branch.look for rollout in group.rollouts])
        replayed = EpisodeGroup(toy[group.scene_index], rules, 6, siblings=looks[:, None] != looks)
        for member, rollout in enumerate(group.rollouts):
            for message in rollout.stats.transcript:
                if message["role"] == "assistant":
                    replayed.step_member(member, message["text"])
        for score, rollout in zip(replayed.scores, group.rollouts, strict=True):
            assert score.terms.as_dict() == rollout.terms
        for branch in branches_of(group):
            assert len({rollout.terms["look"] for rollout in branch}) == 1


def test_blank_members_see_grey_crops_and_their_traces_say_so(
    micro, toy, minimal_prompt_rules, tmp_path
):
    engine = Noting(HFEngine(micro("qwen3_vl")))
    with TraceWriter(tmp_path, source="toy") as writer:
        groups = collect(engine, toy, minimal_prompt_rules, blank=1, writer=writer)
    seen = 0
    for branch in (branch for group in groups for branch in branches_of(group)):
        *real, blank = branch
        assert [r.branch.blank for r in branch] == [False, False, True]
        shared = blank.branch.tokens
        assert blank.buffer.ids[:shared] == real[0].buffer.ids[:shared]
        for crop, shown in zip(real[0].buffer.images[1:], blank.buffer.images[1:], strict=True):
            assert shown.pixels.shape == crop.pixels.shape
            assert (shown.pixels == 128).all() and not (crop.pixels == 128).all()
            seen += 1
    assert seen
    traces = load_traces(tmp_path)
    assert [trace.control for trace in traces] == [None, None, "crops blanked"] * 6
    assert traces[0].siblings == traces[2].siblings == (3, 4)
    for trace in traces:
        for turn in trace.turns:
            for name in turn.crops:
                assert bool((trace.image(name) == 128).all()) == (trace.control is not None)
    rewards = [rollout.reward for group in groups for rollout in group.rollouts]
    assert [trace.reward for trace in traces] == rewards
    assert [one.reward for one in rescore(traces, minimal_prompt_rules.reward)] == rewards
    numbers = branch_metrics(groups)
    assert numbers["rollout/crop_value"] == pytest.approx(
        numbers["rollout/accuracy_with_crops"] - numbers["rollout/accuracy_blank"]
    )


@pytest.mark.parametrize(("answers", "blank", "repeats"), [(3, 0, 3), (4, 2, 2), (3, 1, 1)])
def test_the_second_play_begins_with_everything_before_the_fork(
    micro, toy, minimal_prompt_rules, answers, blank, repeats
):
    engine = Noting(HFEngine(micro("qwen3_vl")))
    groups = collect(engine, toy, minimal_prompt_rules, 3 * answers, answers, blank)
    (_, trunks), (prefixes, found) = engine.plays
    assert (trunks, found) == (3, repeats)
    forked = [r for group in groups for r in group.rollouts if r.branch.looked]
    assert len(prefixes) * repeats == len(forked)
    for prefix, rollout in zip(prefixes, forked[::repeats], strict=True):
        tokens = rollout.branch.tokens
        assert list(prefix.ids) == rollout.buffer.ids[:tokens]
        assert [i.key for i in prefix.images] == [i.key for i in rollout.buffer.images]
        roles = [message.role for message in prefix.messages]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


def test_other_families_go_on_from_a_fork_too(generic_micro, toy, minimal_prompt_rules):
    vlm = generic_micro("idefics3")
    rules = replace(minimal_prompt_rules, size_multiple=32)
    engine = Noting(GenericEngine(vlm))
    groups = collect(engine, toy, rules, sampling=Sampling(1.0, 12, 900))
    assert any(r.branch.looked for group in groups for r in group.rollouts)
    buffers = [rollout.buffer for group in groups for rollout in group.rollouts]
    with torch.no_grad():
        out = vlm.token_logprobs(buffers, 1.0)
    for row, buffer in enumerate(buffers):
        mine = np.flatnonzero(buffer.loss_mask)
        known = np.array(buffer.logprobs)[mine]
        np.testing.assert_allclose(known, out.logprobs[row, mine].numpy(), atol=1e-3)


class Speaking:
    """An engine that says given texts, first those of the looks, then those after the forks."""

    exact_logprobs = True

    def __init__(self, chat, *plays):
        self.chat, self.left = chat, list(plays)

    def play(self, prompts, repeats, reply, sampling, turn_seed):
        lines = self.left.pop(0)
        assert len(lines) == len(prompts) * repeats
        for row, texts in enumerate(lines):
            for text in texts:
                ids = tuple(self.chat.policy_ids(text))
                if reply(row, Sample(ids, (-1.0,) * len(ids), truncated=False)) is None:
                    break


def test_a_refused_look_is_no_fork_and_later_looks_belong_to_the_answers(
    micro, toy, minimal_prompt_rules
):
    look, far = LOOK.format(0, 0, 20), "<look>[[900,900,999,999]]</look>"
    rules = replace(minimal_prompt_rules, max_looks=2, max_turns=4)
    trunks = [[far, look], [look + ANSWERS[0]]]  # the second looks and answers in one action
    after = [[ANSWERS[1]], [look, ANSWERS[1]]]
    engine = Speaking(micro("qwen3_vl").chat, trunks, after)
    (group,) = collect_rollouts(engine, toy, [0], 4, rules, seed=0, answers_per_look=2)
    assert [r.branch.turns for r in group.rollouts] == [2, 2, 1, 1]
    assert [r.branch.looked for r in group.rollouts] == [True, True, False, False]
    assert [r.stats.turns for r in group.rollouts] == [3, 4, 1, 1]
    assert [r.stats.regions for r in group.rollouts] == [1, 2, 1, 1]
    left = [[turn.looks_left for turn in r.stats.turn_records] for r in group.rollouts]
    assert left == [[2, 2, 1], [2, 2, 1, 0], [2], [2]]
    turns = compute_advantages([group], "rloo", look_credit="causal").turns[0]
    assert [len(row) for row in turns] == [3, 4, 1, 1]
    assert turns[0][:2] == turns[1][:2]


def test_without_any_look_the_engine_plays_once(micro, toy, minimal_prompt_rules):
    engine = Speaking(micro("qwen3_vl").chat, [[ANSWERS[0]], [ANSWERS[1]]])
    (group,) = collect_rollouts(
        engine, toy, [0], 4, minimal_prompt_rules, seed=0, answers_per_look=2
    )
    assert [r.stats.boxes for r in group.rollouts] == [0, 0, 1, 1]
    assert not engine.left


def test_crops_without_room_end_a_branch_for_all_its_members(micro, toy, minimal_prompt_rules):
    chat = micro("qwen3_vl").chat
    opening = EpisodeGroup(toy[0], minimal_prompt_rules).episodes[0].opening
    budget = len(chat.opening([opening])[0]) + len(chat.policy_ids(LOOK.format(0, 0, 20))) + 3
    engine = Speaking(chat, [[LOOK.format(0, 0, 20)]] * 2)
    sampling = Sampling(1.0, 60, budget)
    (group,) = collect_rollouts(
        engine, toy, [0], 4, minimal_prompt_rules, seed=0, sampling=sampling, answers_per_look=2
    )
    assert {r.stats.ending for r in group.rollouts} == {"token_budget"}
    assert not any(r.branch.looked for r in group.rollouts)


def test_every_rank_computes_the_same_of_branches(played):
    _, groups, _ = played

    class Pretended(DistributedContext):
        def all_gather(self, value):
            self.sent = value
            return [value, []]

    first = Pretended(0, 2)
    all_gather_groups(groups, first)
    received = [group for group, _ in first.sent]
    found = compute_advantages(received, "batch_std", look_credit="causal")
    wanted = compute_advantages(groups, "batch_std", look_credit="causal")
    assert found.turns == wanted.turns
    assert branch_metrics(received) == branch_metrics(groups)
    assert rollout_metrics(groups, wanted)["rollout/sampled_tokens"] < sum(
        sum(r.buffer.loss_mask) for g in groups for r in g.rollouts
    )


def test_numbers_that_make_no_groups_are_refused(micro, toy, minimal_prompt_rules):
    engine = HFEngine(micro("qwen3_vl"))
    with pytest.raises(ConfigError, match="answers_per_look: expected a divisor of group_size 6"):
        collect(engine, toy, minimal_prompt_rules, 6, 4)
