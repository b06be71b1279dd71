"""A slice of the attack on the OpenEnv server, and servers that must not pass it."""

import traceback

import numpy as np
import pytest

pytest.importorskip("openenv", reason="the openenv extra is not installed")

from tests.attacks import _openenv_server as world
from tests.attacks import openenv_messages as messages

from dip_agents.adapters.openenv.session import CrowdEnvironment


def failures_of(monkeypatch, kinds, tries):
    monkeypatch.setattr(messages, "KINDS", {kind: messages.KINDS[kind] for kind in kinds})
    found = messages.attack(np.random.default_rng(0), tries)
    return [failure for _, failures in found.values() for failure in failures]


def test_hostile_messages_are_refused_and_a_neighbour_plays_on():
    found = messages.attack(np.random.default_rng(0), 45)
    assert [failure for _, failures in found.values() for failure in failures] == []
    assert {kind: tries for kind, (tries, _) in found.items()} == dict.fromkeys(messages.KINDS, 5)


def test_a_state_that_sessions_share_is_found_out(monkeypatch):
    make, shared = CrowdEnvironment.__init__, {}

    def init(self, task):
        make(self, task)
        self.__dict__ = shared.setdefault(id(task), self.__dict__)

    monkeypatch.setattr(CrowdEnvironment, "__init__", init)
    assert "a neighbour got another answer" in " ".join(failures_of(monkeypatch, ["action"], 6))


def test_a_traceback_in_an_answer_is_found_out(monkeypatch):
    step = CrowdEnvironment.step

    def telling(self, *args):
        try:
            return step(self, *args)
        except Exception:
            raise RuntimeError(traceback.format_exc()) from None

    monkeypatch.setattr(CrowdEnvironment, "step", telling)
    assert "an answer tells 'Traceback" in " ".join(failures_of(monkeypatch, ["action"], 8))


def test_an_odd_seed_that_ends_the_episode_is_found_out(monkeypatch):
    reset = CrowdEnvironment.reset

    def forgetting(self, **chosen):
        self._state = self._state.model_copy(update={"scene": None})
        return reset(self, **chosen)

    monkeypatch.setattr(CrowdEnvironment, "reset", forgetting)
    assert "counted" in " ".join(failures_of(monkeypatch, ["odd values"], 12))


def test_sessions_that_do_not_end_are_found_out(monkeypatch):
    from openenv.core.env_server.http_server import HTTPEnvServer

    async def forget(self, session_id):
        pass

    monkeypatch.setattr(HTTPEnvServer, "_destroy_session", forget)
    monkeypatch.setattr(world, "LINGERING", 0.5)
    assert "no new session is possible" in " ".join(failures_of(monkeypatch, ["crowd"], 1))


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ('{"type": "state", "data": {"a": NaN}}', "NaN, which is not JSON"),
        ('{"type": "error", "data": {"message": "x", "code": "ODD"}}', "code 'ODD'"),
        (
            '{"type": "error", "data": {"message": "a.py", "code": "UNKNOWN_TYPE"}}',
            "tells '.py'",
        ),
        ('{"type": "observation", "data": {"reward": 7}}', "reward 7"),
        ("[]", "no object"),
        (b"{}", "in bytes"),
    ],
)
def test_an_answer_outside_the_protocol_is_found_out(answer, told):
    with pytest.raises(AssertionError, match=told):
        world.check_answer(answer)
