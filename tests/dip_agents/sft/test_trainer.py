import copy
from dataclasses import replace

import pytest
import torch

from dip_agents.policies.oracle import OracleConfig
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.logger import RunLogger, read_metrics
from dip_agents.sft.demonstrations import DemonstrationDataset
from dip_agents.sft.trainer import (
    DenseHeads,
    SFTConfig,
    _LessonOrder,
    dense_targets,
    learning_rate_share,
    sft_counts,
    sft_loss,
    sigma_at,
    train_sft,
)
from dip_env.errors import ConfigError


def demonstrations(vlm, toy, rules):
    return DemonstrationDataset(toy, 4, rules, OracleConfig(), vlm.chat)


@pytest.fixture
def config():
    return SFTConfig(
        steps=12,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=2,
        coordinate_sigma=1.0,
        dense_weight=0.5,
        workers=0,
        checkpoint_every=4,
        optimizer="muon",
    )


def test_demonstrations_are_learned(fresh_micro, toy, minimal_prompt_rules, config):
    vlm = fresh_micro()
    data = demonstrations(vlm, toy, minimal_prompt_rules)
    batch = [data[i] for i in range(4)]
    with torch.no_grad():
        before = sft_loss(vlm, batch, None)
    train_sft(vlm, data, config)
    with torch.no_grad():
        after = sft_loss(vlm, batch, None)
    assert after.text < 0.8 * before.text
    assert after.accuracy > before.accuracy


def test_the_loss_is_the_mean_over_what_the_demonstrator_said(micro, toy, minimal_prompt_rules):
    vlm = micro("qwen3_vl")
    data = demonstrations(vlm, toy, minimal_prompt_rules)
    batch = [data[0], data[2]]
    with torch.no_grad():
        loss = sft_loss(vlm, batch, None)
        out = vlm.token_logprobs([demonstration.buffer for demonstration in batch])
    expected = -float(out.logprobs.sum()) / int(out.mask.sum())
    assert loss.text == pytest.approx(expected, rel=1e-4)
    assert loss.dense == 0.0


