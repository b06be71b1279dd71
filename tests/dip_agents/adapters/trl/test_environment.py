"""TRL's environments show what an episode shows, and refuse with a reason what it would refuse."""

from __future__ import annotations

import pytest

pytest.importorskip("trl", reason="needs the extra trl")

from transformers.utils import get_json_schema

from dip_agents.adapters import Task
from dip_agents.adapters.trl.environment import DIPEnvironment
from dip_agents.adapters.trl.rewards import dip_rewards
from dip_env.errors import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("through", ["text", "tools"])
def test_a_group_of_environments_sees_and_earns_what_an_episode_group_does(
    tools, parity, seed, processor, through
):
    task, logged = Task(**parity.RULES), {}
    make = tools.factory(task, processor)
    environments, seen = [make() for _ in parity.SCRIPTS], []
    for environment, script in zip(environments, parity.SCRIPTS, strict=True):
        replies = [environment.reset(seed=seed, prompt=[])]
        replies += [tools.act(environment, text, through) for text in script]
        assert replies[-1] == [{"type": "text", "text": "The episode has ended."}]
        seen.append(tuple(tools.shown(reply) for reply in replies[:-1]))
        said = [m.text for m in environment.episode.transcript if m.role == "assistant"]
        assert said == list(script)
    reward = dip_rewards(task, tools.args(processor))
    paid = reward(environments=environments, log_metric=logged.__setitem__, prompts=[])
    expected = parity.expected_group(seed)
    assert seen == [played.shown for played in expected]
    assert paid == [played.reward for played in expected]
    for term in ("format", "look", "accuracy"):
        mean = sum(played.terms[term] for played in expected) / 4
        assert logged[f"reward/{term}"] == pytest.approx(mean)


def test_a_reply_keeps_text_and_crops_in_the_order_they_are_read(tools, parity, processor):
    environment = tools.factory(Task(**parity.RULES), processor)()
    opening = environment.reset(scene=1)
    reply = tools.act(environment, parity.SCRIPTS[0][0], "tools")
    assert [part["type"] for part in opening] == ["image", "text"]
    assert [part["type"] for part in reply] == ["text", "image", "text", "image", "text"]


@pytest.mark.parametrize(
    ("thought", "regions"),
    [
        ("a</think>b", [[1, 2, 30, 40]]),
        ("a\ud800", [[1, 2, 30, 40]]),
        ("a", [[1, 2, 3]]),
        ("a", "everywhere"),
        ("a", "every\ud800where"),
        ("a", []),
        ("a", [[0, 0, float("nan"), 9]]),
        ("a", [[500, 500, 600, 600]]),
    ],
)
def test_a_call_outside_the_grammar_costs_a_turn_and_gets_the_reason(
    tools, parity, processor, thought, regions
):
    environment = tools.factory(Task(**parity.RULES), processor)()
    environment.reset(scene=0)
    (reply,) = environment.look(thought, regions)
    assert reply["text"].startswith("Your action was not accepted: ")
    assert (environment.episode.turn, environment.episode.looks_left) == (1, 2)


@pytest.mark.parametrize(
    ("thought", "got"),
    [
        ("a</think><look>[[8,8,60,70]]</look><think>b", "expected text without tags, got </think>"),
        (None, "expected text, got null"),
        (["<think>"], 'expected text, got ["<think>"]'),
        (7, "expected text, got 7"),
    ],
)
@pytest.mark.parametrize("tool", ["look", "answer"])
def test_what_is_no_thought_costs_a_turn_and_adds_nothing_to_the_call(
    tools, parity, processor, tool, thought, got
):
    environment = tools.factory(Task(**parity.RULES), processor)()
    environment.reset(scene=0)
    (reply,) = getattr(environment, tool)(thought, [[10, 40, 30, 90]])
    assert reply["text"].startswith("Your action was not accepted: ") and got in reply["text"]
    episode = environment.episode
    assert (episode.turn, len(episode.looks), episode.answered) == (1, 0, False)
    environment.answer("words", [[10, 40, 30, 90]])
    assert episode.answered


def test_calls_are_counted_as_the_model_spelled_them(tools, parity, processor):
    spent = []
    for thought in ("<|image_pad|>", "< |image_pad|>"):
        environment = tools.factory(Task(**parity.RULES), processor)()
        environment.reset(scene=0)
        environment.look(thought, [[1, 2, 30, 40]])
        spent.append(environment.episode.spent)
    assert spent[0] == spent[1]


def test_special_tokens_that_a_model_spells_out_come_back_harmless(tools, parity, processor):
    environment = tools.factory(Task(**parity.RULES), processor)()
    environment.reset(scene=0)
    (reply,) = environment.look("a", "<|image_pad|>")
    assert "image_pad" in reply["text"] and "<|" not in reply["text"]


def test_only_look_and_answer_are_tools(parity):
    public = {n for n in vars(DIPEnvironment) if callable(getattr(DIPEnvironment, n))}
    assert {n for n in public if not n.startswith("_")} == {"reset", "look", "answer"}
    schema = get_json_schema(DIPEnvironment.look)["function"]["parameters"]
    assert schema["required"] == ["thought", "regions"]
    assert schema["properties"]["regions"]["items"] == {
        "type": "array",
        "items": {"type": "number"},
    }


@pytest.mark.parametrize("row", [{}, {"scene": 1, "seed": 1}])
def test_a_row_must_say_which_scene_its_rollouts_share(tools, parity, processor, row):
    environment = tools.factory(Task(**parity.RULES), processor)()
    with pytest.raises(
        ConfigError, match="dataset row: expected a scene or a seed, so that all rollouts"
    ):
        environment.reset(prompt=[], **row)
    with pytest.raises(IndexError, match=r"expected 0\.\."):
        environment.reset(scene=10**6)
