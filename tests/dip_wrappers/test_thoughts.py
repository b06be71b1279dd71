"""A turn is one action, wherever a template or a server has put its think."""

import pytest

from dip_env.actions import Grammar, Think
from dip_env.errors import ConfigError
from dip_wrappers.thoughts import open_think, own_part, whole_action

ANSWER = "<answer>[[1,2,30,40]]</answer>"


@pytest.mark.parametrize(
    ("text", "thought", "truncated", "action"),
    [
        (ANSWER, None, False, ANSWER),
        (f"<think>a</think>{ANSWER}", None, False, f"<think>a</think>{ANSWER}"),
        (f"2 people.</think>\n\n{ANSWER}", None, False, f"<think>2 people.</think>\n\n{ANSWER}"),
        (f"</think>{ANSWER}", None, False, f"<think></think>{ANSWER}"),
        (ANSWER, "2 people.", False, f"<think>2 people.</think>{ANSWER}"),
        (f"\n</think>{ANSWER}", "2 people.", False, f"<think>2 people.\n</think>{ANSWER}"),
        ("", "2 peo", True, "<think>2 peo"),
        ("<ans", "2 people.", True, "<think>2 people.</think><ans"),
        ("", "2 people.", False, "<think>2 people.</think>"),
        ("", "", False, ""),
        ("", None, True, ""),
    ],
)
def test_a_think_that_came_apart_is_put_back(text, thought, truncated, action):
    assert whole_action(text, thought, truncated=truncated) == action


@pytest.mark.parametrize(
    ("text", "thought"),
    [(f"2 people.</think>\n\n{ANSWER}", None), (ANSWER, "2 </think> or <look>[[1]]</look>?")],
)
def test_what_was_put_together_is_well_formed(text, thought):
    think, answer = Grammar().parse(whole_action(text, thought))
    assert isinstance(think, Think) and answer.boxes.tolist() == [[1, 2, 30, 40]]


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_end|>\n<|im_start|>assistant\n", ""),
        ("<|im_end|>\n<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("<think>a</think> <think>", "<think>"),
        ("", ""),
    ],
)
def test_the_prompt_says_whether_a_think_is_open(prompt, opened):
    assert open_think(prompt) == opened


def test_a_think_that_the_prompt_begins_to_write_is_refused():
    with pytest.raises(ConfigError, match="expected nothing behind the <think> it opens, got 'Ok'"):
        open_think("<|im_start|>assistant\n<think>\nOk")


@pytest.mark.parametrize(
    ("action", "opened", "own"),
    [
        ("<think>a</think><answer>[]</answer>", "<think>", "a</think><answer>[]</answer>"),
        ("<answer>[]</answer>", "<think>", "</think><answer>[]</answer>"),
        ("2 peo", "<think>", "2 peo"),
        ("<think>a</think>", "", "<think>a</think>"),
    ],
)
def test_a_model_writes_what_the_prompt_does_not_hold(action, opened, own):
    assert own_part(action, opened) == own
