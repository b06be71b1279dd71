from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from dip_env.config import RewardConfig
from dip_env.errors import ConfigError

ROOT = Path(__file__).parents[4]


@pytest.fixture
def jobs(load, toy_study, start):
    return load("plan").plan(toy_study, start)


def trainings(jobs):
    return {(job.variant, job.seed): job for job in jobs if job.kind == "train"}


def test_every_run_comes_once_and_after_the_one_it_needs(jobs):
    folders = [job.folder for job in jobs]
    assert len(set(folders)) == len(folders)
    for place, job in enumerate(jobs):
        assert job.needs is None or job.needs.folder in folders[:place]


def test_variants_of_a_seed_learn_as_often_from_as_much_of_the_same(jobs, toy_study):
    learned = trainings(jobs)
    for seed in toy_study.seeds:
        settings = {variant: job.setting for (variant, at), job in learned.items() if at == seed}
        scenes = {variant: s["scenes"] for variant, s in settings.items()}
        fresh = [scenes.pop("sft_random_looks"), scenes.pop("sft_oracle_looks")]
        assert all(s == scenes["grpo"] for s in scenes.values())
        assert fresh[0] == fresh[1]
        assert fresh[0]["first"] == scenes["grpo"]["first"]
        assert fresh[0]["count"] == toy_study.group_size * scenes["grpo"]["count"]
        for setting in settings.values():
            config = setting["config"]
            assert config["steps"] == toy_study.steps
            episodes = config.get("batch_size") or config["scenes_per_step"] * config["group_size"]
            assert episodes == toy_study.episodes
    first = [learned[("grpo", seed)].setting["scenes"] for seed in toy_study.seeds]
    assert first[0]["first"] + first[0]["count"] <= first[1]["first"]


def test_each_variant_changes_what_its_name_says(jobs):
    rules = {
        variant: job.setting["rules"]
        for (variant, seed), job in trainings(jobs).items()
        if seed == 0
    }
    default = rules["grpo"]
    assert RewardConfig(**default["reward"]) == RewardConfig()

    def changed(variant):
        flat = rules[variant] | rules[variant]["reward"]
        before = default | default["reward"]
        return {k: v for k, v in flat.items() if v != before[k] and k != "reward"}

    assert changed("grpo_no_look_reward") == {"look_weight": 0.0}
    assert changed("grpo_prior_look") == {"ambiguity": "annotation"}
    assert changed("grpo_invented") == {"invented_weight": 1.0, "look_floor": 0.0}
    learning = {
        variant: job.setting["config"]
        for (variant, seed), job in trainings(jobs).items()
        if not seed
    }

    def learns(variant, of="grpo"):
        return {k: v for k, v in learning[variant].items() if v != learning[of][k]}

    assert learns("grpo_no_look_reward") == learns("grpo_prior_look") == {}
    assert learns("grpo_episode") == {"look_credit": "episode"}
    assert learns("grpo_causal") == {"look_credit": "causal"}
    assert learns("grpo_branching", "grpo_causal") == {"answers_per_look": 2}
    assert learns("grpo_crop_value", "grpo_branching") == {"blank_answers": 1}
    assert learns("sft_oracle_looks", "sft_random_looks") == {"look": "tiles"}
    assert learning["sft_random_looks"]["look"] == "random_tiles"
    assert changed("weighted_03") == {"accuracy": "weighted_sum", "precision_weight": 0.3}
    assert changed("iou_averaged") == {"iou": "0.5:0.95"}
    assert changed("f_beta_2") == {"beta": 2.0}


def test_measurements_reward_all_variants_alike_on_the_same_scenes(jobs):
    measured = [job for job in jobs if job.kind == "measure"]
    assert {json.dumps(job.setting["scenes"]) for job in measured} == {
        '{"preset": "toy", "first": 2000000, "count": 4}'
    }
    for job in measured:
        assert RewardConfig(**job.setting["rules"]["reward"]) == RewardConfig()
        assert job.setting["rules"]["max_looks"] == 1


def test_the_default_reward_is_trained_once_for_both_tables(jobs):
    assert [job.seed for job in jobs if (job.kind, job.variant) == ("train", "grpo")] == [0, 1]
    assert [job.seed for job in jobs if (job.kind, job.variant) == ("measure", "base")] == [None]


def test_a_key_holds_all_that_matters_and_nothing_else(load, toy_study, start):
    plan = load("plan").plan

    def folders(study=toy_study, start=start):
        return {job.folder for job in plan(study, start)}

    def trained(found, variant=""):
        return {folder for folder in found if folder.startswith(f"train-{variant}")}

    before = folders()
    assert not before & folders(start=replace(start, fingerprint=8))
    assert not before & folders(start=replace(start, rules=replace(start.rules, view_size=256)))
    assert not trained(before) & folders(replace(toy_study, steps=11))
    rate = folders(replace(toy_study, learning_rate=3e-4))
    assert trained(before) & rate == trained(before, "sft")
    scenes = folders(replace(toy_study, n=5))
    assert trained(before) <= scenes
    assert before & scenes == {folder for folder in before if not folder.startswith("measure")}
    for name, value in {"jobs": 7, "threads": 3, "device": "cuda", "report": True}.items():
        assert folders(replace(toy_study, **{name: value})) == before, name


def test_parts_ask_for_their_runs_only(load, toy_study, start):
    plan = load("plan").plan
    agreement = plan(replace(toy_study, only="agreement"), start)
    assert {(job.kind, job.variant) for job in agreement if job.kind != "train"} == {
        ("agreement", "base"),
        ("agreement", "grpo"),
    }
    looking = plan(replace(toy_study, only="looking"), start)
    assert {(job.kind, job.variant) for job in looking} == {
        ("looking", "base"),
        ("noise", "base"),
        ("looking", "grpo"),
        ("train", "grpo"),
    }
    quick = replace(load("config").defaults(["--quick"]), quick=True)
    assert {job.variant for job in plan(quick, start)} == {
        *("base", "sft_random_looks", "grpo_no_look_reward", "grpo")
    }
    assert {job.seed for job in plan(quick, start)} == {None, 0}


def test_the_reading_of_dip_r1_has_the_numbers_of_its_recipe(load, toy_study, start):
    found = trainings(load("plan").plan(replace(toy_study, only="core"), start))
    setting = found["dip_r1_reading", 0].setting
    recipe = tomllib.loads((ROOT / "examples/recipes/dip_r1.toml").read_text())
    for name in ("format_weight", "look_weight", "accuracy", "look_floor"):
        assert setting["rules"]["reward"][name] == recipe[name]
    for name in ("advantage", "aggregation", "kl_weight", "clip_high"):
        assert setting["config"][name] == recipe[name]


def test_photographs_are_measured_when_they_are_given(load, toy_study, start):
    found = load("plan").plan(replace(toy_study, only="core"), start, photos="abc")
    photos = [job for job in found if job.scenes == "photos"]
    assert {job.variant for job in photos} == {"base", "sft_random_looks", "grpo"}
    assert {json.dumps(job.setting["scenes"]) for job in photos} == {'{"photos": "abc"}'}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"only": "core,everything"}, "only: expected some of .*, got 'everything'"),
        ({"variants": "base,gipo"}, "variants: expected some of base,.*, got 'gipo'"),
        ({"seeds": (1, 1)}, r"seeds: expected different values, at least one, got \(1, 1\)"),
        ({"jobs": 0}, "jobs: expected at least 1, got 0"),
    ],
)
def test_a_choice_that_cannot_work_is_named(load, changes, words):
    with pytest.raises(ConfigError, match=words):
        load("config").Study(**changes)
