from __future__ import annotations

import asyncio
import http.client
import importlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Barrier, Thread, current_thread
from types import SimpleNamespace

import pytest

pytest.importorskip("openenv", reason="the openenv extra is not installed")

import uvicorn
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import connect

from dip_agents.adapters import Task
from dip_agents.adapters.openenv import CrowdAction, CrowdClient
from dip_agents.adapters.openenv import client as openenv_client
from dip_agents.adapters.openenv import server as openenv
from dip_agents.adapters.openenv import session as openenv_session
from dip_agents.runtime import optional as needs_module
from dip_env.episode import Episode
from dip_env.errors import ConfigError, SceneError
from dip_env.scenes import ToyScenes

ANSWER = "<think>one</think><answer>[[30,40,50,90]]</answer>"
LOOK = "<think>closer</think><look>[[8,8,60,70]]</look>"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def request(port, path, method="GET", body=None):
    """Ask for a path exactly as it is written, without the tidying of a URL library."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.putrequest(method, path)
    connection.putheader("Content-Length", str(len(body or b"")))
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(errors="replace")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server as it is started from the command line, with the rules of the parity suite."""
    from_conftest = {
        "view_size": 128, "crop_size": 64, "max_looks": 2, "max_regions": 2, "max_turns": 3,
    }  # fmt: skip
    port = free_port()
    words = ["--scenes", "toy", "--port", str(port), "--keywords", json.dumps(from_conftest)]
    # A page that shows one episode to everybody must stay off, whatever the surroundings say.
    surroundings = os.environ | {"ENABLE_WEB_INTERFACE": "true"}
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "dip_agents.adapters.openenv", *words],
            env=surroundings,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        for _ in range(600):
            try:
                assert request(port, "/health")[0] == 200
                break
            except ConnectionError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield SimpleNamespace(port=port, url=f"http://127.0.0.1:{port}", rules=from_conftest)
        assert process.poll() is None, log.read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def clients(server):
    """Two open sessions."""
    with ExitStack() as stack:
        yield [stack.enter_context(CrowdClient(server.url).sync()) for _ in range(2)]


@pytest.fixture
def raw(server):
    """A session that may send anything."""
    with connect(f"ws://127.0.0.1:{server.port}/ws", max_size=None) as socket_:

        def say(message):
            socket_.send(message if isinstance(message, str | bytes) else json.dumps(message))
            return json.loads(socket_.recv(timeout=20))

        yield say


