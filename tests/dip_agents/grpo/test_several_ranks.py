"""GRPO over two real processes (gloo) on the real, micro model, against one process.

Run as a script, this file plays all the runs that the tests look at: it imports once and forks the
processes of every run from there, which is what keeps it fast.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import dip_agents.grpo.run as grpo_run
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.run import RolloutLimits
from dip_agents.models.loading import LoadedModel, load_model
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vlm import VLM
from dip_agents.runtime.checkpoints import latest_checkpoint, load_checkpoint
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.errors import error_line
from dip_agents.runtime.logger import read_metrics
from dip_agents.sft.config import SFTConfig
from dip_agents.sft.run import train_sft
from dip_env.config import EpisodeConfig
from dip_env.errors import DipError
from dip_env.scenes import ToyScenes

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
RULES = EpisodeConfig(
    view_size=128, crop_size=64, max_looks=1, max_regions=2, max_turns=3, minimal_prompt=True
)
CONFIG = GRPOConfig(
    steps=3,
    scenes_per_step=3,  # two on one rank, one on the other, which has nothing to learn in step 2
    group_size=3,
    learning_rate=1e-4,  # faster ones unlearn the form, and long guesses turn on the last digits
    warmup_steps=0,
    micro_batch_size=2,  # unequally many on the ranks
    completions_interval=2,
    checkpoint_interval=1,
    temperature=0.7,
    advantage="batch_std",
    eval_interval=2,
)
WITH_KL = replace(CONFIG, kl_weight=0.1, updates_per_batch=2)


def fine_tune(folder):
    """A micro model that has just learned the form, so that its rewards differ."""
    model, processor = build_tiny(tiny_texts(), size="micro")
    settings = SFTConfig(
        steps=40,
        batch_size=4,
        learning_rate=4e-3,
        warmup_steps=5,
        workers=0,
        checkpoint_interval=40,
    )
    with (folder / "console.txt").open("w") as file:
        loaded = LoadedModel(VLM(model, processor), RULES, trained=False)
        train_sft(
            loaded, ToyScenes(), RULES, settings, 4, folder / "tuned", console=Console(file=file)
        )


def train(
    distributed,
    folder,
    name,
    config=CONFIG,
    lora_rank=0,
    checkpoint_activations=False,
    before_step=None,
    resume=False,
):
    """One rank of one run; every rank's global generators stand elsewhere at every step."""
    real = grpo_run.collect_rollouts

    def rewarded(step, index, rollout):
        """Rewards that differ, but for those of the last group in step 2."""
        if (step, index) == (2, CONFIG.scenes_per_step - 1):
            return replace(rollout, reward=0.5)
        return replace(rollout, reward=rollout.reward + sum(rollout.buffer.ids) % 97 / 97)

    def collect(*arguments, **settings):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(1000 * distributed.rank + distributed.world_size)
        if before_step is not None:
            before_step(distributed, settings["step"])
        step, first = settings["step"], settings["first_index"]
        return [
            replace(group, rollouts=[rewarded(step, index, r) for r in group.rollouts])
            for index, group in enumerate(real(*arguments, **settings), start=first)
        ]

    grpo_run.collect_rollouts = collect
    model = folder / "tuned" / "model"
    loaded = load_model(str(model), device="cpu", dtype="float32", lora_rank=lora_rank)
    if checkpoint_activations:
        loaded.vlm.checkpoint_activations()
    learning = {n: p for n, p in loaded.vlm.model.named_parameters() if p.requires_grad}
    start = {name: parameter.detach().clone() for name, parameter in learning.items()}

    def moved(step):
        assert distributed.is_main
        farthest = max(float((learning[n] - start[n]).detach().abs().max()) for n in start)
        return {"moved": farthest / config.learning_rate}

    with (folder / f"console_{name}_{distributed.rank}.txt").open("a") as file:
        grpo_run.train_grpo(
            loaded,
            ToyScenes(),
            RULES,
            config,
            folder / name,
            evaluate=moved,
            limits=RolloutLimits(48, 300),
            resume=resume,
            console=Console(file=file),
            distributed=distributed,
        )


def second_dies(distributed, step):
    if step == 3 and distributed.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)


def told_to_stop(distributed, step):
    if step == 3:
        os.kill(os.getpid(), signal.SIGTERM)


