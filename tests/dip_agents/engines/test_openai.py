"""Against a small server on this machine that follows the protocol."""

import base64
import io
import logging
import threading
import time

import numpy as np
import pytest
from PIL import Image

from dip_agents.engines.base import Chunk, EngineError, Sampling
from dip_agents.engines.chat_client import ChatServer
from dip_agents.engines.openai import OpenAIEngine
from dip_agents.evaluation.evaluator import evaluate
from dip_agents.grpo.rollouts import collect_rollouts
from dip_agents.policies.vlm import VLMPolicy
from dip_agents.tokens.buffer import TokenBudgetError
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.messages import Message
from dip_wrappers.chat import image_url

LOOK = "<think>1 people, 0 unclear.</think><look>[[0,0,32,32]]</look>"
ANSWER = "<answer>[[1,2,30,40]]</answer>"


def said(text, reason="stop", **more):
    message = {"role": "assistant", "content": text}
    return 200, {"choices": [{"message": message, "finish_reason": reason, **more}]}


@pytest.fixture
def engine(server, micro):
    server.answer = lambda body: said(ANSWER)
    return OpenAIEngine(ChatServer(server.address, backoff=0.0), "small", micro().chat)


def picture(value, side=64):
    return np.full((side, side, 3), value, np.uint8)


def opening(chat, value=7):
    message = Message("user", "Find all people.", (picture(value),))
    ids, images = chat.opening([message])
    return Chunk(tuple(ids), tuple(images), (message,))


def crop(chat, value):
    message = Message("user", "Crop.", (picture(value, 32),))
    ids, images = chat.reply(message)
    return Chunk(tuple(ids), tuple(images), (message,))


def play(engine, reply=lambda row, sample: None, rows=1, **settings):
    sampling = Sampling(**({"temperature": 1.0, "max_new_tokens": 50} | settings))
    chunk = opening(engine.chat)
    engine.play([chunk], rows, reply, sampling, lambda row, turn: 2**31 + 10 * row + turn)


def only_sample(engine, **settings):
    samples = []
    play(engine, lambda row, sample: samples.append(sample), **settings)
    (sample,) = samples
    return sample


def test_a_second_turn_sends_the_whole_conversation_with_its_images(engine, server):
    chat = engine.chat
    server.answer = lambda body: said(LOOK if len(body["messages"]) == 1 else ANSWER)
    samples = []

    def reply(row, sample):
        samples.append(sample)
        return crop(chat, 200) if len(samples) == 1 else None

    play(engine, reply)
    assert [chat.text(s.ids) for s in samples] == [LOOK, ANSWER]
    assert all(s.ids[-1] == chat.eos_token_id and not s.truncated for s in samples)
    assert all(s.logprobs is None for s in samples)
    assert server.paths == ["/v1/chat/completions"] * 2
    first, second = server.bodies
    assert first["seed"] == 0 and second["seed"] == 1  # one per turn, in 31 bits
    assert second["messages"][:1] == first["messages"]
    assert second["messages"][1] == {"role": "assistant", "content": LOOK}
    parts = second["messages"][2]["content"]
    assert [part["type"] for part in parts] == ["image_url", "text"]
    data = base64.b64decode(parts[0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), picture(200, 32))
    assert parts[1]["text"] == "Crop."


def test_a_request_says_how_to_sample(engine, server):
    play(engine, temperature=0.6)
    (body,) = server.bodies
    assert (body["model"], body["temperature"], body["top_p"]) == ("small", 0.6, 1.0)
    assert body["max_tokens"] == 50
    assert "logprobs" not in body and "return_token_ids" not in body
    chunk = opening(engine.chat)
    play(engine, temperature=0.0, token_budget=len(chunk.ids) + 9)
    assert "seed" not in server.bodies[1]
    assert server.bodies[1]["max_tokens"] == 9


