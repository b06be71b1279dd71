"""An episode under a control agrees with itself, and is scored by the looks really taken."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_env import Episode, EpisodeConfig, EpisodeGroup, ToyScenes
from dip_env.actions import Look
from dip_env.errors import ConfigError, EpisodeOverError
from dip_env.testing import check_dip_env
from dip_wrappers import EpisodeTrace, LookControl, load_traces, replay
from dip_wrappers.controlled import Control
from dip_wrappers.controls import blank_crops, no_image, own_looks, placed_looks, random_looks
from dip_wrappers.traces import ReplayMismatchError

SCENE = ToyScenes()[0]
CONFIG = EpisodeConfig()
SHIFTED = Control("shifted", regions=lambda regions, episode, taken: regions + 10)

region = st.tuples(
    st.integers(-20, 440), st.integers(-20, 310), st.integers(0, 90), st.integers(0, 90)
).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])
look = st.lists(region, min_size=1, max_size=4).map(lambda r: f"<look>{r}</look>")
action = st.lists(
    st.one_of(
        look,
        st.sampled_from(
            [
                "<think>is <b> it?</think>",
                " \n",
                "</look>",
                "<look>",
                '<answer>[{"bbox_2d":[28,67,84,227],"label":"<look>[[1,2,3,4]]</look>"}]</answer>',
            ]
        ),
    ),
    max_size=5,
).map("".join)


def asked(episode):
    """The regions that the transcript says the policy asked for, text frame."""
    looks = [
        segment.regions
        for segments in episode.outcome.segments_per_turn
        for segment in segments or ()
        if isinstance(segment, Look)
    ]
    return np.concatenate(looks) if looks else np.zeros((0, 4))


def play(control, actions, config=CONFIG):
    episode = control.episode(SCENE, config)
    return episode, [episode.step(action) for action in actions if not episode.done]


def test_a_replaced_look_stands_in_the_transcript_the_reply_and_the_reward():
    # View 448x320 of 640x480: x by 10/7, y by 3/2. The look asked for is at 0..28 x 0..64.
    said = "<think>who?</think>\n<look>[[0,0,28,64],[100,100,170,200]]</look>"
    episode, (turn,) = play(SHIFTED, [said])
    assert episode.transcript[1].text == (
        "<think>who?</think>\n<look>[[10,10,38,74],[110,110,180,210]]</look>"
    )
    assert turn.message.text.startswith("Crop 1 shows [10,10,38,74] of the image at 3.5x.")
    shown = np.array([[100 / 7, 15, 380 / 7, 111], [1100 / 7, 165, 1800 / 7, 315]])
    assert np.allclose([crop.region for crop in turn.crops], shown)
    assert np.allclose(episode.outcome.looks, shown)
    end = episode.step("<answer>[]</answer>")
    plain = Episode(SCENE, CONFIG)
    plain.step("<think>who?</think><look>[[10,10,38,74],[110,110,180,210]]</look>")
    assert end.reward == plain.step("<answer>[]</answer>").reward


def test_looks_of_an_action_that_answers_are_replaced_too():
    answer = '<answer>[{"bbox_2d":[0,0,9,9],"label":"<look>[[0,0,9,9]]</look>"}]</answer>'
    episode, _ = play(SHIFTED, ["<look>[[0,0,9,9]]</look>" + answer])
    # A label is no look, whatever it says.
    assert episode.transcript[1].text == "<look>[[10,10,19,19]]</look>" + answer
    assert len(episode.answer) == 1


@pytest.mark.parametrize(
    "said",
    [
        "no idea",
        "<look>[[0,0,9,9]]",
        "<look>[[9,9,9,9]]</look>",
        "<look>[[0,0,9,9],[900,0,901,9]]</look>",
        "<look>[[0,0,9,9]]</look>" * 3,
        "<think>nothing to see</think>",
    ],
)
def test_what_would_not_be_taken_stays_as_it_was_generated(said):
    episode, (turn,) = play(SHIFTED, [said])
    (plain,) = play(own_looks(), [said])[1]
    assert episode.transcript[1].text == said
    assert (turn.segments, turn.parse_error) == (plain.segments, plain.parse_error)
    assert turn.result is None and turn.message.text == plain.message.text


def test_nothing_changed_is_an_ordinary_episode():
    said = ["oh", "<think>a</think><look>[[ 0.0, 0,28, 64.50 ]]</look>", "<answer>[]</answer>"]
    controlled, turns = play(own_looks(), said)
    plain = Episode(SCENE, CONFIG)
    for action, turn in zip(said, turns, strict=True):
        other = plain.step(action)
        assert (turn.reward, turn.terminated) == (other.reward, other.terminated)
        assert len(turn.crops) == len(other.crops)
        for one, two in zip(turn.crops, other.crops, strict=True):
            assert np.array_equal(one.image, two.image)
    assert [m.text for m in controlled.transcript] == [m.text for m in plain.transcript]
    assert np.array_equal(controlled.opening.images[0], plain.opening.images[0])
    with pytest.raises(EpisodeOverError):
        controlled.step("<answer>[]</answer>")


@given(st.lists(action, min_size=1, max_size=3), st.integers(0, 2))
def test_the_transcript_of_any_conversation_plays_again_without_the_control(actions, kind):
    control = (
        random_looks(),
        placed_looks(lambda scene, view: [[5, 5, 50, 50], [0, 0, 9, 9], [7, 7, 8, 8]]),
        own_looks(),
    )[kind]
    episode, turns = play(control, actions)
    said = [m.text for m in episode.transcript if m.role == "assistant"]
    plain = Episode(SCENE, CONFIG)
    for text, turn in zip(said, turns, strict=True):
        again = plain.step(text)
        assert again.segments == turn.segments
        assert (again.message is None) == (turn.message is None)
        assert again.message is None or again.message.text == turn.message.text
    assert np.array_equal(plain.outcome.looks, episode.outcome.looks)
    # Under the control once more, its own words stay as they are.
    assert [m.text for m in play(control, said)[0].transcript] == [
        m.text for m in episode.transcript
    ]


def test_a_control_that_looks_where_nobody_may_is_an_error_of_the_control():
    for regions, reason in (
        ([], "at least one region"),
        ([[0, 0, 9, 9]] * 4, "at most 3 regions"),
        ([[500, 0, 509, 9]], "inside 0,0,448,320"),
    ):
        control = placed_looks(lambda scene, view, regions=regions: regions)
        if len(regions) == 4:
            control = Control("oracle looks", regions=lambda *_, regions=regions: np.array(regions))
        with pytest.raises(ConfigError, match=f"'oracle looks': expected regions.*{reason}"):
            play(control, ["<look>[[0,0,9,9]]</look>"])


def test_a_picture_of_another_shape_is_an_error_of_the_control():
    small = Control("small", crop=lambda crop, episode: crop.image[:8])
    with pytest.raises(ConfigError, match=r"'small': crop: expected uint8 \(128, 224, 3\)"):
        play(small, ["<look>[[0,0,98,56]]</look>"])
    dark = Control("dark", overview=lambda image, episode: image / 255)
    with pytest.raises(ConfigError, match=r"'dark': overview: expected uint8 .*float64"):
        _ = dark.episode(SCENE).opening


def test_members_of_a_group_are_under_the_control_and_share_its_first_message():
    group = EpisodeGroup(SCENE, CONFIG, 3, new_episode=no_image().episode)
    assert len({id(episode.opening) for episode in group.episodes}) == 1
    turns = group.step(["<look>[[0,0,98,56]]</look>"] * 3)
    for episode, turn in zip(group.episodes, turns, strict=True):
        assert np.unique(episode.opening.images[0]).tolist() == [128]
        assert np.unique(turn.crops[0].image).tolist() == [128]


# -- environments


def env_under(control, **rules):
    return LookControl(gym.make("DIPCrowd-v0", scenes=ToyScenes(), **rules), control)


def test_an_environment_shows_and_rewards_what_the_control_sets():
    env = env_under(blank_crops())
    plain = gym.make("DIPCrowd-v0", scenes=ToyScenes())
    start, _ = env.reset(options={"scene": 0})
    same, _ = plain.reset(options={"scene": 0})
    assert np.array_equal(start["image"], same["image"])
    said = "<look>[[0,0,98,56]]</look>"
    shown, *_ = env.step(said)
    sharp, *_ = plain.step(said)
    assert np.unique(shown["crops"][0, :128, :224]).tolist() == [128]
    assert len(np.unique(sharp["crops"][0, :128, :224])) > 2
    assert np.array_equal(shown["crop_boxes"], sharp["crop_boxes"])
    assert shown["text"] == sharp["text"]

    env = env_under(SHIFTED)
    env.reset(options={"scene": 0})
    env.step(said)
    _, reward, _, _, info = env.step("<answer>[]</answer>")
    plain.reset(options={"scene": 0})
    plain.step("<look>[[10,10,108,66]]</look>")
    _, other, _, _, wanted = plain.step("<answer>[]</answer>")
    assert reward == other
    assert info["reward_terms"] == wanted["reward_terms"]


def test_a_controlled_environment_keeps_the_contract():
    check_dip_env(env_under(random_looks(), max_turns=3), indices=range(4))


def test_a_control_reaches_wrappers_on_both_sides_of_it(tmp_path):
    inner = EpisodeTrace(gym.make("DIPCrowd-v0", scenes=ToyScenes()), tmp_path / "inner")
    env = EpisodeTrace(LookControl(inner, SHIFTED), tmp_path / "outer")
    env.reset(options={"scene": 0})
    env.step("<look>[[0,0,98,56]]</look>")
    env.step("<answer>[]</answer>")
    env.close()
    for name in ("inner", "outer"):
        (trace,) = load_traces(tmp_path / name)
        assert trace.turns[0].action == "<look>[[10,10,108,66]]</look>"
        # Looks are recorded as they were taken, so they play again without the control.
        assert len(replay(trace, ToyScenes()).looks) == 1


def test_changed_pictures_play_again_under_their_control_only(tmp_path):
    env = EpisodeTrace(env_under(blank_crops()), tmp_path)
    env.reset(options={"scene": 0})
    env.step("<look>[[0,0,98,56]]</look>")
    env.step("<answer>[]</answer>")
    env.close()
    (trace,) = load_traces(tmp_path)
    assert replay(trace, ToyScenes(), blank_crops()).done
    with pytest.raises(ReplayMismatchError, match="crop 0"):
        replay(trace, ToyScenes())


def test_controls_do_not_pile_up_and_need_an_environment_of_ours():
    with pytest.raises(ConfigError, match="without a control"):
        LookControl(env_under(own_looks()), blank_crops())
    with pytest.raises(ConfigError, match="expected a DIPCrowdEnv, got CartPole"):
        LookControl(gym.make("CartPole-v1"), blank_crops())


def test_an_environment_under_a_control_can_be_made_again():
    env = gym.make("DIPCrowd-v0", scenes="easy")
    again = gym.make(LookControl(env, replace(blank_crops(), name="dark")).spec)
    assert again.get_wrapper_attr("control").name == "dark"
    again.reset(seed=0)
    observation, *_ = again.step("<look>[[0,0,64,64]]</look>")
    assert np.unique(observation["crops"][0]).tolist() == [128]
