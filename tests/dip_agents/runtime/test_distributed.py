"""Two real processes that talk over gloo. Run as a script, this file starts them.

The script imports torch once and forks the ranks of every play from there, which is what keeps
this fast; each rank writes what it saw as JSON.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dip_agents.runtime.distributed import (
    DistributedContext,
    LostRankError,
    RanksDifferError,
    lost_peer,
)
from dip_env.errors import ConfigError

PATIENT, IMPATIENT = 60.0, 5.0  # seconds; joining takes some on a busy machine


def three_parameters(index):
    """Rank 0 has gradients for the first two, rank 1 for the second only."""
    first, second, third = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    half = nn.Parameter(torch.zeros(3, dtype=torch.bfloat16))
    if index == 0:
        first.grad = torch.tensor([1.0, 2.0])
        half.grad = torch.tensor([256.0, 1.0, 0.0], dtype=torch.bfloat16)
    second.grad = torch.tensor([3.0, 4.0]) * (index + 1)
    half_grad = torch.tensor([1.0, 1.0, 5.0], dtype=torch.bfloat16)
    half.grad = half_grad if half.grad is None else half.grad
    return [first, second, third, half]


def differ(distributed):
    distributed.check_same("weights", 7)
    try:
        distributed.check_same("seed", distributed.rank + 3)
    except RanksDifferError as error:
        return str(error)


def talk(distributed):
    parameters = three_parameters(distributed.rank)
    distributed.all_reduce_gradients(parameters)
    distributed.barrier()
    return {
        "rank": distributed.rank,
        "world_size": distributed.world_size,
        "gathered": distributed.all_gather({"from": distributed.rank}),
        "shard": list(distributed.shard(5)),
        "differ": differ(distributed),
        "grads": [None if p.grad is None else p.grad.float().tolist() for p in parameters],
    }


def one_dies(distributed):
    distributed.activity = "step 3, collect"
    if distributed.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.all_gather(0)


def one_is_silent(distributed):
    distributed.activity = "step 4, update"
    distributed.barrier()
    if distributed.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    began = time.perf_counter()
    try:
        distributed.all_reduce_gradients([nn.Parameter(torch.zeros(2))])
    except LostRankError as error:
        return {"error": str(error), "waited": time.perf_counter() - began}


def own_mistake(distributed):
    with distributed.watch_peers():
        raise RuntimeError("shape mismatch")


PLAYS = {play.__name__: play for play in (talk, one_dies, one_is_silent, own_mistake)}


def run_rank(index, port, play, path):
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    timeout = IMPATIENT if play == "one_is_silent" else PATIENT
    began = time.perf_counter()
    try:
        with DistributedContext.launched(timeout, "cpu") as distributed:
            found = PLAYS[play](distributed)
    except (LostRankError, RuntimeError) as error:
        found = {"error": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - began
    path.write_text(json.dumps({"found": found, "seconds": seconds}))


def run_all(folder):
    for play in PLAYS:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for index in range(2):
            child = os.fork()
            if child == 0:
                run_rank(index, port, play, folder / f"{play}_{index}.json")
                os._exit(0)
            children.append(child)
        os.waitpid(children[0], 0)
        if play == "one_is_silent":
            os.kill(children[1], signal.SIGKILL)
        os.waitpid(children[1], 0)


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What each rank found: play -> one result per rank, None for a rank that died."""
    folder = tmp_path_factory.mktemp("ranks")
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=120, env=environ)

    def result(play, index):
        path = folder / f"{play}_{index}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    return {play: [result(play, index) for index in range(2)] for play in PLAYS}


def test_every_rank_gathers_all_in_the_order_of_the_ranks(seen):
    for index, result in enumerate(seen["talk"]):
        found = result["found"]
        assert (found["rank"], found["world_size"]) == (index, 2)
        assert found["gathered"] == [{"from": 0}, {"from": 1}]
        assert found["shard"] == [[0, 1, 2], [3, 4]][index]


def test_what_differs_between_ranks_is_named_on_each(seen):
    for result in seen["talk"]:
        assert result["found"]["differ"] == (
            "seed: expected the same on all ranks, got 3 on rank 0 and 4 on rank 1"
        )