RARE = replace(CONFIG, checkpoint_interval=100)
RUNS = {
    # name: processes, FSDP2, the rest
    "alone": (1, False, {}),
    "ddp": (2, False, {}),
    "fsdp": (2, True, {}),
    "alone_lora": (1, False, {"lora_rank": 4, "config": WITH_KL}),
    "ddp_lora": (2, False, {"lora_rank": 4, "config": WITH_KL}),
    "fsdp_lora": (2, True, {"lora_rank": 4, "config": WITH_KL, "checkpoint_activations": True}),
    "killed": (2, False, {"config": RARE, "before_step": second_dies}),
    "killed_fsdp": (2, True, {"before_step": second_dies}),
    "stopped": (1, False, {"config": RARE, "before_step": told_to_stop}),
}
AGAIN = {
    # on other numbers of processes than before
    "killed": (1, False, {"config": RARE, "resume": True}),
    "killed_fsdp": (1, False, {"resume": True}),
    "stopped": (2, True, {"config": RARE, "resume": True}),
}


def run_rank(folder, name, index, count, port, sharded, settings):
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if sharded:
        os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    try:
        with DistributedContext.launched(60, "cpu") as distributed:
            train(distributed, folder, name, **settings)
    except DipError as error:
        (folder / f"{name}_{index}.txt").write_text(f"{type(error).__name__}: {error_line(error)}")
        return 2
    return 0