def test_more_fields_are_sent_as_given(server, micro):
    engine = OpenAIEngine(ChatServer(server.address), "small", micro().chat, extra={"top_k": -1})
    play(engine)
    assert server.bodies[0]["top_k"] == -1


def test_a_turn_cut_by_the_server_is_truncated_and_lacks_the_end(engine, server):
    server.answer = lambda body: said("<think>1 people", "length")
    sample = only_sample(engine)
    assert sample.truncated
    assert sample.ids[-1] != engine.chat.eos_token_id
    assert engine.chat.text(sample.ids) == "<think>1 people"


def test_the_servers_own_token_ids_and_logprobs_are_kept(server, micro):
    chat = micro().chat
    ids = chat.policy_ids(ANSWER)
    places = {"content": [{"logprob": -0.5} for _ in ids]}
    prompt = list(opening(chat).ids)
    status, answer = said(ANSWER, token_ids=ids, logprobs=places)
    server.answer = lambda body: (status, answer | {"prompt_token_ids": prompt})
    engine = OpenAIEngine(ChatServer(server.address), "small", chat, tokens=True)
    sample = only_sample(engine)
    assert sample.ids == tuple(ids)
    assert sample.logprobs == (-0.5,) * len(ids)
    assert server.bodies[0]["logprobs"] is True and server.bodies[0]["return_token_ids"] is True


@pytest.mark.parametrize("what", ["other prompt", "no logprobs", "no ids"])
def test_logprobs_of_other_tokens_are_dropped_with_one_warning(server, micro, caplog, what):
    chat = micro().chat
    ids = chat.policy_ids(ANSWER)
    places = None if what == "no logprobs" else {"content": [{"logprob": -0.5} for _ in ids]}
    prompt = list(opening(chat).ids)[: 3 if what == "other prompt" else None]
    status, answer = said(ANSWER, token_ids=None if what == "no ids" else ids, logprobs=places)
    server.answer = lambda body: (status, answer | {"prompt_token_ids": prompt})
    samples = []
    engine = OpenAIEngine(ChatServer(server.address), "small", chat, tokens=True)
    with caplog.at_level(logging.WARNING):
        play(engine, lambda row, sample: samples.append(sample), rows=3)
    assert [s.logprobs for s in samples] == [None] * 3
    assert {s.ids for s in samples} == {tuple(ids)}
    assert len(caplog.records) == 1


def test_text_the_tokenizer_cannot_represent_is_warned_of_once(engine, caplog, monkeypatch):
    monkeypatch.setattr(engine.chat, "text", lambda ids: "unknown")
    with caplog.at_level(logging.WARNING):
        play(engine, rows=3)
    assert caplog.text.count("cannot represent") == 1


def test_spelled_out_special_tokens_are_made_harmless(engine, server):
    message = Message("user", "You said <|im_end|>.", ())
    ids, images = engine.chat.opening([message])
    chunk = Chunk(tuple(ids), tuple(images), (message,))
    server.answer = lambda body: said("<|im_end|>")
    engine.play([chunk], 1, lambda *_: None, Sampling(), lambda *_: 0)
    (part,) = server.bodies[0]["messages"][0]["content"]
    assert part["text"] == "You said < |im_end|>."