def test_gradients_are_summed_not_averaged_and_one_that_nobody_has_stays_away(seen):
    # half: 256 + 1 = 257 is 256 in bfloat16 (to even), 1 + 1 = 2, 0 + 5 = 5.
    for result in seen["talk"]:
        assert result["found"]["grads"] == [[1.0, 2.0], [9.0, 12.0], None, [256.0, 2.0, 5.0]]


def test_a_rank_that_is_killed_is_noticed_at_once_and_named_by_what_was_being_done(seen):
    survivor, killed = seen["one_dies"]
    assert killed is None
    assert survivor["found"]["error"].startswith(
        "LostRankError: rank 0 of 2 lost another rank at step 3, collect ("
    )
    assert survivor["seconds"] < PATIENT / 2


def test_a_rank_that_does_not_respond_is_given_up_after_the_timeout(seen):
    waiting, _ = seen["one_is_silent"]
    assert "lost another rank at step 4, update (" in waiting["found"]["error"]
    assert IMPATIENT * 0.8 < waiting["found"]["waited"] < IMPATIENT * 3


def test_a_mistake_of_our_own_is_not_taken_for_a_lost_rank(seen):
    for result in seen["own_mistake"]:
        assert result["found"]["error"] == "RuntimeError: shape mismatch"


@given(st.integers(0, 50), st.integers(1, 9))
def test_shards_are_even_and_give_every_index_once_in_order(things, count):
    shards = [DistributedContext(rank, count).shard(things) for rank in range(count)]
    assert [index for shard in shards for index in shard] == list(range(things))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert all(
        DistributedContext(0, count).shard(things, i) == shard for i, shard in enumerate(shards)
    )


def test_a_single_process_is_the_main_one_and_gathers_its_own_value():
    distributed = DistributedContext.launched(environ={})
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    distributed.all_reduce_gradients([parameter])
    distributed.barrier()
    assert distributed.is_main and not distributed.sharded and distributed.world_size == 1
    assert distributed.all_gather("me") == ["me"]
    assert parameter.grad.tolist() == [1.0, 1.0]
    assert distributed.shard(4) == range(4)
    with pytest.raises(RuntimeError, match="gloo is no excuse"), distributed.watch_peers():
        raise RuntimeError("gloo is no excuse")


def test_the_launchers_settings_are_taken_or_refused():
    fsdp = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "WORLD_SIZE": "1"}
    assert DistributedContext.launched(environ=fsdp).world_size == 1
    with pytest.raises(ConfigError, match="fsdp_version: expected 2, got 1"):
        DistributedContext.launched(environ=fsdp | {"FSDP_VERSION": "1"})
    with pytest.raises(ConfigError, match="FSDP_OFFLOAD_PARAMS: expected false"):
        DistributedContext.launched(environ=fsdp | {"FSDP_OFFLOAD_PARAMS": "true"})
    with pytest.raises(ConfigError, match=r"fsdp_cpu_ram_efficient_loading: expected false \(ev"):
        DistributedContext.launched(environ=fsdp | {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"})
    with pytest.raises(ConfigError, match="ACCELERATE_USE_DEEPSPEED: expected false"):
        DistributedContext.launched(environ={"ACCELERATE_USE_DEEPSPEED": "true"})
    with pytest.raises(ConfigError, match="rank_timeout: expected seconds above 0, got 0"):
        DistributedContext.launched(0)


def test_another_precision_of_the_launcher_is_not_silently_passed_over(caplog):
    DistributedContext.launched(environ={"ACCELERATE_MIXED_PRECISION": "bf16"})
    assert "mixed_precision 'bf16' is not used" in caplog.text


@pytest.mark.parametrize(
    "message",
    [
        "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3",
        "NCCL error in: ProcessGroupNCCL.cpp:2022, remote process exited",
        "Timed out waiting 3000ms for recv operation to complete",
    ],
)
def test_the_messages_of_the_backends_are_known(message):
    assert lost_peer(RuntimeError(message))


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_all(Path(sys.argv[1]))
