import pickle

import gymnasium as gym
import pytest
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from dip_env.actions import Answer, Grammar, Look, Think
from dip_env.spaces import ActionSpace, UnicodeText

SPACES = {
    "action": lambda seed=None: ActionSpace(Grammar(max_regions=2), (448, 320), seed=seed),
    "text": lambda seed=None: UnicodeText(seed=seed),
}
both = pytest.mark.parametrize("make", SPACES.values(), ids=SPACES)


@both
def test_every_str_is_contained_and_nothing_else(make):
    space = make()
    for text in ("", "é", "🙂 人群", "</answer>", "x" * 10**6):
        assert text in space
    for other in (b"x", 1, None, ["x"]):
        assert other not in space


@both
def test_samples_are_contained_and_follow_the_seed(make):
    one, two, other = make(1), make(1), make(2)
    samples = [one.sample() for _ in range(20)]
    assert samples == [two.sample() for _ in range(20)]
    assert samples != [other.sample() for _ in range(20)]
    assert all(sample in one for sample in samples)


def test_sampled_actions_are_one_think_and_one_look_or_answer():
    space = SPACES["action"](0)
    kinds = set()
    for _ in range(200):
        think, last = space.grammar.parse(space.sample())
        assert isinstance(think, Think)
        kinds.add(type(last))
        boxes = last.regions if isinstance(last, Look) else last.boxes
        assert (boxes[:, :2] < boxes[:, 2:]).all()
        assert (boxes >= 0).all() and (boxes <= (448, 320, 448, 320)).all()
    assert kinds == {Look, Answer}


def test_sampled_text_has_more_than_ascii():
    space = UnicodeText(max_sample_length=10, seed=0)
    samples = [space.sample() for _ in range(50)]
    assert max(map(len, samples)) == 10
    assert not all(sample.isascii() for sample in samples)


@both
def test_masks_are_refused(make):
    with pytest.raises(ValueError, match="expected None"):
        make().sample(mask=1)


def test_spaces_are_equal_when_their_settings_are():
    assert SPACES["action"](1) == SPACES["action"](2)
    assert SPACES["action"]() != ActionSpace(Grammar(max_regions=3), (448, 320))
    assert SPACES["action"]() != ActionSpace(Grammar(max_regions=2), (448, 448))
    assert UnicodeText() == UnicodeText() != UnicodeText(max_sample_length=5)
    assert UnicodeText() != SPACES["action"]()


def test_spaces_show_their_settings():
    assert repr(UnicodeText(7)) == "UnicodeText(7)"
    assert "text_size=(448, 320)" in repr(SPACES["action"]())
    assert "max_regions=2" in repr(SPACES["action"]())


@both
def test_a_space_survives_pickling_with_its_random_state(make):
    space = make(3)
    space.sample()
    copy = pickle.loads(pickle.dumps(space))
    assert copy == space
    assert copy.sample() == space.sample()


@both
def test_vector_environments_can_batch_the_space(make):
    space = make(0)
    batched = batch_space(space, 3)
    assert isinstance(batched, gym.spaces.Tuple)
    texts = ("", "é", "x")
    assert texts in batched
    assert list(iterate(batched, texts)) == list(texts)
    assert concatenate(space, texts, create_empty_array(space, 3)) == texts
    sample = batched.sample()
    assert sample in batched and len(sample) == 3
