from dataclasses import replace

import pytest

from dip_agents.engines.hf import HFEngine
from dip_agents.policies.base import Policy
from dip_agents.policies.vlm import VLMPolicy
from dip_env.episode import Episode, Message
from dip_env.errors import ConfigError


def test_it_is_a_policy(micro):
    assert isinstance(VLMPolicy(HFEngine(micro("qwen3_vl"))), Policy)


def test_greedy_play_does_not_depend_on_the_batch(micro, toy, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    observations = [Episode(toy[i], minimal_prompt_rules).observation() for i in range(3)]
    together = VLMPolicy(HFEngine(vlm), max_new_tokens=12).act(observations, [0, 0, 0])
    alone = [
        VLMPolicy(HFEngine(vlm), max_new_tokens=12, batch_size=1).act([o], [0])[0]
        for o in observations
    ]
    assert [c.token_ids for c in together] == [c.token_ids for c in alone]


def test_a_later_turn_continues_the_sampled_tokens(micro, toy, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    policy = VLMPolicy(HFEngine(vlm), temperature=1.0, max_new_tokens=12)
    episode = Episode(toy[0], minimal_prompt_rules)
    first = policy.act([episode.observation()], [3])[0]
    episode.step(first.text)
    buffer = policy._buffer(episode.observation())
    sampled = [i for i, m in zip(buffer.ids, buffer.loss_mask, strict=True) if m]
    assert tuple(sampled) == first.token_ids
    assert (
        buffer.ids[-len(vlm.chat.reply(episode.transcript[-1])[0]) :]
        == (vlm.chat.reply(episode.transcript[-1])[0])
    )


def test_an_unknown_conversation_is_read_from_its_text(micro, toy, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    episode = Episode(toy[0], minimal_prompt_rules)
    episode.step("<think>2 people.</think><look>[[1,2,30,40]]</look>")
    completion = VLMPolicy(HFEngine(vlm), max_new_tokens=5).act([episode.observation()], [0])[0]
    assert len(completion.token_ids) == len(completion.logprobs) <= 5


def test_a_conversation_beyond_the_budget_is_marked_as_truncated(micro, toy, minimal_prompt_rules):
    policy = VLMPolicy(HFEngine(micro("qwen3_vl")), token_budget=10)
    completion = policy.act([Episode(toy[0], minimal_prompt_rules).observation()], [0])[0]
    assert completion.truncated
    assert completion.text == ""


@pytest.mark.parametrize(
    ("setting", "value"),
    [("temperature", -0.5), ("max_new_tokens", 0), ("token_budget", 0), ("batch_size", 0)],
)
def test_settings_out_of_range_are_named(micro, setting, value):
    with pytest.raises(ConfigError, match=f"{setting}: expected at least [01], got {value}"):
        VLMPolicy(HFEngine(micro("qwen3_vl")), **{setting: value})


def test_an_episode_that_cannot_begin_is_refused_beforehand(micro, toy, minimal_prompt_rules):
    policy = VLMPolicy(HFEngine(micro("qwen3_vl")), token_budget=10)
    first = Episode(toy[0], minimal_prompt_rules).observation()
    with pytest.raises(ConfigError, match=r"token_budget: expected more than \d+, .* got 10"):
        policy.check_room(first)
    roomy = VLMPolicy(HFEngine(micro("qwen3_vl")), token_budget=500)
    roomy.check_room(first)


def numbered(toy, rules, count):
    """Openings that all differ."""
    first = [Episode(toy[i % 4], rules).observation() for i in range(count)]
    return [
        replace(o, messages=(replace(o.messages[0], text=f"{i} {o.messages[0].text}"),))
        for i, o in enumerate(first)
    ]


def test_only_the_latest_conversations_are_kept_and_an_older_one_goes_on(
    micro, toy, minimal_prompt_rules
):
    vlm = micro("qwen3_vl")
    policy = VLMPolicy(HFEngine(vlm), max_new_tokens=4, batch_size=1)
    asked = numbered(toy, minimal_prompt_rules, 6)
    said = []
    for number, observation in enumerate(asked):
        said += policy.act([observation], [0])
        assert len(policy._buffers) == min(number + 1, 4)  # 4 batches of one

    def later(number):
        turn = (Message("assistant", said[number].text, ()), Message("user", "Go on.", ()))
        return replace(asked[number], messages=(*asked[number].messages, *turn))

    for number, known in [(0, False), (5, True)]:
        before = len(policy._buffers)
        policy._buffer(later(number))
        assert (len(policy._buffers) < before) == known
    fresh = VLMPolicy(HFEngine(vlm), max_new_tokens=4)
    assert policy.act([later(1)], [0])[0].token_ids == fresh.act([later(1)], [0])[0].token_ids


def test_conversations_that_are_asked_about_together_are_all_kept(micro, toy, minimal_prompt_rules):
    policy = VLMPolicy(HFEngine(micro("qwen3_vl")), max_new_tokens=4, batch_size=1)
    policy.act(numbered(toy, minimal_prompt_rules, 6), [0] * 6)
    assert len(policy._buffers) == 6


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_both_families_play_an_episode_to_its_end(micro, toy, family):
    from dip_env.config import EpisodeConfig

    rules = EpisodeConfig(
        view_size=112 if family == "qwen2_5_vl" else 128,
        crop_size=64,
        size_multiple=28 if family == "qwen2_5_vl" else 32,
        max_turns=2,
    )
    episode = Episode(toy[1], rules)
    policy = VLMPolicy(HFEngine(micro(family)), temperature=1.0, max_new_tokens=8)
    while not episode.done:
        episode.step(policy.act([episode.observation()], [episode.turn])[0].text)
    assert episode.turn == 2
