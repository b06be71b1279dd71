from __future__ import annotations

import asyncio
import base64
import importlib
import io
import sys
from contextlib import asynccontextmanager
from threading import Event, current_thread
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("verifiers", reason="the verifiers extra is not installed")

import verifiers.v1 as vf
from aiohttp import web

from dip_agents.adapters import Task
from dip_agents.adapters.verifiers import env as verifiers
from dip_agents.adapters.verifiers import harness as verifiers_harness
from dip_agents.adapters.verifiers.harness import last_action
from dip_agents.runtime import optional as needs_module
from dip_env.errors import ConfigError
from dip_env.group import EpisodeGroup
from dip_env.scenes import ToyScenes
from dip_wrappers.chat import PNG_PREFIX

SHIM = "from dip_agents.adapters.verifiers import CrowdEnv, CrowdHarness, CrowdTaskset, __all__\n"


@pytest.fixture
def build(parity, tmp_path, monkeypatch):
    """Build the environment as verifiers does, by the name of a module on the path."""
    (tmp_path / "dip_crowd.py").write_text(SHIM)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("verifiers.v1.runtimes.subprocess.CACHE_DIR", tmp_path / "cache")
    scenes, keywords = parity.RULES["scenes"], dict(parity.RULES)
    del keywords["scenes"]

    def environment(agent=None, taskset=None, **config):
        taskset = {"id": "dip-crowd", "scenes": scenes, "keywords": keywords} | (taskset or {})
        config |= {"taskset": taskset} | ({"agent": agent} if agent else {})
        return vf.load_environment(vf.resolve_env_config(config))

    yield environment
    sys.modules.pop("dip_crowd", None)


class Model:
    """A chat completions server whose k-th conversation says the k-th script."""

    def __init__(self, scripts):
        self.scripts = scripts
        self.seen = {}
        """The last conversation of each rollout, by the rollout's name."""

    async def complete(self, request):
        name, body = request.headers["X-Session-ID"], await request.json()
        self.seen[name] = body["messages"]
        script = list(self.seen).index(name)
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        if self.scripts[script] is None:
            return web.json_response({"error": {"message": "out of order"}}, status=400)
        message = {"role": "assistant", "content": self.scripts[script][turn]}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [choice],
            }
        )

    @asynccontextmanager
    async def serve(self):
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/v1/chat/completions", self.complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        finally:
            await runner.cleanup()


def play(env, scene, model, episodes=1, beside=None):
    """Play episodes on one scene through everything that verifiers does offline.

    What is to be done ``beside`` them runs in the same event loop.
    """

    async def run():
        other = asyncio.create_task(beside()) if beside else None
        (task,) = env.taskset.include(idx=[str(scene)])
        async with model.serve() as url, env.serving():
            client = vf.EvalClientConfig(base_url=url, api_key_var="NO_KEY_IS_NEEDED")
            context = vf.ModelContext(model="m", client=client)
            found = [await env.run_slot(slot, context) for slot in env.slots(task, episodes)]
            if other:
                await other
            return found

    return asyncio.run(run())


def image(url):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.removeprefix(PNG_PREFIX)))))


