from __future__ import annotations

import http.client
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from threading import Thread
from types import SimpleNamespace

import pytest

pytest.importorskip("openenv", reason="the openenv extra is not installed")

import uvicorn
from openenv.core.sync_client import SyncEnvClient
from websockets.sync.client import connect

from dip_agents import needs as needs_module
from dip_agents.adapters import openenv, openenv_client
from dip_agents.adapters.openenv_client import CrowdAction, CrowdClient
from dip_agents.adapters.task import Task
from dip_env.errors import ConfigError

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


class Player:
    """Plays one script and remembers what was shown and paid."""

    def __init__(self, client: SyncEnvClient, script, parity, **start):
        self.client, self.script, self.parity = client, list(script), parity
        self.reward, self.terms, self.done = 0.0, None, False
        result = client.reset(**start)
        assert result.reward is None and not result.done
        self.shown = [self.seen(result.observation)]

    def seen(self, observation):
        assert observation.ambiguity == "annotation"
        assert observation.reward_terms is None
        return self.parity.shown(observation.text, observation.images)

    def step(self):
        result = self.client.step(CrowdAction(text=self.script.pop(0)))
        observation = result.observation
        assert (result.reward, result.done) == (observation.reward, observation.done)
        self.reward += result.reward
        self.done = result.done
        if self.done:
            assert observation.content == []
            self.terms = observation.reward_terms
        else:
            assert result.reward == 0
            self.shown.append(self.seen(observation))

    @property
    def played(self):
        return self.parity.Played(tuple(self.shown), self.reward, self.terms)


def test_two_clients_at_once_see_and_earn_what_two_episodes_do(parity, clients, server, seed):
    assert server.rules | {"scenes": "toy"} == parity.RULES
    task = Task(**parity.RULES)
    other = next(s for s in range(seed + 1, 99) if task.scene_of(s) != task.scene_of(seed))
    pairs = zip(parity.expected_alone(seed), parity.expected_alone(other)[::-1], strict=True)
    scripts = zip(parity.SCRIPTS, parity.SCRIPTS[::-1], strict=True)
    for expected, (mine, yours) in zip(pairs, scripts, strict=True):
        players = [
            Player(clients[0], mine, parity, seed=seed),
            Player(clients[1], yours, parity, scene=task.scene_of(other)),
        ]
        while not all(p.done for p in players):
            for player in players:
                if not player.done:
                    player.step()
        assert [p.played for p in players] == list(expected)


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


def test_a_full_server_refuses_one_more_and_takes_another_when_one_has_left(parity, caplog):
    app = openenv.make_app(Task(**parity.RULES), max_sessions=1)
    config = uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_config=None)
    inner = uvicorn.Server(config)
    thread = Thread(target=inner.run)
    thread.start()

    def refusal():
        with connect(f"ws://127.0.0.1:{config.port}/ws") as socket_:
            try:
                return json.loads(socket_.recv(timeout=0.5))["data"]["code"]
            except TimeoutError:
                return None

    try:
        while not inner.started:
            time.sleep(0.01)
        with CrowdClient(f"http://127.0.0.1:{config.port}").sync() as first:
            first.reset(scene=0)
            assert refusal() == "CAPACITY_REACHED"
            first.step(CrowdAction(text=LOOK))
        deadline = time.monotonic() + 20
        while refusal() is not None:
            assert time.monotonic() < deadline
    finally:
        inner.should_exit = True
        thread.join(timeout=20)
    assert not thread.is_alive()
    # A client that leaves in the middle is no error of the server.
    assert [record.message for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("module", [openenv, openenv_client])
def test_without_the_library_the_module_names_the_install_line(monkeypatch, module):
    monkeypatch.setattr(needs_module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[openenv\]"'):
        importlib.reload(module)


def test_the_server_needs_no_torch():
    code = "import sys, dip_agents.adapters.openenv; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
