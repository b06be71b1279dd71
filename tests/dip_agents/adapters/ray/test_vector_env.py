from __future__ import annotations

import importlib
import os
import re
import secrets
import signal
import sys
import time

import numpy as np
import pytest

pytest.importorskip("ray", reason="the ray extra is not installed")

import gymnasium as gym
import ray
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

import dip_env  # noqa: F401
from dip_agents.adapters.ray import (
    RayVectorEnv,
    WorkerDiedError,
    WorkersNotStartedError,
    WorkerTimeoutError,
)
from dip_agents.adapters.ray.workers import Workers
from dip_agents.runtime import optional as needs_module
from dip_env.errors import ConfigError, EpisodeOverError
from dip_env.scenes import ToyScenes

SPOILED = 3


@pytest.fixture
def spoiled():
    """Return toy scenes, one of which cannot be read; local, so that it travels by value."""

    class SpoiledScenes(ToyScenes):
        def __getitem__(self, index):
            if index == SPOILED:
                raise OSError("scene 3: the file is damaged")
            return ToyScenes.__getitem__(self, index)

    return SpoiledScenes()


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Ray would make one and keep it in the user's home.
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 * 2**20,
        )
        yield
        ray.shutdown()


@pytest.fixture(scope="module")
def environments(cluster):
    """Environments by autoreset mode, local and Ray's; actors take seconds to start."""
    made = {}
    yield made
    for env in (env for pair in made.values() for env in pair):
        env.close()


@pytest.fixture
def pair(parity, environments):
    """Return a function that gives the local environment and Ray's: 3 groups, 1 and 2 a worker."""

    def get(mode="NextStep"):
        if mode not in environments:
            size = len(parity.SCRIPTS)
            keywords = parity.RULES | {"num_envs": 3 * size, "group_size": size}
            keywords |= {"autoreset_mode": mode, "render_mode": "rgb_array"}
            local = gym.make_vec("DIPCrowd-v0", **keywords)
            environments[mode] = local, RayVectorEnv(num_workers=2, **keywords)
        return environments[mode]

    return get