def shown(parity, message):
    parts = message["content"]
    return parity.shown(
        "".join(part["text"] for part in parts if part["type"] == "text"),
        [image(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"],
    )


def played(parity, trace, model):
    """What the model was sent, and the rewards of the trace."""
    messages = [m for m in model.seen[trace.id] if m["role"] == "user"]
    assert [m["role"] for m in model.seen[trace.id]] == ["user", "assistant"] * (
        len(messages) - 1
    ) + ["user"]
    assert [vf.UserMessage(**m) for m in messages] == [
        m for m in trace.messages if m.role == "user"
    ]
    return parity.Played(
        tuple(shown(parity, m) for m in messages), trace.reward, dict(trace.metrics)
    )


def test_an_episode_shows_and_rewards_what_an_episode_on_its_own_does(parity, build, seed):
    env, model = build(), Model(parity.SCRIPTS)
    scene = Task(**parity.RULES).scene_of(seed)
    episodes = play(env, scene, model, len(parity.SCRIPTS))
    assert all(episode.ok and len(episode.traces) == 1 for episode in episodes)
    traces = [episode.traces[0] for episode in episodes]
    assert [played(parity, trace, model) for trace in traces] == parity.expected_alone(seed)
    assert [trace.info for trace in traces] == [{"ambiguity": "annotation"}] * len(traces)


def test_attempts_of_one_episode_are_rewarded_by_what_their_siblings_saw(parity, build, seed):
    env, model = build(attempts=len(parity.SCRIPTS)), Model(parity.SCRIPTS)
    (episode,) = play(env, Task(**parity.RULES).scene_of(seed), model)
    assert episode.ok
    traces = {trace.id: trace for trace in episode.traces}
    found = [played(parity, traces[name], model) for name in model.seen]
    assert found == parity.expected_group(seed)
    assert all(trace.info == {"ambiguity": "siblings"} for trace in episode.traces)


def test_special_tokens_that_the_policy_spells_out_are_quoted_harmless(parity, build):
    model = Model([("<|image_pad|><|im_end|>", parity.SCRIPTS[1][0])])
    (episode,) = play(build(), 0, model)
    assert episode.ok
    (quoted,) = model.seen[episode.traces[0].id][-1]["content"]
    assert "got '< |image_pad|>< |im_end|>'" in quoted["text"] and "<|" not in quoted["text"]


def test_the_event_loop_goes_on_while_a_scene_is_made(parity, build):
    class SlowScenes(ToyScenes):
        asked, released = Event(), Event()

        def __getitem__(self, index):
            self.asked.set()
            assert self.released.wait(10), "the event loop stands still"
            return ToyScenes.__getitem__(self, index)

    async def release():
        while not SlowScenes.asked.is_set():
            await asyncio.sleep(0.01)
        SlowScenes.released.set()

    env, model = build(), Model(parity.SCRIPTS)
    env.taskset.crowd.source = SlowScenes()
    (episode,) = play(env, 0, model, beside=release)
    assert episode.ok


def test_all_work_of_the_environment_is_done_in_one_thread_beside_the_loop(
    parity, build, monkeypatch
):
    threads = set()

    def noted(work):
        def call(*given, **named):
            threads.add(current_thread().name)
            return work(*given, **named)

        return call

    monkeypatch.setattr(verifiers, "to_chat", noted(verifiers.to_chat))
    for name in ("__init__", "_move", "_score", "abandon"):
        monkeypatch.setattr(EpisodeGroup, name, noted(getattr(EpisodeGroup, name)))
    model = Model(parity.SCRIPTS)
    episodes = play(build(agent={"max_turns": 1}), 0, model, len(parity.SCRIPTS))
    assert all(episode.ok for episode in episodes)
    assert threads == {"dip_env_0"}


def test_images_stand_where_they_are_read(parity, build):
    env, model = build(), Model(parity.SCRIPTS)
    (episode,) = play(env, 0, model)
    sent = model.seen[episode.traces[0].id][-1]["content"]
    message = Task(**parity.RULES).episode(0).step(parity.SCRIPTS[0][0]).message
    assert [part["type"] for part in sent] == [
        "text" if isinstance(part, str) else "image_url" for part in message.parts
    ]


def test_an_attempt_that_a_limit_stops_is_scored_without_an_answer(parity, build):
    env, model = build(agent={"max_turns": 1}), Model(parity.SCRIPTS)
    (episode,) = play(env, 0, model)
    (trace,) = episode.traces
    assert trace.stop_condition == "max_turns" and trace.ok
    alone = Task(**parity.RULES).episode(0)
    alone.step(parity.SCRIPTS[0][0])
    turn = alone.abandon()
    assert (trace.reward, dict(trace.metrics)) == (turn.reward, turn.result.terms.as_dict())


def test_nobody_is_rewarded_when_the_model_fails_one_of_a_group(parity, build):
    env = build(attempts=3)
    model = Model((parity.SCRIPTS[0], None, parity.SCRIPTS[1]))
    (episode,) = play(env, 0, model)
    assert not episode.ok and "out of order" in str([t.errors for t in episode.traces])
    assert "expected 3 attempts that can be scored, 1 failed" in episode.last_error.message
    assert len(episode.traces) == 3 and all(not trace.rewards for trace in episode.traces)


def test_a_trace_holds_no_truth_but_the_index_of_its_scene(parity, build):
    (episode,) = play(build(), 1, Model(parity.SCRIPTS))
    data = episode.traces[0].task.data.model_dump(exclude_defaults=True)
    assert data == {"idx": 1, "name": "scene 1", "scene": 1}
    assert [m.role for m in episode.traces[0].messages] == ["user", "assistant"] * 2


def test_tasks_are_the_scenes_in_order_and_an_endless_source_is_never_listed(build):
    toy = build().taskset
    assert [task.data.scene for task in toy] == [0, 1, 2, 3] and toy.bounded
    assert sorted(task.data.scene for task in toy.shuffle(seed=3)) == [0, 1, 2, 3]
    endless = build(taskset={"scenes": "crowd", "keywords": {}}).taskset
    assert not endless.bounded
    assert [task.data.scene for task in endless.skip(5).take(2)] == [5, 6]
    with pytest.raises(ValueError, match="infinite"):
        endless.shuffle()


def test_an_unknown_rule_is_refused_when_the_scenes_are_opened(build):
    with pytest.raises(ConfigError, match="unknown keyword 'view'"):
        build(taskset={"keywords": {"view": 3}})


def test_by_default_nothing_is_rented_installed_or_executed(build):
    env = build()
    assert isinstance(env, verifiers.CrowdEnv)
    assert isinstance(env.config.agent.runtime, vf.SubprocessConfig)
    (harness,) = env._harnesses.values()
    assert isinstance(harness, verifiers_harness.CrowdHarness)
    assert not harness.EXECUTES_CODE and not harness.NEEDS_CONTAINER and not harness.SUPPORTS_MCP


@pytest.mark.parametrize(
    ("content", "reasoning", "reason", "text"),
    [
        (
            "<think>a</think><answer>[]</answer>",
            None,
            "stop",
            "<think>a</think><answer>[]</answer>",
        ),
        ("<answer>[]</answer>", "a", "stop", "<think>a</think><answer>[]</answer>"),
        ("<answer>[]</ans", "a", "length", "<think>a</think><answer>[]</ans"),
        (" kept ", None, "stop", " kept "),
        (None, "a", "stop", "<think>a</think>"),
        (None, "cut her", "length", "<think>cut her"),
        (None, None, "length", ""),
        ("a</think><answer>[]</answer>", None, "stop", "<think>a</think><answer>[]</answer>"),
        (
            "<answer>[]</answer>",
            "no <look>",
            "stop",
            "<think>no < look></think><answer>[]</answer>",
        ),
    ],
)
def test_a_think_that_a_server_moved_away_is_put_back(content, reasoning, reason, text):
    message = vf.AssistantMessage(content=content, reasoning_content=reasoning)
    call = SimpleNamespace(finish_reason=reason)
    assert last_action(SimpleNamespace(assistant_messages=[message], calls=[call])) == text


@pytest.mark.parametrize("module", [verifiers, verifiers_harness])
def test_without_the_library_the_module_names_the_install_line(monkeypatch, module):
    monkeypatch.setattr(needs_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[verifiers\]"'):
        importlib.reload(module)
