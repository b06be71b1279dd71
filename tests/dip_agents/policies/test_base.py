import pytest

from dip_agents.policies.base import CallablePolicy, Completion, Policy, RememberingPolicy
from dip_env import Episode, EpisodeConfig, ToyScenes
from dip_env.errors import ConfigError
from dip_wrappers.controls import no_image


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
    with pytest.raises(ConfigError, match="fn: expected a function that returns str, got NoneType"):
        CallablePolicy(lambda text: None).act([observe()], [0])


def test_the_same_observation_and_seed_are_asked_about_once():
    asked = []
    policy = RememberingPolicy(CallablePolicy(lambda text: asked.append(text) or str(len(asked))))
    first = policy.act([observe(), observe()], [1, 2])
    assert [c.text for c in first] == ["1", "2"]
    assert [c.text for c in policy.act([observe(), observe(), observe()], [2, 3, 1])] == [
        "2",
        "3",
        "1",
    ]
    assert len(asked) == 3


@pytest.mark.parametrize(
    "other",
    [
        Episode(ToyScenes()[0], EpisodeConfig(), scene_index=1),
        Episode(ToyScenes()[1], EpisodeConfig(), scene_index=0),
        Episode(ToyScenes()[0], EpisodeConfig(max_looks=1), scene_index=0),
        no_image().episode(ToyScenes()[0], EpisodeConfig(), scene_index=0),
    ],
    ids=["scene index", "scene", "rules", "pixels"],
)
def test_another_observation_is_asked_about(other):
    asked = []
    policy = RememberingPolicy(CallablePolicy(lambda text: asked.append(text) or "x"))
    policy.act([observe()], [1])
    policy.act([other.observation()], [1])
    assert len(asked) == 2


def test_a_policy_that_swallows_an_observation_is_found_out():
    class Short:
        def act(self, observations, seeds):
            return [Completion("x")]

    with pytest.raises(ConfigError, match="expected 2 completions, got 1"):
        RememberingPolicy(Short()).act([observe(), observe()], [1, 2])