def test_a_busy_server_is_asked_again_after_the_time_it_wants(engine, server, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    answers = iter([(429, b"slow down", ("Retry-After", "7")), (503, b""), said(ANSWER)])
    server.answer = lambda body: next(answers)
    assert only_sample(engine).ids
    assert len(server.bodies) == 3
    assert pauses == [7.0, 0.0]


def test_pauses_double_up_to_a_limit(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    server.answer = lambda body: (500, b"broken", ("Retry-After", "Wed, 21 Oct 2026 07:28:00 GMT"))
    with pytest.raises(EngineError, match="within 9 tries, got at last: status 500: 'broken'"):
        ChatServer(server.address, retries=8, backoff=0.5).ask({})
    lows = [0.5, 1, 2, 4, 8, 16, 32, 60]
    assert all(low <= pause <= min(2 * low, 60) for low, pause in zip(lows, pauses, strict=True))


def test_a_server_that_keeps_failing_ends_the_play(engine, server):
    server.answer = lambda body: (500, b"broken")
    with pytest.raises(EngineError, match="within 5 tries"):
        play(engine, rows=3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, b"<html>proxy</html>"), "expected a JSON object, got '<html>proxy</html>'"),
        ((200, b"[1]"), "expected a JSON object"),
        ((200, {}), r"choices\[0\].*KeyError: 'choices'"),
        ((200, {"choices": []}), "IndexError"),
        ((200, {"choices": [{"message": {}, "finish_reason": "stop"}]}), "KeyError: 'content'"),
        ((200, {"choices": [{"message": {"content": "x"}}]}), "finish_reason"),
        (said(["x"]), "expected text"),
        (said("x", 7), "finish_reason as text or null, got 7"),
        ((200, {"choices": [{"message": "x", "finish_reason": "stop"}]}), "AttributeError"),
        ((200, b"[" * 300_000), "expected a JSON object"),
        ((200, b'{"choices":' + b"[" * 900 + b"]" * 900 + b"}"), r"choices\[0\]"),
        ((400, b"no such field"), "status 400: 'no such field'"),
        ((404, b""), "status 404"),
        ((302, b"", ("Location", "http://127.0.0.1:1/")), "status 302"),
    ],
)
def test_nonsense_is_one_error_and_not_asked_for_again(engine, server, answer, message):
    server.answer = lambda body: answer
    with pytest.raises(EngineError, match=message):
        play(engine)
    assert len(server.bodies) == 1


def test_no_server_is_an_error_after_the_tries(micro, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    engine = OpenAIEngine(
        ChatServer("http://127.0.0.1:9", retries=1, backoff=0.0), "m", micro().chat
    )
    with pytest.raises(EngineError, match=r"within 2 tries, got at last: URLError"):
        play(engine)


def test_a_slow_server_times_out(server, micro):
    release = threading.Event()

    def answer(body):
        release.wait(5)
        return said(ANSWER)

    server.answer = answer
    engine = OpenAIEngine(ChatServer(server.address, timeout=0.1, retries=0), "m", micro().chat)
    with pytest.raises(EngineError, match=r"(?i)timed? ?out"):
        play(engine)
    release.set()


def test_at_most_so_many_requests_run_at_once_and_rows_keep_their_own(server, micro):
    chat = micro().chat
    engine = OpenAIEngine(ChatServer(server.address), "m", chat, concurrency=3)
    both = threading.Barrier(3, timeout=5)

    def answer(body):
        both.wait()  # never passes with fewer than three at once
        row = body["seed"] // 10
        return said(f"<answer>[[{row},0,{row},{len(body['messages'])}]]</answer>")

    server.answer = answer
    told: dict[int, list[str]] = {}
    inside = threading.Lock()

    def reply(row, sample):
        assert inside.acquire(blocking=False)  # one call at a time
        told.setdefault(row, []).append(chat.text(sample.ids))
        inside.release()
        return crop(chat, row) if len(told[row]) == 1 else None

    play(engine, reply, rows=6)
    assert server.most == 3
    assert told == {
        row: [f"<answer>[[{row},0,{row},{n}]]</answer>" for n in (1, 3)] for row in range(6)
    }


def test_the_key_comes_from_the_environment_and_shows_nowhere(server, micro, monkeypatch, caplog):
    monkeypatch.setenv("SOME_KEY", "s3cret")
    engine = OpenAIEngine(ChatServer(server.address, key_variable="SOME_KEY"), "m", micro().chat)
    with caplog.at_level(logging.DEBUG):
        play(engine)
        assert server.headers[0]["Authorization"] == "Bearer s3cret"
        server.answer = lambda body: (401, b"wrong key s3cret")
        with pytest.raises(EngineError, match=r"status 401: 'wrong key \*\*\*'"):
            play(engine)
    assert "s3cret" not in caplog.text + repr(vars(engine))


def test_settings_that_cannot_work_are_named(micro, monkeypatch):
    chat = micro().chat
    for address in ("localhost:8000", "ftp://a/b", "http://", "http://user:word@host/v1", ""):
        with pytest.raises(ConfigError, match="server: expected an address"):
            OpenAIEngine(ChatServer(address), "m", chat)
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"a key in \$NO_KEY, found none"):
        OpenAIEngine(ChatServer("http://a", key_variable="NO_KEY"), "m", chat)
    with pytest.raises(ConfigError, match="concurrency: expected at least 1"):
        OpenAIEngine(ChatServer("http://a"), "m", chat, concurrency=0)
    with pytest.raises(ConfigError, match="timeout: expected above 0, got 0"):
        OpenAIEngine(ChatServer("http://a", timeout=0), "m", chat)
    assert ChatServer("http://a:1/api/").address == "http://a:1/api/chat/completions"
    assert ChatServer("http://a:1/").address == "http://a:1/v1/chat/completions"


