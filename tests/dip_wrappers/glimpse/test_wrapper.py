import copy

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import dip_env  # noqa: F401 (registers the environment)
from dip_env.episode import Episode
from dip_env.errors import ConfigError
from dip_env.rewards import accuracy_reward
from dip_env.scenes.base import Scene
from dip_wrappers.controlled import Control, LookControl
from dip_wrappers.controls import (
    blank_crops,
    coarse_overview,
    no_image,
    own_looks,
    random_looks,
)
from dip_wrappers.glimpse import (
    AnswerRule,
    BoxLooks,
    Detections,
    Glimpse,
    GridLooks,
    ImageDetector,
    ObservationSizes,
    SimulatedDetector,
)

RULES = {"view_size": 160, "crop_size": 96, "max_looks": 2, "max_regions": 3, "max_turns": 4}


def make(detector=None, looks=None, scenes="toy", rules=RULES, **settings):
    env = gym.make("DIPCrowd-v0", scenes=scenes, **rules)
    return Glimpse(env, detector or SimulatedDetector(), looks, **settings)


def truthful(picture):
    """Find everybody of whom all is shown at least half as large as in the scene."""
    boxes = picture.from_scene(picture.scene.truth.astype(np.float64))
    inside = (boxes >= 0).all(axis=1) & (boxes[:, 2:] <= picture.size).all(axis=1)
    near = inside if picture.scale[0] >= 0.5 else np.zeros(len(boxes), bool)
    return Detections(boxes[near], np.full(near.sum(), 0.9))


@pytest.mark.parametrize("looks", [GridLooks(), GridLooks(at_once=3), BoxLooks()])
@pytest.mark.filterwarnings("ignore:.*(render|spec|different)")
def test_it_is_an_environment_as_gymnasium_checks(looks):
    check_env(make(looks=looks, shaping=1.0), skip_render_check=True)


def test_the_answer_is_what_was_found_near_and_far():
    # Scene 0: nobody is found in the overview (a quarter of the size); the left half shows the
    # left person whole and cuts the middle one off.
    env = make(truthful, GridLooks((2,), overlap=0.0), rules={**RULES, "crop_size": 320})
    obs, info = env.reset(options={"scene": 0})
    assert not obs["found"].any()
    assert len(info["found_boxes"]) == 0
    *_, terminated, _, info = env.step(env.looks.answer)
    assert terminated
    assert info["reward_terms"]["accuracy"] == 0

    env = make(truthful, BoxLooks(0.75, 0.75), rules={**RULES, "crop_size": 320})
    env.reset(options={"scene": 0})
    obs, _, terminated, _, _ = env.step(np.array([-1, 0, 0], np.float32))
    assert not terminated
    assert env.answer() == pytest.approx(np.array([[40, 100, 120, 340], [280, 140, 340, 320]]))
    assert obs["budget"] == 0.5
    obs, _, terminated, truncated, info = env.step(np.array([1, 0, 0], np.float32))
    assert (terminated, truncated) == (True, False)  # the looks are used up
    assert info["reward_terms"]["accuracy"] == 1
    assert info["reward_terms"]["format"] == 1
    assert obs["found"].sum() == pytest.approx(3 * 0.9 / 1.9)
    assert obs["doubt"].sum() == pytest.approx(3 * 0.36 / 1.36)


def test_observations_are_those_of_the_episode():
    sizes = ObservationSizes(image=32, crop=16, maps=2)
    env = make(looks=GridLooks((2,), overlap=0.0), sizes=sizes)
    obs, _ = env.reset(options={"scene": 0})
    assert env.observation_space.contains(obs)
    assert not obs["crop"].any()
    assert obs["image"][:26].any(axis=(1, 2)).all()
    assert not obs["image"][26:].any()  # the overview has 160 x 128 pixels
    obs, *_ = env.step(2)
    assert obs["looked"].tolist() == [[0, 0], [1, 0]]
    assert obs["crop"].any()


def test_only_the_wanted_parts_are_made():
    env = make(keys=("budget", "doubt"))
    obs, _ = env.reset(seed=0)
    assert list(obs) == list(env.observation_space) == ["budget", "doubt"]


