"""Settings are checked once, and the learning rate is a function of the step alone."""

import pytest

from dip_agents.grpo.config import GRPOConfig
from dip_agents.objectives.choices import Clips
from dip_env.errors import ConfigError


def test_the_rate_warms_up_and_stays():
    config = GRPOConfig(learning_rate=1.0, warmup_steps=4, steps=10)
    rates = [config.learning_rate_at(step) for step in range(1, 8)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0]


def test_the_cosine_starts_at_the_peak_and_the_last_step_still_learns():
    config = GRPOConfig(learning_rate=1.0, warmup_steps=2, steps=6, lr_schedule="cosine")
    rates = [config.learning_rate_at(step) for step in range(1, 7)]
    # A quarter of the way down after each of the four steps: 1/2 + cos(pi k / 4) / 2.
    assert rates == pytest.approx([0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_no_warm_up_starts_at_the_peak():
    assert GRPOConfig(learning_rate=1.0, warmup_steps=0).learning_rate_at(1) == 1.0


def test_a_run_may_only_grow_where_the_rate_does_not_look_ahead():
    assert "steps" in GRPOConfig().changeable
    assert "steps" not in GRPOConfig(lr_schedule="cosine").changeable


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: expected at least 1, got 0"),
        ({"group_size": 1}, "group_size: expected at least 2, got 1"),
        ({"micro_batch_size": 0}, "micro_batch_size: expected at least 1 or None, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate: expected above 0, got nan"),
        ({"temperature": 0.0}, "temperature: expected above 0"),
        ({"kl_weight": -1.0}, "kl_weight: expected at least 0"),
        ({"clip_low": 1.0}, r"clip_low: expected a number in \[0, 1\), got 1.0"),
        ({"advantage": "ppo"}, "advantage: expected one of .*'dr_grpo'.*got 'ppo'"),
        ({"lr_schedule": "linear"}, "lr_schedule: expected one of"),
        ({"loss": "ppo"}, r"loss: expected one of .*'gspo'.*got 'ppo'"),
        ({"aggregation": "mean"}, "aggregation: expected one of"),
        ({"zero_variance_groups": "keep"}, "zero_variance_groups: expected one of"),
        ({"max_resamples": 0}, "max_resamples: expected at least 1"),
        ({"turn_discount": 1.5}, "turn_discount: expected 0 to 1, got 1.5"),
        ({"turn_weight": -1.0}, "turn_weight: expected at least 0"),
        ({"constant_length": 0}, "constant_length: expected at least 1"),
        ({"dual_clip": 1.0}, "dual_clip: expected above 1 and with loss 'clipped', got 1.0"),
        ({"dual_clip": 3.0, "loss": "gspo"}, "got 3.0 with 'gspo'"),
        ({"importance_cap": 0.0}, "importance_cap: expected above 0 or None, got 0.0"),
        ({"entropy_target": -0.1}, "entropy_target: expected above 0 or None"),
        ({"entropy_delta": 0.0}, "entropy_delta: expected above 0"),
        (
            {"entropy_target": 0.2, "entropy_weight": 0.01},
            "entropy_weight: expected at most 0.005 with an entropy_target, got 0.01",
        ),
        ({"reward_schedule": ("look:1=0",)}, "reward_schedule: expected <name>"),
        ({"answers_per_look": 0}, "answers_per_look: expected a divisor of group_size 8"),
        ({"answers_per_look": 3}, "answers_per_look: expected a divisor of group_size 8 .*got 3"),
        ({"answers_per_look": 8}, "that leaves two looks or more, got 8"),
        ({"blank_answers": 1}, "blank_answers: expected 0 to 0 with answers_per_look 1, got 1"),
        ({"answers_per_look": 4, "blank_answers": 4}, "blank_answers: expected 0 to 3"),
        (
            {"group_size": 4, "answers_per_look": 2, "blank_answers": 1},
            "blank_answers: expected 2 answers with crops or more to the other looks .*got 1",
        ),
        (
            {"answers_per_look": 2, "advantage": "gdpo"},
            "answers_per_look: expected 1 with advantage 'gdpo', got 2",
        ),
        ({"answers_per_look": 2, "advantage": "gigpo"}, "expected 1 with advantage 'gigpo'"),
    ],
)
def test_a_value_out_of_range_is_named(change, message):
    with pytest.raises(ConfigError, match=message):
        GRPOConfig(**change)


def test_every_loss_has_the_clips_of_its_source_unless_set():
    assert GRPOConfig().clips == Clips(0.2, 0.28)
    assert GRPOConfig(dual_clip=3.0).clips == Clips(0.2, 0.28, 3.0)
    assert GRPOConfig(loss="gspo").clips == Clips(3e-4, 4e-4)
    assert GRPOConfig(loss="cispo", clip_high=1.5).clips == Clips(0.2, 1.5)
    assert GRPOConfig(loss="dppo_tv", clip_low=0.1).clips == Clips(0.1, 0.2)


def test_what_moves_learning_cannot_be_set_anew():
    assert not {"answers_per_look", "blank_answers"} & GRPOConfig().changeable