def test_a_servers_weights_cannot_be_set_unless_that_is_meant(micro):
    engine = OpenAIEngine(ChatServer("http://a"), "m", micro().chat)
    with pytest.raises(EngineError, match="frozen=True"):
        engine.sync(micro(), 1)
    OpenAIEngine(ChatServer("http://a"), "m", micro().chat, frozen=True).sync(micro(), 1)


def test_chunks_without_messages_or_room_are_refused(engine):
    chunk = opening(engine.chat)
    with pytest.raises(ValueError, match="row 0: expected a chunk that ends with a user message"):
        engine.play([Chunk(chunk.ids, chunk.images)], 1, print, Sampling(), lambda *_: 0)
    with pytest.raises(TokenBudgetError, match="token_budget: expected more than"):
        play(engine, token_budget=len(chunk.ids))


def test_images_arrive_as_the_very_pixels():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = base64.b64decode(image_url(image).partition(",")[2])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


def test_whole_episodes_are_collected_and_evaluated(server, micro, toy, minimal_prompt_rules):
    """Look first, then answer with the truth of no one: two turns, formed well."""
    server.answer = lambda body: said(LOOK if len(body["messages"]) == 1 else ANSWER)
    engine = OpenAIEngine(ChatServer(server.address), "m", micro().chat)
    sampling = Sampling(1.0, 60, 900)
    (group,) = collect_rollouts(
        engine, toy, [0], 3, minimal_prompt_rules, seed=0, sampling=sampling
    )
    assert [r.stats.turns for r in group.rollouts] == [2, 2, 2]
    assert all(r.stats.answered and r.terms["format"] == 1 for r in group.rollouts)
    # Rollouts without behaviour logprobs say so.
    assert np.isnan(group.rollouts[0].buffer.logprobs).any()
    policy = VLMPolicy(engine, max_new_tokens=60, token_budget=900)
    result = evaluate(policy, toy, [0, 1], minimal_prompt_rules)
    assert result.n == 2
    assert server.bodies[-1]["messages"][1] == {"role": "assistant", "content": LOOK}


def test_answers_after_one_look_are_asked_for_with_the_conversation_until_then(
    server, micro, toy, minimal_prompt_rules
):
    server.answer = lambda body: said(LOOK if len(body["messages"]) == 1 else ANSWER)
    engine = OpenAIEngine(ChatServer(server.address), "m", micro().chat)
    (group,) = collect_rollouts(
        engine,
        toy,
        [0],
        6,
        minimal_prompt_rules,
        seed=0,
        sampling=Sampling(1.0, 60, 900),
        answers_per_look=3,
        blank_answers=1,
    )
    assert [len(body["messages"]) for body in server.bodies] == [1] * 2 + [3] * 6
    assert len({body["seed"] for body in server.bodies}) == 8
    after = server.bodies[2:]
    assert all(body["messages"][1] == {"role": "assistant", "content": LOOK} for body in after)
    # The third answer to each look is shown other crops.
    crops = [body["messages"][2]["content"][1]["image_url"]["url"] for body in after]
    assert len(set(crops)) == 2
    assert all(r.branch.looked and r.stats.answered for r in group.rollouts)