def test_the_cells_are_those_of_the_actions():
    # 640 x 480 pixels: the first centre is in the upper left quarter, two are in the lower right.
    people = np.array([[20, 20, 60, 60], [400, 300, 480, 450], [600, 400, 630, 470]], dtype=float)

    def find(picture):
        return Detections(picture.from_scene(people), [0.9, 0.6, 0.2])

    env = make(find, GridLooks((2,), overlap=0.0), keys=("cells", "budget"))
    obs, _ = env.reset(options={"scene": 0})
    assert env.observation_space.contains(obs)
    assert obs["cells"] == pytest.approx(
        np.array([[np.log(2), np.log(1.9), 0], [0, 0, 0], [0, 0, 0], [np.log(3), np.log(1.8), 0]])
    )
    obs, *_ = env.step(1)
    assert obs["cells"][:, 2].tolist() == [0, 1, 0, 0]


def test_shaping_adds_up_to_the_discounted_change_of_the_potential():
    plain, shaped = make(scenes="easy"), make(scenes="easy", shaping=2.0, discount=0.9)
    for env in (plain, shaped):
        env.reset(seed=3)
    scene = shaped.episode.scene
    start = accuracy_reward(shaped.answer(), scene.truth, scene.ignore_boxes)
    potentials, total, expected = [start], 0.0, 0.0
    for step, action in enumerate([1, 7]):
        reward, terminated = plain.step(action)[1:3]
        total += 0.9**step * (shaped.step(action)[1] - reward)
        after = accuracy_reward(shaped.answer(), scene.truth, scene.ignore_boxes)
        potentials.append(0.0 if terminated else after)
    # The sum telescopes: whatever is done, only the start is left of it.
    expected = 2.0 * (0.9**2 * potentials[-1] - start)
    assert (potentials[-1], total) == (0.0, pytest.approx(expected))


