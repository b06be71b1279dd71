"""What counts the same: tokens, rollouts, or tokens per constant length."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dip_agents.objectives.aggregation import Counts, rollout_weights
from dip_env.errors import ConfigError

LENGTHS = [1, 3, 4]


def test_weights_worked_by_hand():
    counts = Counts.of(LENGTHS)
    assert counts == Counts(rollouts=3, tokens=8)

    def weights(kind):
        return rollout_weights(LENGTHS, counts, kind, constant_length=10)

    torch.testing.assert_close(weights("token_mean"), torch.tensor([1 / 8, 1 / 8, 1 / 8]))
    torch.testing.assert_close(weights("sequence_mean"), torch.tensor([1 / 3, 1 / 9, 1 / 12]))
    torch.testing.assert_close(weights("constant_length"), torch.tensor([1 / 30, 1 / 30, 1 / 30]))


lengths_lists = st.lists(st.integers(1, 50), min_size=1, max_size=9)


@given(lengths_lists)
def test_a_constant_loss_keeps_its_value_under_both_means(lengths):
    for kind in ("token_mean", "sequence_mean"):
        weights = rollout_weights(lengths, Counts.of(lengths), kind)
        assert (weights * torch.tensor(lengths)).sum().item() == pytest.approx(1.0, rel=1e-5)


@given(lengths_lists, st.data())
def test_a_part_of_the_batch_has_the_weights_it_has_in_the_whole(lengths, data):
    kind = data.draw(st.sampled_from(["token_mean", "sequence_mean", "constant_length"]))
    cut = data.draw(st.integers(0, len(lengths)))
    counts = Counts.of(lengths)
    parts = [rollout_weights(part, counts, kind) for part in (lengths[:cut], lengths[cut:])]
    assert torch.equal(torch.cat(parts), rollout_weights(lengths, counts, kind))


def test_a_rollout_without_active_tokens_weighs_nothing():
    for kind in ("token_mean", "sequence_mean", "constant_length"):
        assert rollout_weights([0, 2], Counts.of([0, 2]), kind)[0] == 0.0


def test_an_unknown_kind_is_named():
    with pytest.raises(ConfigError, match=r"kind: expected one of .*'sequence_mean'.*got 'mean'"):
        rollout_weights([1], Counts.of([1]), "mean")
