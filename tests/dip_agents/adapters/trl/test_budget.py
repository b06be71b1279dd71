"""Replies are counted as TRL appends them, and a look that has no room is refused with a reason."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

pytest.importorskip("trl", reason="needs the extra trl")

from trl import GRPOTrainer

from dip_agents.adapters import Task
from dip_agents.adapters.trl.budget import TokenBudget
from dip_agents.adapters.trl.rewards import dip_rewards
from dip_env import episode as episode_module
from dip_env.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_the_budget_counts_what_trl_appends(tools, parity, processors, family):
    processor = processors[family]
    rules = parity.RULES | {"size_multiple": 2 * processor.image_processor.patch_size}
    rules |= {"view_size": 140, "crop_size": 70}
    environment = tools.factory(Task(**rules), processor)()
    environment.reset(scene=1)
    trainer = SimpleNamespace(
        processing_class=processor,
        _tokenizer=processor.tokenizer,
        _is_vlm=True,
        chat_template=None,
        chat_template_kwargs={},
    )
    for text in parity.SCRIPTS[0]:
        reply = tools.act(environment, text, "tools")
        message = {"role": "tool", "name": "look", "content": reply}
        ids = GRPOTrainer._get_tool_suffix_ids(trainer, [message])
        assert environment._budget.reply(reply) == len(ids)


def test_a_look_without_room_is_refused_with_a_reason_and_counted(tools, parity, processor):
    task, logged = Task(**parity.RULES), {}
    look, answer = parity.SCRIPTS[0]
    roomy = tools.factory(task, processor)()
    roomy.reset(scene=1)
    crops = tools.act(roomy, look, "tools")
    needed = roomy.episode.spent + 50

    def limited(tokens):
        environment = tools.factory(task, processor, 50, max_completion_length=tokens)()
        environment.reset(scene=1)
        return environment, tools.act(environment, look, "tools")

    assert tools.shown(limited(needed)[1]) == tools.shown(crops)
    tight, (reply,) = limited(needed - 1)
    assert re.search(r"expected a look that fits into the \d+ tokens left, got", reply["text"])
    assert "2 turns and 2 looks left" in reply["text"]
    assert len(tight.episode.looks) == 0
    tools.act(tight, answer, "tools")
    tools.act(roomy, answer, "tools")
    args = SimpleNamespace(num_generations=2, num_generations_eval=None)
    dip_rewards(task, args)(environments=[tight, roomy], log_metric=logged.__setitem__, prompts=[])
    assert logged["looks_without_room"] == 0.5


def test_a_look_that_ends_the_episode_needs_no_room(tools, parity, processor):
    task = Task(**parity.RULES | {"max_turns": 1})
    environment = tools.factory(task, processor, 50, max_completion_length=51)()
    environment.reset(scene=1)
    tools.act(environment, parity.SCRIPTS[0][0], "tools")
    assert (len(environment.episode.looks), environment.episode.looks_without_room) == (2, 0)


def test_each_crop_is_cut_once(tools, parity, processor, monkeypatch):
    cut, times = episode_module.cut_crop, []
    monkeypatch.setattr(episode_module, "cut_crop", lambda *a: times.append(a) or cut(*a))
    environment = tools.factory(Task(**parity.RULES), processor)()
    environment.reset(scene=1)
    tools.act(environment, parity.SCRIPTS[0][0], "tools")
    assert len(times) == len(environment.episode.crops) == 2


def test_a_quarter_of_the_budget_is_reserved_by_default(tools, parity, processor):
    task = Task(**parity.RULES)
    environment = tools.factory(task, processor, max_completion_length=1000)()
    assert environment._budget.room == 750
    with pytest.raises(ConfigError, match=r"reserve: expected 0\.\.99, less than max_completion"):
        TokenBudget(processor, max_completion_length=100, reserve=100)
