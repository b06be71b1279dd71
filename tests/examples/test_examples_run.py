from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dip_agents.models.rules import rules_of

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str, *arguments: object, typed: str = "", warnings: str = "error") -> str:
    """Run an example as a user does, without a network, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", warnings, str(EXAMPLES / name), *map(str, arguments)],
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "140"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    for path in EXAMPLES.glob("[!_]*.py"):
        assert f'"{path.name}"' in tests, path.name


def test_play_by_hand_plays_given_actions_and_saves_what_was_seen(tmp_path):
    out = run(
        *("play_by_hand.py", "--scenes", "toy", "--scene", 3, "--out", tmp_path, "--actions"),
        "what?",
        "<think>far off</think><look>[[190,100,250,160]]</look>",
        "<answer>[[217,133,222,143]]</answer>",
    )
    assert "Your action was not accepted" in out
    assert out.count("Find every person") == 1
    assert "you found 1 of 1 people with 1 boxes" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "crop_1.png",
        *(f"turn_{k}.png" for k in range(4)),
    ]
    # The person of the toy scene wears a shirt of this colour; the crop is cut without padding.
    crop = np.asarray(Image.open(tmp_path / "crop_1.png"))
    assert crop.shape == (224, 224, 3)
    assert (np.abs(crop.astype(int) - (96, 160, 96)).max(axis=2) < 40).any()


def test_play_by_hand_reads_actions_from_the_keyboard(tmp_path):
    settings = ("play_by_hand.py", "--scenes", "toy", "--scene", 2, "--out", tmp_path)
    assert "you found 0 of 0 people" in run(*settings, typed="<answer>[]</answer>\n")
    assert "the episode is not over" in run(*settings, typed="<think>hm</think>\n")


def test_the_baselines_come_out_in_the_order_of_what_they_know():
    out = run("run_baselines.py", "--scenes", "toy", "--n", 4, "--group-size", 3)
    rewards = {}
    for line in out.splitlines():
        if found := re.match(r"(.{22})\S+ \[.*?\] +(\S+) \[", line):
            rewards[found[1].strip()] = float(found[2])
    assert list(rewards)[:2] == ["random", "grid"]
    assert len(rewards) == 6
    assert rewards["oracle, misses 0%"] > rewards["oracle, misses 20%"]
    assert rewards["oracle, misses 20%"] > rewards["oracle, misses 50%"]
    assert rewards["oracle, misses 50%"] > rewards["random"]


@pytest.mark.slow
def test_a_policy_of_ones_own_is_a_function_a_server_or_an_agent_with_numeric_actions(server):
    assert len((EXAMPLES / "own_policy.py").read_text().splitlines()) < 60

    def look_then_answer(body):
        if len(body["messages"]) == 1:
            return server.said("<think>left</think><look>[[0,0,200,200]]</look>")
        return server.said("<think>none</think><answer>[]</answer>")

    server.answer = look_then_answer
    out = run("own_policy.py", "--scenes", "toy", "--server", server.address, "--model", "mine")
    assert "function (n=4)" in out and "server (n=4)" in out
    failures = next(line for line in out.splitlines() if "parse_failures" in line)
    assert failures.count("0.000 [0.000, 0.000]") == 2
    found = re.search(r"agent with numeric actions: F1 ([\d.]+)", out)
    assert found and float(found[1]) > 0.3
    assert {body["model"] for body in server.bodies} == {"mine"}
    assert len(server.bodies) == 8  # two turns in each of four scenes
    parts = server.bodies[-1]["messages"][2]["content"]
    assert any(part["type"] == "image_url" for part in parts)  # the crop
    assert "server" not in run("own_policy.py", "--n", 2)


@pytest.mark.slow
def test_a_numeric_agent_learns_from_stable_baselines3(tmp_path):
    pytest.importorskip("stable_baselines3", reason="the extra sb3 is not installed")
    small = {
        "--scenes": "toy", "--n": 2, "--curve-n": 2, "--train-scenes": 2, "--steps": 64,
        "--seeds": 5, "--envs": 1, "--out": tmp_path,
    }  # fmt: skip
    out = run("train_sb3.py", *(word for pair in small.items() for word in pair))
    rows = re.findall(r"^\| ([\w ,]+) \| ([\d.]+ \S+ \S+ \| ){2}([\d.]+)", out, re.M)
    assert [row[0] for row in rows] == [
        "random", "random, large cells", "grid scan", "most detections", "knowing the ground truth",
        "PPO, seed 5",
    ]  # fmt: skip
    assert all(0 <= float(row[2]) <= 1 for row in rows)
    curve = (tmp_path / "curves.csv").read_text().splitlines()
    assert curve[0] == "seed,looks taken,F1" and curve[1].startswith("5,0,") and len(curve) == 3
    assert (tmp_path / "ppo_5.zip").is_file()
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width == 840


@pytest.mark.slow
def test_trl_trains_the_bundled_model_and_leaves_one_that_dip_can_play(tmp_path):
    pytest.importorskip("trl", reason="the trl extra is not installed")
    small = ("--scenes", "toy", "--steps", 1, "--scenes-per-step", 2, "--group-size", 2)
    words = (*small, "--max-completion-length", 32, "--out", tmp_path)
    out = run("train_trl.py", *words, warnings="default")  # TRL meets deprecations of transformers
    assert re.search(r"^step 1: reward 0\.\d+, accuracy \d\.\d+, [\d.]+ s$", out, re.M)
    assert rules_of(str(tmp_path)) == replace(rules_of("tiny"), max_turns=1, max_looks=0)


@pytest.mark.slow
def test_ray_workers_play_what_one_process_plays(monkeypatch):
    pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # else Ray keeps one in the home folder
    assert "same: True" in run("ray_envs.py", "--scenes", "toy", "--groups", 2, "--steps", 4)


def test_scenes_of_ones_own_are_checked_and_played():
    out = run("own_scenes.py", "--images", 2)
    assert "2 scenes, all of them valid" in out
    assert "an empty answer earns 0.100" in out
    assert "the true boxes earn 0.800" in out


def test_scenes_of_ones_own_come_from_any_such_folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (320, 240)).save(tmp_path / "images" / "a.jpg")
    (tmp_path / "boxes.csv").write_text(
        "image,x1,y1,x2,y2,ignore\na.jpg,10,20,60,200,0\na.jpg,100,20,300,90,1\n"
    )
    assert "1 scenes, all of them valid" in run("own_scenes.py", "--folder", tmp_path)