def test_an_interrupted_run_goes_on_bit_for_bit(
    fresh_micro, toy, minimal_prompt_rules, config, tmp_path
):
    whole, parts = fresh_micro(), fresh_micro()
    with RunLogger(tmp_path / "a", 12, print_interval=0) as logger:
        train_sft(
            whole,
            demonstrations(whole, toy, minimal_prompt_rules),
            config,
            tmp_path / "a",
            logger=logger,
        )

    class Interrupted(RuntimeError):
        pass

    class Breaks(RunLogger):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 6:
                raise Interrupted

    data = demonstrations(parts, toy, minimal_prompt_rules)
    with pytest.raises(Interrupted), Breaks(tmp_path / "b", 12, print_interval=0) as logger:
        train_sft(parts, data, config, tmp_path / "b", logger=logger)
    again = fresh_micro()
    with RunLogger(tmp_path / "b", 12, print_interval=0) as logger:
        train_sft(again, data, config, tmp_path / "b", resume=True, logger=logger)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    losses = [
        [row["sft/loss"] for row in read_metrics(tmp_path / run / "metrics.jsonl")] for run in "ab"
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 12


def test_smoothing_needs_integer_tokens(fresh_micro, toy, minimal_prompt_rules, config):
    vlm = fresh_micro()
    vlm.processor = copy.copy(vlm.processor)
    vlm.processor.tokenizer = type(
        "Other", (), {"convert_tokens_to_ids": lambda self, tokens: [3] * len(tokens)}
    )()
    with pytest.raises(ConfigError, match="coordinate_sigma: expected 0"):
        train_sft(vlm, demonstrations(fresh_micro(), toy, minimal_prompt_rules), config)


def test_shares_of_a_batch_add_up_to_its_loss(micro, toy, minimal_prompt_rules, config):
    vlm = micro("qwen3_vl")
    data = demonstrations(vlm, toy, minimal_prompt_rules)
    batch = [data[i] for i in range(4)]
    torch.manual_seed(0)
    heads = DenseHeads(vlm.core.config.text_config.hidden_size)

    class Two(DistributedContext):
        """Both shares' counts, as the other rank would tell them."""

        def gather(self, value):
            return counts

    with torch.no_grad():
        whole = sft_loss(vlm, batch, heads, 1.0, 0.5)
        counts = [sft_counts(part, dense_targets(vlm, part)) for part in (batch[:1], batch[1:])]
        parts = [sft_loss(vlm, part, heads, 1.0, 0.5, Two()) for part in (batch[:1], batch[1:])]
    assert whole.dense > 0
    for name in ("total", "text", "dense", "accuracy"):
        both = sum(float(getattr(part, name)) for part in parts)
        assert both == pytest.approx(float(getattr(whole, name)), rel=1e-4), name


def test_ranks_go_through_every_batch_together():
    config = SFTConfig(steps=3, batch_size=5)
    whole = list(_LessonOrder(7, 1, config, range(5)))
    parts = [list(_LessonOrder(7, 1, config, part)) for part in (range(3), range(3, 5))]
    assert whole == [*parts[0][:3], *parts[1][:2], *parts[0][3:], *parts[1][2:]]
    # 15 places of which the first step took 5: the rest of epoch 0, epoch 1 and one of epoch 2.
    assert sorted(whole[2:9]) == list(range(7))


def test_the_rate_rises_stays_and_falls():
    config = SFTConfig(steps=100, warmup_steps=10, decay_steps=19)
    rates = [learning_rate_share(step, config) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([k / 10 for k in range(1, 11)])
    assert rates[9:81] == [1.0] * 72
    assert rates[81:] == pytest.approx([k / 20 for k in range(19, 0, -1)])


def test_coordinates_sharpen_while_the_rate_falls():
    config = SFTConfig(steps=10, decay_steps=4, coordinate_sigma=1.5, final_sigma=0.5)
    widths = [sigma_at(step, config) for step in (1, 6, 8, 10)]
    assert widths == [1.5, 1.5, 1.0, 0.5]
    assert sigma_at(10, replace(config, final_sigma=None)) == 1.5


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    fresh_micro, toy, minimal_prompt_rules, config, tmp_path
):
    data = demonstrations(fresh_micro(), toy, minimal_prompt_rules)
    settings = replace(config, steps=4, decay_steps=2)
    whole, stopped, again = fresh_micro(), fresh_micro(), fresh_micro()
    train_sft(whole, data, settings)
    # In the middle of the fall of the rate, and between checkpoints.
    train_sft(stopped, data, settings, tmp_path, stop_at=3)
    assert not all(map(torch.equal, stopped.state_dict().values(), whole.state_dict().values()))
    train_sft(again, data, settings, tmp_path, resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    before = again.state_dict()
    train_sft(again, data, settings, tmp_path, resume=True, stop_at=4)  # done already
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
    for step in (3, 5):
        with pytest.raises(ConfigError, match=rf"stop_at: expected 4\.\.4, since .* got {step}"):
            train_sft(again, data, settings, tmp_path, resume=True, stop_at=step)
    with pytest.raises(ConfigError, match=r"stop_at: expected 1\.\.4"):
        train_sft(again, data, settings, stop_at=0)


def test_a_run_may_be_prolonged_until_its_rate_falls(
    fresh_micro, toy, minimal_prompt_rules, config, tmp_path
):
    data = demonstrations(fresh_micro(), toy, minimal_prompt_rules)
    short = replace(config, steps=4, decay_steps=0)
    train_sft(fresh_micro(), data, short, tmp_path / "run")
    whole, again = fresh_micro(), fresh_micro()
    longer = replace(short, steps=6)
    train_sft(again, data, longer, tmp_path / "run", resume=True)
    train_sft(whole, data, longer)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    falling = replace(config, steps=4, decay_steps=2)
    train_sft(fresh_micro(), data, falling, tmp_path / "falling")
    with pytest.raises(ConfigError, match=r"expected \(4, 2, None\), since the learning rate"):
        train_sft(fresh_micro(), data, replace(falling, steps=6), tmp_path / "falling", resume=True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("learning_rate", 0.0),
        ("p_no_look", 1.5),
        ("p_blurred_overview", 1.5),
        ("p_blurred_overview", -0.1),
        ("p_blurred_overview", 0.1),  # whom nobody can see would be answered, since smallest is 0
        ("look", "up"),
        ("final_sigma", 2.0),
        ("optimizer", "sgd"),
    ],
)
def test_settings_out_of_range_name_their_field(field, value):
    with pytest.raises(ConfigError, match=field):
        SFTConfig(**{field: value})