def test_the_same_seed_and_actions_give_the_same_episode():
    runs = []
    for _ in range(2):
        env = make(scenes="easy")
        obs, _ = env.reset(seed=5)
        steps = [obs]
        for action in (2, 9):
            obs, reward, *_ = env.step(action)
            steps += [obs, {"reward": np.float64(reward)}]
        runs.append(steps)
    for one, other in zip(*runs, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_a_detector_that_finds_more_than_an_answer_may_hold_gives_the_highest_scores():
    boxes, scores = [[k, 0, k + 1, 9] for k in range(20)], np.linspace(1, 0, 20)
    many = ImageDetector(lambda image: (boxes, scores))
    env = make(many, rules={**RULES, "max_boxes": 3})
    env.reset(seed=0)
    info = env.step(env.looks.answer)[-1]
    assert len(info["answer_boxes"]) == 3


@pytest.mark.parametrize(
    ("rules", "settings", "message"),
    [
        ({"max_looks": 0}, {}, "max_looks >= 1 and max_regions >= 1, got 0"),
        ({"max_regions": 2}, {"looks": GridLooks(at_once=3)}, "max_regions >= 3"),
        ({"max_turns": 2}, {}, "more turns than looks, got 2 and 2"),
        ({}, {"shaping": float("nan")}, "shaping: expected a finite number >= 0"),
        ({}, {"discount": 3.0}, r"discount: expected a number in \[0, 1\]"),
        ({}, {"keys": ("image", "smell")}, "keys: expected some of image"),
        ({}, {"keys": ()}, "keys: expected some of image"),
        ({}, {"keys": ("cells",), "looks": BoxLooks()}, "budget, got .'cells'"),
    ],
)
def test_what_cannot_work_is_refused_at_once(rules, settings, message):
    with pytest.raises(ConfigError, match=message):
        make(rules={**RULES, **rules}, **settings)


@pytest.mark.parametrize(
    ("make_setting", "message"),
    [
        (lambda: ObservationSizes(maps=0), "sizes.maps: expected an integer >= 1, got 0"),
        (lambda: ObservationSizes(image=1.5), "sizes.image: expected an integer >= 1, got 1.5"),
        (
            lambda: AnswerRule(min_score=1.5),
            r"answer.min_score: expected a number in \[0, 1\], got 1.5",
        ),
        (lambda: AnswerRule(nms_iou=-0.1), r"answer.nms_iou: expected a number in \[0, 1\]"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_when_it_is_made(make_setting, message):
    with pytest.raises(ConfigError, match=message):
        make_setting()


def test_another_environment_is_refused():
    with pytest.raises(ConfigError, match="expected DIPCrowd-v0, got CartPoleEnv"):
        Glimpse(gym.make("CartPole-v1"), SimulatedDetector())


def test_reset_comes_first():
    with pytest.raises(gym.error.ResetNeeded):
        make().step(0)


def test_a_coarse_look_takes_nothing_from_a_fine_one():
    answers = []
    for order in ((1, 0), (0, 1)):  # the upper left quarter and the whole image
        env = make(truthful, GridLooks((1, 2)), rules={**RULES, "crop_size": 320, "max_looks": 3})
        env.reset(options={"scene": 1})
        for action in order:
            env.step(action)
        answers.append(np.sort(env.answer(), axis=0))
    assert len(answers[0]) > 0
    assert answers[0] == pytest.approx(answers[1], abs=1)


def half_outside():
    box = np.array([[-50.0, 100, 50, 300]], np.float32)
    return Scene(
        scene_id="half", size=(320, 320), boxes=box, visible_boxes=box,
        visible_share=np.ones(1, np.float32), ignore=np.zeros(1, bool), labels=("person",),
        load_image=lambda: Image.new("RGB", (320, 320)),
    )  # fmt: skip


def test_the_potential_is_the_reward_of_the_environment_for_people_half_outside():
    def outside(picture):
        return Detections(picture.from_scene(np.array([[-50.0, 100, 50, 300]])), [0.9])

    env = make(outside, GridLooks((1,)), scenes=[half_outside()], shaping=1.0)
    env.reset(options={"scene": 0})
    assert env.worth(np.array([[0.0, 100, 50, 300]])) == 1.0
    assert env.worth(env.answer()) == 1.0
    info = env.step(env.looks.answer)[-1]
    assert info["reward_terms"]["accuracy"] == 1.0


def test_a_copy_sees_its_own_episode():
    env = make(looks=GridLooks((2,)), keys=("looked",))
    env.reset(options={"scene": 0})
    other = copy.deepcopy(env)
    assert other.step(0)[0]["looked"].any()
    assert not env.step(env.looks.answer)[0]["looked"].any()


def test_scenes_of_unequal_crowds_play_side_by_side():
    envs = gym.vector.SyncVectorEnv([lambda: make(scenes="crowd")] * 2)
    _, infos = envs.reset(seed=0)
    assert len({len(found) for found in infos["found_boxes"]}) == 2
    _, _, terminated, _, infos = envs.step([envs.single_action_space.n - 1] * 2)
    assert terminated.all()
    assert [len(f) for f in infos["found_scores"]] == [len(f) for f in infos["found_boxes"]]


@pytest.mark.parametrize("control", [blank_crops(), no_image(), coarse_overview(32)])
def test_a_detector_that_reads_no_pixels_is_not_played_under_a_control_of_pictures(control):
    crowd = LookControl(gym.make("DIPCrowd-v0", scenes="toy", **RULES), control)
    with pytest.raises(ConfigError, match=r"reads pixels under the control .*SimulatedDetector"):
        Glimpse(crowd, SimulatedDetector()).reset(seed=0)


def test_what_a_look_would_bring_is_foretold_under_the_control_too():
    def find(image):
        seen = [[0, 0, *image.shape[1::-1]]] * int(image[0, 0].tolist() == [0, 0, 255])
        return np.reshape(seen, (-1, 4)), [1.0] * len(seen)

    crowd = gym.make("DIPCrowd-v0", scenes="toy", **{**RULES, "crop_size": 320})
    blue = np.array([0, 0, 255], np.uint8)
    control = Control("blue crops", crop=lambda crop, episode: np.full_like(crop.image, blue))
    for shown, boxes in ((own_looks(), 0), (control, 1)):
        env = Glimpse(LookControl(crowd, shown), ImageDetector(find), GridLooks((1,)))
        env.reset(options={"scene": 3})
        foretold = env.answer_after(env.looks.cells[0])
        env.step(0)
        assert len(foretold) == boxes
        np.testing.assert_array_equal(env.answer(), foretold)
        crowd.unwrapped.new_episode = Episode


@pytest.mark.parametrize("control", [random_looks(), own_looks()])
def test_a_control_of_positions_is_played_with_any_detector(control):
    crowd = LookControl(gym.make("DIPCrowd-v0", scenes="toy", **RULES), control)
    env = Glimpse(crowd, SimulatedDetector(), GridLooks((2,)))
    env.reset(seed=0)
    assert not env.step(0)[2]


def test_a_region_that_cannot_be_shown_is_an_error():
    env = make(looks=BoxLooks(1e-5, 1e-5))
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="looks: expected regions that the environment can show"):
        env.step(np.zeros(3, np.float32))
