"""TRL's rollouts are scored as the groups they are, wherever their siblings run."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="needs the extra trl")

from dip_agents.adapters import Task
from dip_agents.adapters.trl import rewards as trl_rewards
from dip_agents.adapters.trl.rewards import _group_size, dip_rewards, single_pass_reward
from dip_env.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_rollouts_of_different_scenes_are_no_group(tools, parity, processor):
    task = Task(**parity.RULES)
    environments = [tools.factory(task, processor)() for _ in range(4)]
    for environment, scene in zip(environments, (0, 0, 1, 1), strict=True):
        environment.reset(scene=scene)
    pay = dip_rewards(task, tools.args(processor))
    with pytest.raises(ConfigError, match=r"expected 4 in a row on one scene.*\[0, 0, 1, 1\]"):
        pay(environments=environments, log_metric=tools.no_log)
    in_evaluation = SimpleNamespace(num_generations=4, num_generations_eval=2)
    pay = dip_rewards(task, in_evaluation)
    assert len(pay(environments=environments, log_metric=tools.no_log)) == 4


def test_groups_of_an_evaluation_with_more_rollouts_stay_whole():
    larger = SimpleNamespace(num_generations=2, num_generations_eval=4)
    assert _group_size(larger, [5, 5, 5, 5, 7, 7, 7, 7]) == 4
    assert _group_size(larger, [5, 5, 7, 7]) == 2


def test_a_rollout_that_stops_without_an_answer_is_rewarded_as_truncated(tools, parity, processor):
    task = Task(**parity.RULES)
    environments = [tools.factory(task, processor)() for _ in range(4)]
    group = task.group(2, 4)
    for member, environment in enumerate(environments):
        environment.reset(scene=2)
        if member:
            tools.act(environment, parity.SCRIPTS[0][0], "tools")
            group.step_member(member, parity.SCRIPTS[0][0])
        group.abandon(member)
    paid = dip_rewards(task, tools.args(processor))(
        environments=environments, log_metric=tools.no_log
    )
    assert paid == [score.terms.total(task.config.reward.weights) for score in group.scores]
    assert all(e.episode.done and not e.episode.answered for e in environments)


def test_siblings_in_another_process_count_like_those_at_home(
    tools, parity, processor, monkeypatch
):
    task = Task(**parity.RULES)
    environments = [tools.factory(task, processor)() for _ in range(12)]
    for k, environment in enumerate(environments):
        environment.reset(scene=k // 4)
        for text in parity.SCRIPTS[k % 4]:
            environment._step(text)
    pay = dip_rewards(task, tools.args(processor))
    together = pay(environments=environments, log_metric=tools.no_log)
    everyone = [(e.episode.scene_index, e.episode.outcome) for e in environments]
    monkeypatch.setattr(trl_rewards, "gather_object", lambda own: everyone)
    apart = []
    for process in range(2):
        state = SimpleNamespace(process_index=process)
        monkeypatch.setattr(trl_rewards, "PartialState", lambda state=state: state)
        own = environments[6 * process : 6 * process + 6]
        apart += pay(environments=own, log_metric=tools.no_log)
    assert apart == together


@pytest.mark.parametrize("form", ["text", "chat"])
def test_a_single_pass_earns_what_an_episode_group_earns(tools, parity, processor, seed, form):
    task = Task(**parity.RULES)
    scene = task.scene_of(seed)
    texts = [script[0] for script in parity.SCRIPTS]
    group = task.group(scene, 4)
    for member, text in enumerate(texts):
        group.step_member(member, text)
        if not group.episodes[member].done:
            group.abandon(member)
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    paid = single_pass_reward(task, processor, tools.args(processor))(
        completions=texts if form == "text" else chats, scene=[scene] * 4, log_metric=tools.no_log
    )
    assert paid == [score.terms.total(task.config.reward.weights) for score in group.scores]
    assert len(set(paid)) > 1


def test_a_single_pass_reads_a_think_that_the_template_opens(tools, parity, processor):
    start = "<|im_start|>assistant\n"
    thinking = copy.deepcopy(processor)
    assert start in thinking.tokenizer.chat_template
    opening = thinking.tokenizer.chat_template.replace(start, start + "<think>\n")
    thinking.chat_template = thinking.tokenizer.chat_template = opening
    task = Task(**parity.RULES)
    boxes = [f"[[0,0,{k},{k}]]" for k in (10, 20, 30, 40)]
    whole = [f"<think>a</think><look>{box}</look><answer>{box}</answer>" for box in boxes]
    cut = [text.removeprefix("<think>") for text in whole]
    paid = [
        single_pass_reward(task, one, tools.args(one))(
            completions=texts, scene=[0] * 4, log_metric=tools.no_log
        )
        for one, texts in ((processor, whole), (thinking, cut))
    ]
    assert paid[0] == paid[1] and min(paid[0]) > 0


def test_a_single_pass_refuses_thoughts_that_a_tokenizer_split_off(tools, parity, processor):
    message = {"role": "assistant", "content": "<answer>[]</answer>", "reasoning_content": "a"}
    pay = single_pass_reward(Task(**parity.RULES), processor, tools.args(processor))
    with pytest.raises(ConfigError, match=r"expected plain text, got \['reasoning_content'\]"):
        pay(completions=[[message]] * 4, scene=[0] * 4, log_metric=tools.no_log)


def test_a_single_pass_refuses_a_processor_that_would_resize_and_placeholders_that_may_come(
    tools, parity, processors
):
    task, processor = Task(**parity.RULES), processors["qwen2_5_vl"]
    with pytest.raises(ConfigError, match="size_multiple: expected a multiple of 28"):
        single_pass_reward(task, processor, tools.args(processor))
    processor = processors["qwen3_vl"]
    with pytest.raises(ConfigError, match="generation_kwargs: expected to ban the placeholders"):
        single_pass_reward(task, processor, tools.args(processor, generation_kwargs=None))