def play(folder, name, count, sharded, settings):
    """Fork the ranks of one run and return their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for index in range(count):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = run_rank(folder, name, index, count, port, sharded, settings)
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def play_all(folder):
    child = os.fork()
    if child == 0:  # autograd must not have run where processes are forked
        fine_tune(folder)
        os._exit(0)
    os.waitpid(child, 0)
    codes = {name: play(folder, name, *run) for name, run in RUNS.items()}
    codes |= {f"{name}_again": play(folder, name, *run) for name, run in AGAIN.items()}
    (folder / "codes.json").write_text(json.dumps(codes))


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, __file__, str(folder)], check=True, timeout=220, env=environ)
    return folder


def codes(played, name):
    return json.loads((played / "codes.json").read_text())[name]


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def metrics(run):
    return read_metrics(run / "metrics.jsonl")


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-5, msg=name)


def test_something_was_learned_in_every_step(played):
    before = load_file(played / "tuned" / "model" / "model.safetensors")
    for name in ("alone", "alone_lora"):
        after = weights(played / name)
        assert max(float((before[key] - after[key]).abs().max()) for key in before) > 1e-4
        informative = [row["group/frac_informative"] for row in metrics(played / name)]
        assert informative == pytest.approx([1.0, 2 / 3, 1.0])


@pytest.mark.parametrize("run", ["ddp", "fsdp", "ddp_lora", "fsdp_lora"])
def test_two_ranks_learn_what_one_process_learns(played, run):
    alone = "alone_lora" if run.endswith("lora") else "alone"
    assert codes(played, run) == [0, 0]
    assert_same_weights(weights(played / run), weights(played / alone))
    for one, other in zip(metrics(played / run), metrics(played / alone), strict=True):
        names = {name for name in one.keys() | other.keys() if not name.startswith("time/")}
        assert {n: one[n] for n in names} == pytest.approx({n: other[n] for n in names}, abs=1e-5)


@pytest.mark.parametrize("run", ["alone", "ddp", "fsdp", "fsdp_lora"])
def test_what_is_evaluated_are_the_weights_after_that_step(played, run):
    rows = metrics(played / run)
    assert ["eval/moved" in row for row in rows] == [False, True, False]
    # Adam moves a weight by at most about its learning rate per update: once is not twice.
    updates = 4 if run.endswith("lora") else 2
    assert updates - 0.5 < rows[1]["eval/moved"] < updates + 0.5


def test_the_same_is_generated_on_whatever_rank_and_the_table_holds_all_of_it(played):
    tables = [
        [json.loads(line) for line in (played / run / "completions" / "step_000002.jsonl").open()]
        for run in ("alone", "ddp", "fsdp")
    ]
    assert len(tables[0]) == CONFIG.scenes_per_step * CONFIG.group_size
    said = [[(row["scene"], row["member"], row["transcript"]) for row in rows] for rows in tables]
    assert said[0] == said[1] == said[2]


@pytest.mark.parametrize("run", ["killed", "killed_fsdp"])
def test_a_killed_rank_ends_the_run_with_a_message_that_says_where_to_go_on(played, run):
    assert codes(played, run) == [2, -signal.SIGKILL]
    message = (played / f"{run}_0.txt").read_text()
    assert message.startswith("LostRankError: rank 0 of 2 lost another rank at step 3, ")
    assert message.endswith(
        f"; the last complete checkpoint is {played / run / 'checkpoints' / 'step_000002'}: "
        "go on from there with resume"
    )


def test_a_signal_saves_the_last_finished_step(played):
    assert codes(played, "stopped") == [2]
    message = (played / "stopped_0.txt").read_text()
    assert message.startswith("StopRequestedError: stopped by SIGTERM at step 3, collect; the last")
    assert "step_000002" in message


@pytest.mark.parametrize("run", ["killed", "killed_fsdp", "stopped"])
def test_a_broken_run_goes_on_with_another_number_of_processes_as_if_nothing_had_been(played, run):
    assert set(codes(played, f"{run}_again")) == {0}
    assert_same_weights(weights(played / run), weights(played / "alone"))
    whole = metrics(played / "alone")
    assert [row["step"] for row in metrics(played / run)] == [1, 2, 3]
    for one, other in zip(metrics(played / run), whole, strict=True):
        for name in ("train/learning_rate", "reward/total", "train/grad_norm"):
            assert one[name] == pytest.approx(other[name], abs=1e-5)


def test_a_split_optimizer_is_saved_whole(played):
    saved = {
        run: load_checkpoint(played / run / "checkpoints").optimizer for run in ("alone", "fsdp")
    }
    alone, split = (saved[run]["state"] for run in ("alone", "fsdp"))
    assert alone.keys() == split.keys()
    for number, state in alone.items():
        for name, value in state.items():
            torch.testing.assert_close(split[number][name], value, rtol=0, atol=1e-5)


def rank_processes(launcher):
    """The processes of a launcher by rank, once they run python code of their own."""
    found = {}
    for child in psutil.Process(launcher.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "RANK" in (environ := child.environ()):
                found[int(environ["RANK"])] = child
    return found


@pytest.mark.parametrize("config", ["ddp_cpu", "fsdp2_cpu"])
def test_accelerate_launch_survives_the_loss_of_a_process(played, tmp_path, config):
    words = ["--model", played / "tuned" / "model", "--device", "cpu", "--dtype", "float32"]
    words += ["--max-new-tokens", 32, "--token-budget", 300, "--n", 0]
    words += ["--steps", 1000, "--scenes-per-step", 2, "--group-size", 3, "--warmup-steps", 0]
    words += ["--checkpoint-interval", 2, "--out", tmp_path / "run"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launch += [ROOT / "examples" / "accelerate" / f"{config}.yaml", "-m", "dip_agents.cli"]
    with (tmp_path / "errors.txt").open("w") as errors:
        launcher = subprocess.Popen(
            [str(word) for word in (*launch, "train", *words)],
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    try:
        end = time.monotonic() + 150
        while len(metrics(tmp_path / "run")) < 3:
            assert launcher.poll() is None, (tmp_path / "errors.txt").read_text()
            assert time.monotonic() < end, "no three steps in time"
            time.sleep(0.1)
        rank_processes(launcher)[1].kill()
        assert launcher.wait(60) != 0
    finally:
        launcher.kill()
    said = (tmp_path / "errors.txt").read_text()
    # Whichever comes first: the closed connection, or the launcher's signal.
    assert re.search(
        r"dip train: (rank 0 of 2 lost another rank|stopped by SIGTERM) at step \d+, ", said
    )
    saved = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert f"the last complete checkpoint is {saved}: go on from there with --resume" in said
    finished = len(metrics(tmp_path / "run"))
    # Data parallel processes hold everything: the last finished step is saved too.
    at_least = finished if config == "ddp_cpu" else finished - 1
    assert load_checkpoint(saved).step >= at_least


if __name__ == "__main__":
    torch.set_num_threads(1)
    play_all(Path(sys.argv[1]))