def same(found, expected, where=""):
    """Assert that two results are equal down to types, shapes and bytes."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name in expected:
            same(found[name], expected[name], f"{where}/{name}")
    elif isinstance(expected, tuple | list):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            same(one, other, f"{where}/{i}")
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape), where
        if expected.dtype == object:
            same(found.tolist(), expected.tolist(), where)
        else:
            assert found.tobytes() == expected.tobytes(), where
    else:
        assert found == expected, where


def actions_of(parity, turn):
    """Return what the members of the groups say in a turn; those who are done say nothing."""
    return 3 * [script[turn] if turn < len(script) else None for script in parity.SCRIPTS]


def played(env, parity, turns=3, **reset):
    """Return all that an environment returns, from the reset on."""
    return [env.reset(**reset)] + [env.step(actions_of(parity, turn)) for turn in range(turns)]


def test_the_spaces_are_those_of_the_local_environment(pair):
    local, spread = pair()
    for name in (
        *("observation_space", "action_space", "single_observation_space", "single_action_space"),
        *("metadata", "num_envs", "group_size", "config", "render_mode"),
    ):
        assert getattr(spread, name) == getattr(local, name), name


def test_the_scripts_see_and_earn_what_they_do_in_the_local_environment(parity, seed, pair):
    local, spread = pair()
    found = played(spread, parity, seed=seed)
    same(found, played(local, parity, seed=seed))
    assert spread.observation_space.contains(found[0][0])
    _, _, terminations, truncations, _ = found[-1]
    assert (terminations ^ truncations).all()


def test_every_group_is_rewarded_as_a_group(parity, seed, pair):
    *_, (_, rewards, _, _, infos) = played(pair()[1], parity, seed=seed)
    expected = [member for p in range(3) for member in parity.expected_group(seed + p)]
    assert rewards.tolist() == [member.reward for member in expected]
    for name in ("format", "look", "accuracy"):
        terms = infos["reward_terms"][name].tolist()
        assert terms == [member.terms[name] for member in expected]


def test_crops_are_those_that_every_adapter_shows(parity, seed, pair):
    observations, *_, infos = played(pair()[1], parity, 1, seed=seed)[1]
    for p in range(3):
        images = parity.expected_alone(seed + p)[0].shown[1].images
        assert len(images) == 2
        for k, image in enumerate(images):
            width, height = infos["crop_sizes"][4 * p, k]
            crop = observations["crops"][4 * p, k, :height, :width]
            assert parity.shown("", [crop]).images == (image,)


def test_the_step_after_the_end_starts_the_same_new_scenes(parity, pair):
    runs = []
    for env in pair():
        run = played(env, parity, seed=[4, 5, 1])
        for turn in (None, 0, 1, 2, None):
            texts = [None] * 12 if turn is None else actions_of(parity, turn)
            run.append(env.step(texts))
        runs.append(run)
    same(*runs)
    assert not runs[0][4][2].any() and runs[0][7][1].any()


def test_without_autoreset_a_mask_restarts_groups_of_one_worker_only(parity, pair):
    local, spread = pair("Disabled")
    same(played(spread, parity, seed=0), played(local, parity, seed=0))
    refused(lambda env: env.step([None] * 12), local, spread, EpisodeOverError)
    last = np.repeat([False, False, True], 4)
    for options in (
        {"reset_mask": last},
        {"reset_mask": last, "scene": 2},
        {"reset_mask": ~last, "scene": [3, 1, 0]},
    ):
        same(spread.reset(options=options), local.reset(options=options))
    same(*(env.step(["<answer>[]</answer>"] * 12) for env in (spread, local)))


def test_render_shows_what_the_workers_play(parity, pair):
    local, spread = pair()
    for env in (local, spread):
        played(env, parity, 1, seed=0)
    same(spread.render(), local.render())


def refused(call, local, spread, error):
    """Assert that both refuse a call with the same error."""
    messages = []
    for env in (local, spread):
        with pytest.raises(error) as caught:
            call(env)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_a_wrong_call_is_refused_as_the_local_one_and_moves_no_worker(parity, pair):
    local, spread = pair()
    same(spread.reset(seed=0), local.reset(seed=0))
    wrong = actions_of(parity, 0)
    wrong[11] = 3
    for call, error in (
        (lambda env: env.step(wrong), TypeError),
        (lambda env: env.step(wrong[:3]), ValueError),
        (lambda env: env.step("what?"), TypeError),
        (lambda env: env.reset(options={"scenes": 1}), ConfigError),
        (lambda env: env.reset(options={"scene": [0, 1, 99]}), IndexError),
        (lambda env: env.reset(options={"scene": [0, 1]}), ConfigError),
        (lambda env: env.reset(seed=[0]), ConfigError),
        (lambda env: env.reset(options={"reset_mask": [True]}), ConfigError),
        (lambda env: env.reset(options={"reset_mask": np.arange(12) > 4}), ConfigError),
        (lambda env: env.reset(options={"reset_mask": np.zeros(12, bool)}), ConfigError),
    ):
        refused(call, local, spread, error)
    same(*(env.step(actions_of(parity, 0)) for env in (spread, local)))


def test_wrong_keywords_are_refused(parity):
    for workers in (0, 3):
        with pytest.raises(ConfigError, match=rf"num_workers: expected 1\.\.2, .*got {workers}"):
            RayVectorEnv(8, 4, num_workers=workers, **parity.RULES)
    with pytest.raises(ConfigError, match="multiple of group_size=4"):
        RayVectorEnv(6, 4, **parity.RULES)
    with pytest.raises(ConfigError, match="unknown keyword 'view'"):
        RayVectorEnv(8, 4, view=3)


@pytest.fixture
def killed(monkeypatch):
    """Actors that were killed, in order."""
    handles, kill = [], ray.kill
    monkeypatch.setattr(ray, "kill", lambda handle: handles.append(handle) or kill(handle))
    return handles


def test_workers_that_the_cluster_has_no_room_for_are_an_error_in_time(parity, killed):
    greedy = {"num_workers": 2, "actor_options": {"num_cpus": 2}, "start_timeout": 3}
    with pytest.raises(WorkersNotStartedError) as caught:
        RayVectorEnv(8, 4, **greedy, **parity.RULES)
    assert re.match(
        r"expected 2 workers to stand within 3 s, got [01]; each asks for {'num_cpus': 2}, and of "
        r"the cluster's resources {.*'memory': .*} are left: ",
        str(caught.value),
    )
    assert len(killed) == 2
    for handle in killed:
        wait_for_the_end(handle)
    with pytest.raises(ConfigError, match="start_timeout: expected seconds above 0, got 0"):
        RayVectorEnv(8, 4, start_timeout=0, **parity.RULES)


def test_no_worker_is_left_where_one_could_not_start(parity, killed):
    class HomelyScenes(ToyScenes):
        def __reduce__(self):
            return int, ("does not travel",)

    with pytest.raises(WorkerDiedError, match="does not travel"):
        RayVectorEnv(8, 4, num_workers=2, **parity.RULES | {"scenes": HomelyScenes()})
    assert len(killed) == 2


def wait_for_the_end(handle):
    """Wait until an actor is gone; Ray kills in the background."""
    with pytest.raises(ray.exceptions.RayActorError):
        for _ in range(100):
            ray.get(handle.ping.remote())
            time.sleep(0.1)


def test_a_worker_that_dies_is_named_and_close_ends_the_others(parity, spoiled):
    rules = parity.RULES | {"scenes": spoiled}
    env = RayVectorEnv(8, 4, num_workers=2, **rules)
    refused(
        lambda env: env.step([""] * 8), gym.make_vec("DIPCrowd-v0", 8, **rules), env, ResetNeeded
    )
    with pytest.raises(OSError, match="scene 3: the file is damaged"):
        env.reset(options={"scene": [0, SPOILED]})
    env.reset(options={"scene": 0})
    assert env.render() is None
    alive, killed = env.workers.handles
    ray.kill(killed)
    wait_for_the_end(killed)
    for call in (lambda: env.step(["what?"] * 8), lambda: env.reset(options={"scene": 0})):
        with pytest.raises(
            WorkerDiedError, match=r"worker 1 to play groups 1\.\.1, but it has died"
        ):
            call()
    env.close()
    env.close()
    wait_for_the_end(alive)
    with pytest.raises(ClosedEnvironmentError, match="after close"):
        env.reset(options={"scene": 0})


def test_a_stopped_worker_is_a_timeout_and_close_ends_it(parity):
    env = RayVectorEnv(4, 2, num_workers=2, call_timeout=20.0, **parity.RULES)
    env.reset(seed=0)
    env.workers.call_timeout = 1.0
    handles = env.workers.handles
    pids = ray.get([handle.__ray_call__.remote(lambda _: os.getpid()) for handle in handles])
    os.kill(pids[1], signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(
            WorkerTimeoutError, match=r"worker 1, which plays groups 1\.\.1, to answer"
        ):
            env.step(["what?"] * 4)
        assert time.monotonic() - began < 10
        env.close()
    finally:
        os.kill(pids[1], signal.SIGCONT)
    for handle in handles:
        wait_for_the_end(handle)


@pytest.mark.parametrize("session", [("other", "01"), ("node", "02")])
def test_after_a_shutdown_a_step_is_an_error_and_close_is_silent(monkeypatch, session):
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    workers = Workers.__new__(Workers)
    workers.handles, workers.groups, workers.call_timeout = ["gone"], [slice(0, 1)], 1.0
    workers._session = ("node", "01")
    monkeypatch.setattr("dip_agents.adapters.ray.workers._session", lambda: session)
    for runs in (False, True):  # True: another Ray has been started since
        monkeypatch.setattr(ray, "is_initialized", lambda runs=runs: runs)
        with pytest.raises(WorkerDiedError, match="expected Ray to run, but it has been shut down"):
            workers.call("ping")
        workers.end()
    assert killed == []


def test_close_does_not_start_a_ray_that_was_shut_down(monkeypatch):
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    workers = Workers.__new__(Workers)
    workers.handles = ["gone"]
    workers.end()
    assert killed == []


@pytest.mark.parametrize("name", ["vector_env", "workers"])
def test_without_the_library_the_install_line_is_given(monkeypatch, name):
    monkeypatch.setattr(needs_module, "find_spec", lambda package: None)
    for other in ("vector_env", "workers"):
        monkeypatch.delitem(sys.modules, f"dip_agents.adapters.ray.{other}")
    with pytest.raises(ConfigError, match=r'pip install "dip-env\[ray\]"'):
        importlib.import_module(f"dip_agents.adapters.ray.{name}")