@contextmanager
def serving(app):
    """Serve an app in this process; gives its port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_config=None)
    inner = uvicorn.Server(config)
    thread = Thread(target=inner.run)
    thread.start()
    try:
        while not inner.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield config.port
    finally:
        inner.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()


def at_once(*workers):
    """Run functions in threads of their own; each gets a barrier at which all meet."""
    barrier = Barrier(len(workers), timeout=20)
    with ThreadPoolExecutor(len(workers)) as pool:
        return [each.result() for each in [pool.submit(work, barrier.wait) for work in workers]]


def played(client, script, meet, parity, rounds, **start):
    """Play a script, each turn while the other client takes its own; return what came of it."""

    def seen(observation):
        assert observation.ambiguity == "annotation"
        assert observation.reward_terms is None
        return parity.shown(observation.text, observation.images)

    meet()
    result = client.reset(**start)
    assert result.reward is None and not result.done
    shown, reward, script = [seen(result.observation)], 0.0, list(script)
    for _ in range(rounds):
        meet()
        if result.done:
            continue
        result = client.step(CrowdAction(text=script.pop(0)))
        observation = result.observation
        assert (result.reward, result.done) == (observation.reward, observation.done)
        reward += result.reward
        if not result.done:
            assert result.reward == 0
            shown.append(seen(observation))
    assert observation.content == []
    return parity.Played(tuple(shown), reward, observation.reward_terms)


def test_two_clients_at_once_see_and_earn_what_two_episodes_do(parity, clients, server, seed):
    assert server.rules | {"scenes": "toy"} == parity.RULES
    task = Task(**parity.RULES)
    other = next(s for s in range(seed + 1, 99) if task.scene_of(s) != task.scene_of(seed))
    pairs = zip(parity.expected_alone(seed), parity.expected_alone(other)[::-1], strict=True)
    scripts = zip(parity.SCRIPTS, parity.SCRIPTS[::-1], strict=True)
    for expected, (mine, yours) in zip(pairs, scripts, strict=True):
        play = partial(played, parity=parity, rounds=max(len(mine), len(yours)))
        found = at_once(
            partial(play, clients[0], mine, seed=seed),
            partial(play, clients[1], yours, scene=task.scene_of(other)),
        )
        assert found == list(expected)


def test_images_stand_where_they_are_read(parity, clients):
    task = Task(**parity.RULES)
    clients[0].reset(scene=0)
    got = clients[0].step(CrowdAction(text=parity.SCRIPTS[0][0])).observation
    message = task.episode(0).step(parity.SCRIPTS[0][0]).message
    assert [part["type"] for part in got.content] == [
        "text" if isinstance(part, str) else "image_url" for part in message.parts
    ]
    assert [p["text"] for p in got.content if p["type"] == "text"] == [
        part for part in message.parts if isinstance(part, str)
    ]


def test_a_seed_fixes_the_scenes_of_all_later_episodes_and_errors_come_back(parity, clients):
    def scenes():
        client.reset(seed=7)
        found = [client.state().scene]
        for _ in range(6):
            client.reset()
            found.append(client.state().scene)
        return found

    client = clients[0]
    first = scenes()
    assert first == scenes() and len(set(first)) > 1
    assert first[0] == Task(**parity.RULES).scene_of(7)
    assert "expected" in client.step(CrowdAction(text="hm")).observation.parse_error
    assert "surrogate" in client.step(CrowdAction(text="\ud800")).observation.parse_error


def test_a_session_never_reaches_anothers_episode_whatever_name_it_sends(clients, raw):
    mine, yours = clients
    mine.reset(scene=0, episode_id="shared")
    yours.reset(scene=1, episode_id="shared")
    mine.step(CrowdAction(text=LOOK))
    assert (mine.state().scene, mine.state().step_count) == (0, 1)
    assert (yours.state().scene, yours.state().step_count) == (1, 0)
    assert raw({"type": "state"})["data"] == {
        "episode_id": None, "step_count": 0, "scene": None, "done": False,
    }  # fmt: skip
    step = {"text": ANSWER}
    for data in (step, step | {"metadata": {"episode_id": "shared", "session_id": "shared"}}):
        assert "expected a reset" in raw({"type": "step", "data": data})["data"]["message"]
    for extra in ({"episode_id": "shared"}, {"session_id": "shared"}):
        answer = raw({"type": "step", "data": step | extra})
        assert answer["data"]["code"] == "VALIDATION_ERROR"
    close = {"method": "openenv/session/close", "params": {"session_id": "shared"}}
    closed = raw({"type": "mcp", "data": close | {"jsonrpc": "2.0", "id": 1}})
    assert "Unknown session_id" in closed["data"]["error"]["message"]
    assert yours.step(CrowdAction(text=ANSWER)).done
    assert (mine.state().step_count, mine.state().done) == (1, False)
    assert mine.step(CrowdAction(text=ANSWER)).done


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"root": "/etc"}, "expected seed, episode_id or scene, got 'root'"),
        ({"scenes": "coco"}, "expected seed, episode_id or scene, got 'scenes'"),
        ({"source_kwargs": {"images": "/etc"}}, "got 'source_kwargs'"),
        ({"view_size": 4096}, "got 'view_size'"),
        ({"options": {"scene": 1}}, "got 'options'"),
        ({"scene": "../../etc/passwd"}, "scene: expected an integer or None, got str"),
        ({"scene": True}, "scene: expected an integer or None, got bool"),
        ({"scene": 1.0}, "scene: expected an integer or None, got float"),
        ({"scene": ["/etc/passwd"]}, "scene: expected an integer or None, got list"),
        ({"scene": 4}, "expected 0..3, got 4"),
        ({"scene": -1}, "expected 0..3, got -1"),
        ({"seed": "/etc/passwd"}, "[Ss]eed"),
        ({"seed": -1}, "[Ss]eed"),
        ({"episode_id": 3}, "Invalid message"),
        ({"episode_id": "x" * 300}, "Invalid message"),
    ],
)
def test_a_client_chooses_nothing_but_a_seed_or_a_scene(clients, wanted, message):
    client = clients[0]
    client.reset(scene=2, episode_id="before")
    with pytest.raises(RuntimeError, match=message):
        client.reset(**wanted)
    assert client.state().model_dump() == {
        "episode_id": "before", "step_count": 0, "scene": 2, "done": False,
    }  # fmt: skip


def test_malformed_bodies_are_the_senders_error_and_leave_the_other_session_alive(clients, server):
    other = clients[0]
    other.reset(scene=0)
    bodies = [
        ("{", "INVALID_JSON"),
        ({"type": "fly"}, "UNKNOWN_TYPE"),
        ({"type": "step"}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"text": 3}}, "VALIDATION_ERROR"),
        ({"type": "step", "data": {"text": ["a"], "more": 1}}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": [1]}, "VALIDATION_ERROR"),
        ({"type": "reset", "data": {"self": 1}}, "EXECUTION_ERROR"),
        ({"type": "reset", "data": {"session_id": "x"}}, "EXECUTION_ERROR"),
        ({"type": "step", "data": {"text": "before the reset"}}, "EXECUTION_ERROR"),
        ([1, 2], "SESSION_ERROR"),
        ("7", "SESSION_ERROR"),
        (b"\x00\xff", "SESSION_ERROR"),
    ]
    for body, code in bodies:
        with connect(f"ws://127.0.0.1:{server.port}/ws") as socket_:
            socket_.send(body if isinstance(body, str | bytes) else json.dumps(body))
            answer = json.loads(socket_.recv(timeout=20))
        assert (answer["type"], answer["data"]["code"]) == ("error", code), body
    assert other.step(CrowdAction(text=ANSWER)).done
    with pytest.raises(RuntimeError, match="has ended"):
        other.step(CrowdAction(text=ANSWER))


def test_every_route_is_listed_and_known(parity):
    app = openenv.make_app(Task(**parity.RULES))
    kinds = sorted((type(route).__name__, route.path) for route in app.router.routes)
    assert kinds == [
        ("APIRoute", "/health"),
        ("APIRoute", "/metadata"),
        ("APIRoute", "/schema"),
        ("APIWebSocketRoute", "/ws"),
    ]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/../../../../../../etc/passwd",
        "/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/ws/../../../etc/passwd",
        "/web",
        "/web/",
        "/web/../../../../etc/passwd",
        "/web/file=/etc/passwd",
        "/web/gradio_api/file=/etc/passwd",
        "/gradio_api/file=/etc/passwd",
        "/static/../../etc/passwd",
        "/schema/../../../etc/passwd",
        "/docs",
        "/openapi.json",
        "/state",
        "/reset",
        "/step",
        "/mcp",
    ],
)
def test_no_path_serves_a_file_or_a_foreign_route(server, method, path):
    status, body = request(server.port, path, method, b'{"seed": 0}' if method == "POST" else None)
    assert status == 404 and "root:" not in body


def test_what_the_server_says_about_itself_names_no_folder(server):
    for path in ("/health", "/metadata", "/schema"):
        status, body = request(server.port, path)
        assert status == 200 and os.getcwd() not in body and "site-packages" not in body


def test_a_full_server_refuses_one_more_and_takes_another_when_one_has_left(
    parity, caplog, monkeypatch
):
    started = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **how: started.update(how, app=app))
    words = ["--scenes", "toy", "--max-sessions", "1"]
    monkeypatch.setattr(sys, "argv", ["openenv", *words])
    openenv.main()

    def refusal():
        with connect(f"ws://127.0.0.1:{port}/ws") as socket_:
            try:
                return json.loads(socket_.recv(timeout=0.5))["data"]["code"]
            except TimeoutError:
                return None

    with serving(started["app"]) as port:
        with CrowdClient(f"http://127.0.0.1:{port}").sync() as first:
            first.reset(scene=0)
            assert refusal() == "CAPACITY_REACHED"
            first.step(CrowdAction(text=LOOK))
        deadline = time.monotonic() + 20
        while refusal() is not None:
            assert time.monotonic() < deadline
    # A client that leaves in the middle is no error of the server.
    assert [record.message for record in caplog.records if record.exc_info] == []


def test_a_client_that_leaves_while_it_is_answered_is_no_error_of_the_server(parity):
    app = openenv.make_app(Task(**parity.RULES))
    scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b""}
    received = [{"type": "websocket.receive", "text": '{"type": "state"}'}]
    received.insert(0, {"type": "websocket.connect"})
    sent = []

    async def receive():
        return received.pop(0)

    async def send(message):
        sent.append(message["type"])
        if message["type"] == "websocket.send":
            raise OSError  # as a web server says that nobody listens any more

    asyncio.run(app(scope, receive, send))
    assert sent == ["websocket.accept", "websocket.send"]


def test_another_error_of_a_connection_is_raised():
    with pytest.raises(RuntimeError, match="a fault"):
        asyncio.run(openenv._let_leave(SimpleNamespace(), RuntimeError("a fault")))


def test_all_sessions_read_the_source_from_one_thread():
    readers = set()

    class WatchedScenes(ToyScenes):
        def __getitem__(self, index):
            readers.add(current_thread().name)
            return ToyScenes.__getitem__(self, index)

    def read(meet):
        with CrowdClient(f"http://127.0.0.1:{port}").sync() as client:
            for scene in range(4):
                meet()
                client.reset(scene=scene)
        return current_thread().name

    with serving(openenv.make_app(Task(WatchedScenes()))) as port:
        names = at_once(read, read)
    assert len(set(names)) == 2 and len(readers) == 1


def test_a_scene_that_cannot_be_read_is_in_the_log_and_its_path_is_not_the_clients(
    parity, monkeypatch, caplog
):
    path = "/srv/private/0003.jpg: image file is missing"

    class SpoiledScenes(ToyScenes):
        def __getitem__(self, index):
            if index >= 2:
                raise (SceneError if index == 3 else FileNotFoundError)(path)
            return ToyScenes.__getitem__(self, index)

    def cut(self, regions):
        raise OSError(path)

    task = Task(**parity.RULES | {"scenes": SpoiledScenes()})
    with (
        serving(openenv.make_app(task)) as port,
        CrowdClient(f"http://127.0.0.1:{port}").sync() as client,
    ):
        client.reset(scene=1)
        calls = [lambda: client.reset(scene=2), lambda: client.reset(scene=3)]
        calls.append(lambda: client.step(CrowdAction(text=LOOK)))
        monkeypatch.setattr(Episode, "cut", cut)
        for call, scene in zip(calls, (2, 3, 1), strict=True):
            caplog.clear()
            with pytest.raises(RuntimeError) as caught:
                call()
            said = f"scene {scene} cannot be read; the server's log says why"
            assert str(caught.value) == f"Server error: {said} (code: EXECUTION_ERROR)"
            assert f"scene {scene} cannot be read" in caplog.text and path in caplog.text
        assert (client.state().scene, client.state().step_count) == (1, 0)
        assert client.step(CrowdAction(text=ANSWER)).done


def test_an_endless_text_costs_a_turn_and_is_not_kept(parity):
    session = openenv_session.CrowdEnvironment(Task(**parity.RULES))
    session.reset(scene=0)
    last = session.step(CrowdAction(text="a" * 10**6))
    assert "expected at most 65536 characters in an action" in last.parse_error
    assert session.state.step_count == 1
    kept = [message.text for message in session._episode.transcript]
    assert sum(map(len, kept)) < 2**17


def test_the_longest_action_fits_in_a_message_and_a_longer_message_ends_the_session(raw, server):
    raw({"type": "reset", "data": {"scene": 0}})
    answer = raw({"type": "step", "data": {"text": "\U0001f600" * 65536}})
    assert "at character 0: expected <think>" in answer["data"]["observation"]["parse_error"]
    with connect(f"ws://127.0.0.1:{server.port}/ws") as other:
        with pytest.raises(ConnectionClosedError) as closed:
            other.send("a" * (openenv.MAX_MESSAGE_BYTES + 1))
            other.recv(timeout=20)
        assert closed.value.rcvd.code == 1009
    assert raw({"type": "state"})["data"]["step_count"] == 1


def test_special_tokens_that_the_policy_spells_out_are_quoted_harmless(clients):
    clients[0].reset(scene=0)
    said = clients[0].step(CrowdAction(text="<|image_pad|><|im_end|>")).observation
    assert "got '< |image_pad|>< |im_end|>'" in said.text and "<|" not in said.text


@pytest.mark.parametrize("module", [openenv, openenv_client, openenv_session])
def test_without_the_library_the_module_names_the_install_line(monkeypatch, module):
    monkeypatch.setattr(needs_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[openenv\]"'):
        importlib.reload(module)


def test_the_server_needs_no_torch():
    code = "import sys, dip_agents.adapters.openenv.server; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_readme_plays_an_episode_as_it_is_written(server):
    readme = Path(__file__).parents[4] / "README.md"
    (code,) = re.findall(
        r"```python\n( *from dip_agents.adapters.openenv import.*?)```",
        readme.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    names = {}
    exec(textwrap.dedent(code).replace("http://127.0.0.1:8000", server.url), names)
    assert names["first"].images and "Find every person" in names["first"].text
    assert names["last"].done and names["last"].reward_terms["format"] == 0
