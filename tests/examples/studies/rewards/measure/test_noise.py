from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dip_env.actions import Answer, Look, Think
from dip_env.config import EpisodeConfig, RewardConfig
from dip_env.rewards import Outcome
from dip_env.scenes import ToyScenes

RULES = EpisodeConfig(view_size=128, crop_size=64, max_looks=1, max_regions=2)


def outcome(scene, people, look):
    """Answer some of the people of a scene and look at a box, without an episode."""
    segments = ((Think("a"), Look([look])), (Think("b"), Answer(scene.truth[people])))
    return Outcome(
        np.asarray(scene.truth[people], dtype=float),
        np.asarray([look], dtype=float),
        segments,
        answered=True,
    )


@pytest.fixture
def scene():
    source = ToyScenes()
    return next(source[k] for k in range(len(source)) if len(source[k].truth) >= 2)


def test_groups_that_waver_alike_agree_on_who_is_ambiguous(load, scene):
    sure, unsure = scene.truth[0], scene.truth[1]
    wavering = [outcome(scene, [0, 1] if k % 2 else [0], unsure if k % 4 < 2 else sure)
                for k in range(8)]  # fmt: skip
    found = load("measure.noise").scene_columns(wavering, wavering, scene, RULES)
    # Half of the siblings find the second: 4 Var of 0, 1, 0, 1, ... is 1; all find the first: 0.
    others = len(scene.truth) - 2
    weights = np.array([0.0, 1.0] + [0.0] * others)
    centred = weights - weights.mean()
    assert found["people_xy"] == found["people_xx"] == found["people_yy"]
    assert found["people_xy"] == pytest.approx(float(centred @ centred))
    assert found["look_xy"] > 0.9 * np.sqrt(found["look_xx"] * found["look_yy"]) > 0
    # The look term is a tenth of the reward.
    assert found["weighed_look"] == pytest.approx(0.01 * found["look_xx"])
    assert found["weighed_reward"] > 0


def test_groups_that_waver_about_others_do_not(load, scene):
    first = [outcome(scene, [0, 1] if k % 2 else [0], scene.truth[k % 2]) for k in range(8)]
    second = [outcome(scene, [0, 1] if k % 2 else [1], scene.truth[k % 2]) for k in range(8)]
    found = load("measure.noise").scene_columns(first, second, scene, RULES)
    assert found["people_xy"] < 0 < found["people_xx"]
    assert found["look_xy"] < 0 < found["look_xx"]


def test_the_whole_reward_counts_what_the_look_is_worth(load, scene):
    group = [outcome(scene, [0, 1] if k % 2 else [0], scene.truth[k % 2]) for k in range(8)]
    alone = replace(RULES, reward=RewardConfig(format_weight=0, accuracy_weight=0, look_weight=1))
    found = load("measure.noise").scene_columns(group, group, scene, alone)
    assert found["weighed_look"] == pytest.approx(found["weighed_reward"])


def test_correlations_pool_the_sums_of_scenes(load):
    noise = {"episodes": np.ones(2)}
    for pair in ("people", "look", "prior", "accuracy"):
        noise |= {f"{pair}_xy": np.array([1.0, 1.0]), f"{pair}_xx": np.array([4.0, 0.0]),
                  f"{pair}_yy": np.array([1.0, 3.0])}  # fmt: skip
    noise |= {"weighed_look": np.array([1.0, 0.0]), "weighed_reward": np.array([4.0, 6.0])}
    stats = load("report.stats")
    assert stats.value("same_people", {None: noise}).value == pytest.approx(2 / 4)
    assert stats.value("look_share", {None: noise}).value == pytest.approx(0.1)
    table = load("report.tables").noise({None: noise})
    assert len(table) == 7 and "0.500" in table[2]


def test_a_model_plays_two_groups_in_every_scene(load, tmp_path, micro_folder):
    from dip_agents.engines.base import Sampling
    from dip_agents.engines.choose import engine_for
    from dip_agents.models.loading import load_model

    loaded = load_model(str(micro_folder), device="cpu")
    module = load("measure.noise")
    module.measure_noise(
        engine_for(loaded.vlm), ToyScenes(), range(2), loaded.rules, 3, Sampling(1.0, 6, 200),
        tmp_path,
    )  # fmt: skip
    columns = module.load_noise(tmp_path)
    assert columns["episodes"].tolist() == [1, 1]
    assert json.loads((tmp_path / "result.json").read_text())["indices"] == [0, 1]
    # Random tokens find nobody: all agree, and there is nothing to correlate.
    assert load("report.stats").value("same_people", {None: columns}).value is None
