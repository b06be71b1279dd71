import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.tokens.buffer import EncodedImage, PlaceholderError, TokenBudgetError, TokenBuffer

PAD = 7


def image(tokens: int) -> EncodedImage:
    return EncodedImage((1, 2, 2 * tokens), tokens, b"k", np.zeros((4, 4, 3), np.uint8))


def test_policy_tokens_carry_the_mask_and_their_logprobs():
    buffer = TokenBuffer(PAD)
    buffer.append_env([1, PAD, PAD, 2], [image(2)])
    buffer.append_policy([5, 6], [-0.5, -1.5])
    assert buffer.ids == [1, 7, 7, 2, 5, 6]
    assert buffer.loss_mask == [0, 0, 0, 0, 1, 1]
    assert buffer.logprobs == [0, 0, 0, 0, -0.5, -1.5]


@pytest.mark.parametrize("ids", [[1, 2], [PAD], [PAD, PAD, PAD]])
def test_placeholders_and_features_must_agree(ids):
    buffer = TokenBuffer(PAD)
    with pytest.raises(PlaceholderError, match="expected 2 image placeholders for 1 images"):
        buffer.append_env(ids, [image(2)])
    assert len(buffer) == 0


def test_a_sampled_placeholder_is_refused():
    with pytest.raises(PlaceholderError, match="must ban"):
        TokenBuffer(PAD).append_policy([PAD], [-1.0])


def test_ids_and_logprobs_must_agree_in_number():
    buffer = TokenBuffer(PAD)
    with pytest.raises(ValueError, match="logprobs: expected one for each of 2 ids, got 1"):
        buffer.append_policy([5, 6], [-1.0])
    assert len(buffer) == 0


def test_a_copy_grows_on_its_own():
    buffer = TokenBuffer(PAD)
    buffer.append_env([1])
    copy = buffer.copy()
    copy.append_policy([2], [-1.0])
    assert (len(buffer), len(copy)) == (1, 2)


@pytest.mark.grpo_property(7)
@given(
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), max_size=8),
)
def test_whatever_the_budget_placeholders_equal_features_and_nothing_is_cut(budget, chunks):
    buffer = TokenBuffer(PAD, budget)
    for text, tokens in chunks:
        images = [image(tokens)] if tokens else []
        before = (list(buffer.ids), list(buffer.images))
        try:
            buffer.append_env([1] * text + [PAD] * tokens, images)
        except TokenBudgetError:
            assert (buffer.ids, buffer.images) == before
            assert len(buffer) + text + tokens > budget
    assert buffer.ids.count(PAD) == sum(i.tokens for i in buffer.images)
    assert len(buffer.ids) == len(buffer.loss_mask) == len(buffer.logprobs) <= budget
