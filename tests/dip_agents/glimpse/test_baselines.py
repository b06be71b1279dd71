import gymnasium as gym
import numpy as np
import pytest

from dip_agents.glimpse.baselines import (
    GridScan,
    MostDetections,
    OracleLooks,
    RandomLooks,
    detection_scores,
    match_counts,
)
from dip_env.errors import ConfigError
from dip_env.scenes import make_source
from dip_env.scenes.transforms.sliced import SlicedScenes
from dip_env.scenes.transforms.stored import StoredScenes
from dip_wrappers.glimpse import BoxLooks, Detections, Glimpse, GridLooks, SimulatedDetector


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    drawn = StoredScenes(make_source("crowd", split="val"), tmp_path_factory.mktemp("scenes"))
    rules = {"view_size": 192, "crop_size": 192, "max_looks": 3, "max_turns": 5}
    crowd = gym.make("DIPCrowd-v0", scenes=SlicedScenes(drawn, 0, 12), **rules)
    return Glimpse(crowd, SimulatedDetector(), GridLooks((3,)), keys=("budget",))


def test_knowing_the_truth_beats_chance_and_chance_beats_not_looking(env):
    class AnswerAtOnce:
        def predict(self, observation, *, deterministic=True):
            return env.looks.answer, None

    f1 = [
        detection_scores(match_counts(agent, env, range(12)))["F1"].value
        for agent in (AnswerAtOnce(), RandomLooks(env), OracleLooks(env))
    ]
    assert f1[0] + 0.03 < f1[1] < f1[2] - 0.03


def test_random_looks_never_look_twice_at_the_same_and_keep_to_their_cells(env):
    for cells in (None, [8, 2, 5]):
        random, orders = RandomLooks(env, cells=cells), set()
        for scene in range(4):
            env.reset(options={"scene": scene})
            seen = []
            for _ in range(3):
                action, _ = random.predict(None)
                env.step(action)
                seen.append(action)
            assert len(set(seen)) == 3 and {*seen} <= set(cells or range(9))
            orders.add(tuple(seen))
        assert len(orders) > 1


def test_no_scenes_are_an_error(env):
    with pytest.raises(ConfigError, match="scenes: expected at least one, got none"):
        match_counts(RandomLooks(env), env, [])


def test_a_scan_looks_at_the_middle_first_and_at_each_cell_once(env):
    scan, seen = GridScan(env), []
    env.reset(options={"scene": 0})
    for _ in range(3):
        action, _ = scan.predict(None)
        env.step(action)
        seen.append(action)
    assert seen == [3, 4, 5]
    assert sorted(scan.order) == list(range(9))
    assert GridScan(env, [8, 2]).order == [8, 2]


def test_the_rule_goes_where_most_detections_have_not_been_looked_at(env):
    # In thirds of 100 x 100: three uncertain detections in cell 8, two confident ones in cell 0.
    size = np.tile(env.crowd.source[0].size, 2) / 100
    boxes = np.array([[5, 5, 9, 9], [15, 15, 19, 19], *[[x, 85, x + 3, 88] for x in (85, 90, 95)]])
    scores = np.array([0.9, 0.9, 0.1, 0.1, 0.1])

    def find(picture):
        shown = picture.from_scene(boxes * size)
        inside = (shown >= 0).all(axis=1) & (shown[:, 2:] <= picture.size).all(axis=1)
        return Detections(shown[inside], scores[inside])

    two = Glimpse(env.env, find, GridLooks((3,), overlap=0.0), keys=("budget",))
    rule, seen = MostDetections(two), []
    two.reset(options={"scene": 0})
    for _ in range(3):
        action, _ = rule.predict(None)
        two.step(action)
        seen.append(action)
    assert seen[:2] == [8, 0]


def test_an_answer_is_foretold_as_it_comes(env):
    env.reset(options={"scene": 1})
    before = env.answer()
    foretold = env.answer_after(env.looks.cells[4])
    assert env.answer().tolist() == before.tolist()
    env.step(4)
    # The text of a look is rounded to a hundredth of a pixel of the overview, so the crop is, too.
    said = env.answer()
    assert np.sort(said, axis=0) == pytest.approx(np.sort(foretold, axis=0), abs=1)
    assert len(said) > len(before)


def test_scores_are_worked_out_over_all_scenes():
    # 4 of 5 answered boxes are right, of 8 people.
    scores = detection_scores(np.array([[3, 3, 4], [1, 2, 4]]))
    assert [scores[name].value for name in ("precision", "recall", "F1")] == pytest.approx(
        [0.8, 0.5, 8 / 13]
    )
    assert detection_scores(np.zeros((2, 3), int))["precision"].value is None


def test_actions_that_are_no_cells_are_refused(env):
    boxes = Glimpse(env.env, SimulatedDetector(), BoxLooks())
    for make in (RandomLooks, GridScan, MostDetections, OracleLooks):
        with pytest.raises(ConfigError, match="expected GridLooks with one region"):
            make(boxes)
