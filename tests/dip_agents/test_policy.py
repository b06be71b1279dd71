import pytest

from dip_agents.policy import CallablePolicy, Completion, Policy
from dip_env import Episode, EpisodeConfig, ToyScenes


def observe():
    return Episode(ToyScenes()[0], EpisodeConfig(), scene_index=0).observation()


def test_any_str_to_str_is_a_policy():
    assert isinstance(CallablePolicy(str.upper), Policy)


def test_callable_gets_the_transcript_and_its_text_is_the_action():
    seen = []

    def answer(text: str) -> str:
        seen.append(text)
        return "<answer>[]</answer>"

    completions = CallablePolicy(answer).act([observe(), observe()], [1, 2])
    assert completions == [Completion("<answer>[]</answer>")] * 2
    assert "Find every person" in seen[0]
    assert "448x320" in seen[0]  # the size of the overview of a 640x480 scene


def test_transcript_grows_with_the_conversation():
    texts = []
    policy = CallablePolicy(lambda text: texts.append(text) or "<look>[[0,0,100,100]]</look>")
    episode = Episode(ToyScenes()[0], EpisodeConfig())
    for _ in range(2):
        episode.step(policy.act([episode.observation()], [0])[0].text)
    assert texts[1].startswith(texts[0])
    assert "<look>[[0,0,100,100]]</look>" in texts[1]
    assert "Crop 1" in texts[1]


def test_callable_that_returns_no_text_is_named():
    with pytest.raises(TypeError, match="expected a str, got NoneType"):
        CallablePolicy(lambda text: None).act([observe()], [0])
