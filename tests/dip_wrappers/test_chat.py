import base64
import io

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from PIL import Image

import dip_env
from dip_env import DIPCrowdEnv, Episode, EpisodeConfig, Message, ToyScenes
from dip_env.errors import ConfigError
from dip_wrappers.chat import ChatObservation, ChatSpace, to_chat

RED = np.zeros((4, 6, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
TALK = [Message("user", "Find them.", (RED, RED)), Message("assistant", "<answer>[]</answer>")]
LOOK = "<think>a</think><look>[[0,0,100,100],[50,50,90,90]]</look>"


def wrapped(format="processor", **rules):
    return ChatObservation(DIPCrowdEnv(ToyScenes(), **rules), format)


def test_processor_messages_carry_images_before_the_text():
    first, second = to_chat(TALK, "processor")
    assert first["role"] == "user"
    assert [part["type"] for part in first["content"]] == ["image", "image", "text"]
    assert first["content"][0]["image"].size == (6, 4)
    assert first["content"][2]["text"] == "Find them."
    assert second == {
        "role": "assistant",
        "content": [{"type": "text", "text": "<answer>[]</answer>"}],
    }


@pytest.mark.parametrize("form", ["processor", "openai"])
def test_captioned_images_stand_behind_their_lines(form):
    (message,) = to_chat([Message("user", "a\nb\nc", (RED, RED), captioned=True)], form)
    image = "image" if form == "processor" else "image_url"
    assert [part["type"] for part in message["content"]] == ["text", image, "text", image, "text"]
    assert [part.get("text") for part in message["content"]] == ["a", None, "\nb", None, "\nc"]


def test_openai_images_decode_to_the_same_pixels():
    part = to_chat(TALK, "openai")[0]["content"][0]
    assert part["type"] == "image_url"
    head, data = part["image_url"]["url"].split(",")
    assert head == "data:image/png;base64"
    decoded = Image.open(io.BytesIO(base64.b64decode(data)))
    assert decoded.format == "PNG"
    np.testing.assert_array_equal(np.asarray(decoded), RED)


def test_unknown_formats_are_named():
    with pytest.raises(ConfigError, match="format: expected processor or openai, got 'xml'"):
        to_chat(TALK, "xml")


@pytest.mark.parametrize("form", ["processor", "openai"])
def test_special_tokens_that_a_policy_spells_out_are_broken_and_half_characters_replaced(form):
    said = "<|image_pad|> and <|im_end|>, \ud800"
    chat = to_chat([Message("assistant", said), Message("user", f"got {said}")], form)
    assert [part["text"] for message in chat for part in message["content"]] == [
        "< |image_pad|> and < |im_end|>, ?",
        "got < |image_pad|> and < |im_end|>, ?",
    ]
    with pytest.raises(ConfigError, match="format: expected processor or openai"):
        ChatSpace("xml")


@pytest.mark.parametrize("form", ["processor", "openai"])
def test_the_observation_is_the_episodes_own_conversation(form):
    env = wrapped(form)
    observation, _ = env.reset(seed=0, options={"scene": 0})
    assert observation in env.observation_space
    episode = Episode(ToyScenes()[0], EpisodeConfig())
    for action in (LOOK, "nonsense", "<answer>[]</answer>"):
        observation, *_ = env.step(action)
        episode.step(action)
        assert observation == to_chat(episode.transcript, form)
        assert observation in env.observation_space
    assert [m["role"] for m in observation] == ["user", "assistant"] * 3
    assert [len(m["content"]) for m in observation] == [2, 1, 5, 1, 1, 1]


def test_crops_keep_their_size_unpadded():
    env = wrapped()
    env.reset(options={"scene": 0})
    observation, *_ = env.step("<look>[[0,0,100,200]]</look>")
    # 100 x 200 of the view is 142.9 x 300 source pixels: 107 x 224, to multiples of 32: 96 x 224.
    assert observation[2]["content"][1]["image"].size == (96, 224)
    assert observation[0]["content"][0]["image"].size == (448, 320)


@pytest.mark.parametrize("form", ["processor", "openai"])
@pytest.mark.filterwarnings("error", "ignore:.*different from the unwrapped version")
def test_check_env_is_content(form):
    check_env(wrapped(form), skip_render_check=True)


def test_it_stands_on_the_wrappers_that_make_adds_and_under_others():
    env = gym.make("DIPCrowd-v0", scenes="toy")
    assert dip_env is not None
    env = RecordEpisodeStatistics(TimeLimit(ChatObservation(env, "openai"), 2))
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    for _ in range(2):
        observation, _, _, truncated, info = env.step("nonsense")
    assert truncated
    assert info["episode"]["l"] == 2
    assert len(observation) >= 4


def test_stepping_before_reset_is_refused():
    with pytest.raises(gym.error.ResetNeeded):
        ChatObservation(gym.make("DIPCrowd-v0", scenes="toy")).step("x")


def test_vector_environments_batch_conversations():
    env = gym.vector.SyncVectorEnv([wrapped, wrapped])
    observations, _ = env.reset(seed=[0, 1])
    assert len(observations) == 2
    assert all(o in env.single_observation_space for o in observations)
    env.close()


@pytest.mark.parametrize("form", ["processor", "openai"])
def test_the_space_holds_its_samples_and_no_other_format(form):
    space = ChatSpace(form, seed=0)
    other = ChatSpace("openai" if form == "processor" else "processor")
    sample = space.sample()
    assert sample in space
    assert sample not in other
    assert space != other
    assert space == ChatSpace(form)
    space.seed(1)
    first = space.sample()
    space.seed(1)
    assert space.sample() == first


@pytest.mark.parametrize(
    "broken",
    [
        [],
        "hello",
        [{"role": "user"}],
        [{"role": "user", "content": "text alone"}],
        [{"role": "system", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "assistant", "content": [{"type": "text", "text": "x"}]}],
        [{"role": "user", "content": [{"type": "text", "text": 3}]}],
        [{"role": "user", "content": [{"type": "image", "image": RED}]}],
        [{"role": "user", "content": [{"type": "text", "text": "x", "more": 1}]}],
    ],
)
def test_the_space_refuses_what_is_no_conversation(broken):
    assert broken not in ChatSpace("processor")


def test_the_wrapper_survives_its_spec():
    env = ChatObservation(gym.make("DIPCrowd-v0", scenes="toy"), "openai")
    again = gym.make(env.spec)
    assert again.observation_space == ChatSpace("openai")