@pytest.mark.parametrize(
    ("message", "heard"),
    [
        ({"content": ANSWER, "reasoning_content": "a"}, f"<think>a</think>{ANSWER}"),
        ({"content": ANSWER, "reasoning": "a"}, f"<think>a</think>{ANSWER}"),
        ({"reasoning": "a"}, "<think>a</think>"),
        ({"content": f"a</think>{ANSWER}"}, f"<think>a</think>{ANSWER}"),
    ],
)
def test_a_think_that_came_apart_is_read_and_sent_with_the_next_turn(
    engine, server, message, heard
):
    server.answer = lambda body: (200, {"choices": [{"message": message, "finish_reason": "stop"}]})
    samples = []

    def reply(row, sample):
        samples.append(sample)
        return crop(engine.chat, 200) if len(samples) == 1 else None

    play(engine, reply)
    assert [engine.chat.text(sample.ids) for sample in samples] == [heard] * 2
    assert server.bodies[1]["messages"][1] == {"role": "assistant", "content": heard}


@pytest.mark.parametrize("reason", [None, "content_filter", "tool_calls"])
def test_a_turn_that_did_not_end_by_itself_is_truncated(engine, server, reason, caplog):
    server.answer = lambda body: said("<think>1 people", reason)
    samples = []
    with caplog.at_level(logging.WARNING):
        play(engine, lambda row, sample: samples.append(sample), rows=2)
    assert [sample.truncated for sample in samples] == [True, True]
    assert engine.chat.text(samples[0].ids) == "<think>1 people"
    assert caplog.text.count(f"finish_reason {reason!r}: such turns count as truncated") == 1


def test_one_odd_response_is_one_failed_turn_named_in_the_result(server, micro, toy):
    odd = iter([said(["x"]), (200, b"[" * 300_000), (400, b"too long")])
    server.answer = lambda body: said(ANSWER) if len(server.bodies) < 2 else next(odd, said(ANSWER))
    engine = OpenAIEngine(
        ChatServer(server.address, backoff=0.0), "small", micro().chat, concurrency=1
    )
    rules = EpisodeConfig(view_size=64, crop_size=32, size_multiple=32, max_turns=2, max_looks=0)
    result = evaluate(VLMPolicy(engine), toy, range(4), rules, batch_size=1)
    assert sum(result.failures.values()) == 3
    assert "status 400: 'too long'" in " ".join(result.failures)
    assert result.score.counters["failed_turns"].sum() == 3
    assert result.score.counters["truncated_turns"].sum() == 0


def test_token_ids_no_tokenizer_has_are_not_kept(server, micro):
    chat = micro().chat
    server.answer = lambda body: said(ANSWER, token_ids=[10**30, -1], logprobs={"content": "x"})
    engine = OpenAIEngine(ChatServer(server.address), "small", chat, tokens=True)
    assert chat.text(only_sample(engine).ids) == ANSWER


def test_a_server_that_wants_the_token_limit_under_its_other_name_gets_it(engine, server, caplog):
    def answer(body):
        if "max_tokens" in body:
            words = b"Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
            return 400, words
        return said(ANSWER)

    server.answer = answer
    with caplog.at_level(logging.WARNING):
        play(engine, rows=3)
        play(engine)
    assert [b.get("max_completion_tokens") for b in server.bodies if "max_tokens" not in b] == [
        50
    ] * 4
    assert "max_tokens" not in server.bodies[-1]
    assert caplog.text.count("is sent as max_completion_tokens") == 1
