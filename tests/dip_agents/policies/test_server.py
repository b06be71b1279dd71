"""A model behind a server as a policy, against a small server on this machine."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from dip_agents.engines.base import EngineError
from dip_agents.policies.server import ServerPolicy
from dip_env.episode import Episode
from dip_env.errors import ConfigError

LOOK = "<think>a</think><look>[[0,0,100,100]]</look>"


def pixels(part):
    raw = base64.b64decode(part["image_url"]["url"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(raw)))


def test_the_whole_conversation_is_sent_with_its_very_pixels(server, toy):
    episode = Episode(toy[0])
    episode.step(LOOK)
    policy = ServerPolicy(server.address, "big", max_tokens=77)
    (said,) = policy.act([episode.observation()], [5])
    assert (said.text, said.token_ids, said.truncated) == ("<answer>[]</answer>", (), False)
    (body,) = server.bodies
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("big", 77, 0.0)
    assert "seed" not in body
    assert [m["role"] for m in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["content"] == LOOK
    for sent, message in zip(body["messages"][::2], episode.transcript[::2], strict=True):
        images = [pixels(part) for part in sent["content"] if part["type"] == "image_url"]
        assert len(images) == len(message.images) == 1
        np.testing.assert_array_equal(images[0], message.images[0])
        texts = [part["text"] for part in sent["content"] if part["type"] == "text"]
        assert "".join(texts) == message.text


def test_many_are_asked_at_once_and_come_back_in_order(server, toy):
    def answer(body):
        return server.said(f"{body['seed']}", "length" if body["seed"] == 3 else "stop")

    server.answer = answer
    policy = ServerPolicy(server.address, "m", temperature=0.7, concurrency=3)
    observations = [Episode(toy[k % 4]).observation() for k in range(6)]
    said = policy.act(observations, [2**31 + k for k in range(6)])
    assert [s.text for s in said] == [str(k) for k in range(6)]
    assert [s.truncated for s in said] == [k == 3 for k in range(6)]
    assert 1 <= server.most <= 3


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    ("content", "reason", "said"),
    [
        ("<answer>[]</answer>", "stop", "<think>a</think><answer>[]</answer>"),
        (None, "length", "<think>a"),
        ("<ans", "length", "<think>a</think><ans"),
    ],
)
def test_a_think_that_the_server_split_off_is_put_back(server, toy, name, content, reason, said):
    message = {"role": "assistant", "content": content, name: "a"}
    choice = {"message": message, "finish_reason": reason}
    server.answer = lambda body: (200, {"choices": [choice]})
    (got,) = ServerPolicy(server.address, "m").act([Episode(toy[0]).observation()], [0])
    assert (got.text, got.truncated) == (said, reason == "length")


@pytest.mark.parametrize(
    ("thought", "kept"),
    [
        ("I could <look>[[1,2,3,4]]</look> or </think>", "< look>[[1,2,3,4]]< /look> or < /think>"),
        ("a" * 9000 + "z", "[9001 characters, the middle is left out]"),
        ("<|image_pad|>", "< |image_pad|>"),
    ],
)
def test_any_split_off_thought_leaves_the_answer_well_formed(server, toy, thought, kept):
    message = {"role": "assistant", "content": "<answer>[[1,2,3,4]]</answer>"}
    choice = {"message": message | {"reasoning": thought}, "finish_reason": "stop"}
    server.answer = lambda body: (200, {"choices": [choice]})
    episode = Episode(toy[0])
    (got,) = ServerPolicy(server.address, "m").act([episode.observation()], [0])
    turn = episode.step(got.text)
    assert turn.terminated and turn.parse_error is None
    think, answer = turn.segments
    assert kept in think.text and len(think.text) <= 8192
    assert answer.boxes.tolist() == [[1, 2, 3, 4]]


def test_what_the_server_refuses_is_an_error_and_no_empty_action(server, toy):
    server.answer = lambda body: (400, b"no images, please")
    policy = ServerPolicy(server.address, "m")
    with pytest.raises(EngineError, match="status 400: 'no images, please'"):
        policy.act([Episode(toy[0]).observation()], [0])
    server.answer = lambda body: (200, {"choices": []})
    with pytest.raises(EngineError, match=r"expected choices\[0\]"):
        policy.act([Episode(toy[0]).observation()], [0])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server": "localhost"}, "server: expected an address"),
        ({"concurrency": 0}, "concurrency: expected at least 1, got 0"),
        ({"max_tokens": 0}, "max_tokens: expected at least 1, got 0"),
        ({"temperature": -1.0}, "temperature: expected at least 0, got -1"),
        ({"key_variable": "NO_SUCH_KEY_HERE"}, r"expected a key in \$NO_SUCH_KEY_HERE"),
    ],
)
def test_settings_that_cannot_work_are_named(changes, words):
    with pytest.raises(ConfigError, match=words):
        ServerPolicy(**{"server": "http://127.0.0.1:1", "model": "m"} | changes)


def test_an_odd_response_among_others_is_a_failed_turn(server, toy):
    def answer(body):
        return (200, b"{") if body["seed"] == 1 else server.said("<answer>[]</answer>")

    server.answer = answer
    policy = ServerPolicy(server.address, "m", temperature=1.0)
    said = policy.act([Episode(toy[0]).observation()] * 3, [0, 1, 2])
    assert [s.text for s in said] == ["<answer>[]</answer>", "", "<answer>[]</answer>"]
    assert [s.failed.partition(": expected ")[2] for s in said] == [
        "",
        "a JSON object, got '{'",
        "",
    ]
    assert not said[1].truncated


def test_a_think_without_its_opening_tag_gets_it(server, toy):
    server.answer = lambda body: server.said("2 people.</think>\n\n<answer>[]</answer>")
    (got,) = ServerPolicy(server.address, "m").act([Episode(toy[0]).observation()], [0])
    assert got.text == "<think>2 people.</think>\n\n<answer>[]</answer>"
