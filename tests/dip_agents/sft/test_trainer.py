import copy
from dataclasses import replace

import pytest
import torch

from dip_agents.policies.oracle import OracleConfig
from dip_agents.runtime.errors import NonFiniteUpdateError
from dip_agents.runtime.logger import RunLogger, read_metrics
from dip_agents.sft.config import SFTConfig
from dip_agents.sft.demonstrations import DemonstrationDataset
from dip_agents.sft.loss import sft_loss
from dip_agents.sft.trainer import SFTTrainer, _DemonstrationOrder, learning_rate_at
from dip_env.errors import ConfigError


def demonstrations(vlm, toy, rules):
    return DemonstrationDataset(toy, 4, rules, OracleConfig(), vlm.chat)


def trainer(vlm, data, config, folder, logger=None):
    return SFTTrainer(vlm, data, config, checkpoints=folder / "checkpoints", logger=logger)


def resumed(*arguments):
    found = trainer(*arguments)
    found.resume()
    return found


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
        checkpoint_interval=4,
        optimizer="muon",
    )


def test_demonstrations_are_learned(fresh_micro, toy, minimal_prompt_rules, config):
    vlm = fresh_micro()
    data = demonstrations(vlm, toy, minimal_prompt_rules)
    batch = [data[i] for i in range(4)]
    with torch.no_grad():
        before = sft_loss(vlm, batch, None)
    SFTTrainer(vlm, data, config).train()
    with torch.no_grad():
        after = sft_loss(vlm, batch, None)
    assert after.text < 0.8 * before.text
    assert after.accuracy > before.accuracy


def test_micro_batches_add_up_to_the_gradient_of_the_batch(
    fresh_micro, toy, minimal_prompt_rules, config
):
    gradients = []
    for limit in (1, 100_000):  # every demonstration alone, and all at once
        vlm = fresh_micro()
        data = demonstrations(vlm, toy, minimal_prompt_rules)
        learner = SFTTrainer(vlm, data, replace(config, micro_batch_tokens=limit))
        losses = learner._backward([data[i] for i in range(3)], sigma=1.0)
        assert len(losses) == (3 if limit == 1 else 1)
        gradients.append([p.grad.clone() for p in vlm.trainable_parameters()])
    for parts, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-4)


def test_an_interrupted_run_goes_on_bit_for_bit(
    fresh_micro, toy, minimal_prompt_rules, config, tmp_path
):
    whole, parts = fresh_micro(), fresh_micro()
    with RunLogger(tmp_path / "a", 12, print_interval=0) as logger:
        data = demonstrations(whole, toy, minimal_prompt_rules)
        trainer(whole, data, config, tmp_path / "a", logger).train()

    class Interrupted(RuntimeError):
        pass

    class Breaks(RunLogger):
        def log(self, step, metrics):
            super().log(step, metrics)
            if step == 6:
                raise Interrupted

    data = demonstrations(parts, toy, minimal_prompt_rules)
    with pytest.raises(Interrupted), Breaks(tmp_path / "b", 12, print_interval=0) as logger:
        trainer(parts, data, config, tmp_path / "b", logger).train()
    again = fresh_micro()
    with RunLogger(tmp_path / "b", 12, print_interval=0) as logger:
        resumed(again, data, config, tmp_path / "b", logger).train()
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
        SFTTrainer(vlm, demonstrations(fresh_micro(), toy, minimal_prompt_rules), config)


def test_ranks_go_through_every_batch_together():
    config = SFTConfig(steps=3, batch_size=5)
    whole = list(_DemonstrationOrder(7, 1, config, range(5)))
    parts = [list(_DemonstrationOrder(7, 1, config, part)) for part in (range(3), range(3, 5))]
    assert whole == [*parts[0][:3], *parts[1][:2], *parts[0][3:], *parts[1][2:]]
    # 15 indices of which the first step took 5: the rest of epoch 0, epoch 1 and one of epoch 2.
    assert sorted(whole[2:9]) == list(range(7))


def test_the_rate_rises_stays_and_falls():
    config = SFTConfig(steps=100, learning_rate=2.0, warmup_steps=10, decay_steps=19)
    rates = [learning_rate_at(step, config) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([2 * k / 10 for k in range(1, 11)])
    assert rates[9:81] == [2.0] * 72
    assert rates[81:] == pytest.approx([2 * k / 20 for k in range(19, 0, -1)])


def test_a_stopped_run_goes_on_as_if_it_had_not_stopped(
    fresh_micro, toy, minimal_prompt_rules, config, tmp_path
):
    data = demonstrations(fresh_micro(), toy, minimal_prompt_rules)
    settings = replace(config, steps=4, decay_steps=2)
    whole, stopped, again = fresh_micro(), fresh_micro(), fresh_micro()
    SFTTrainer(whole, data, settings).train()
    # In the middle of the fall of the rate, and between checkpoints.
    trainer(stopped, data, settings, tmp_path).train(stop_at=3)
    assert not all(map(torch.equal, stopped.state_dict().values(), whole.state_dict().values()))
    resumed(again, data, settings, tmp_path).train()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    before = again.state_dict()
    resumed(again, data, settings, tmp_path).train(stop_at=4)  # done already
    assert all(torch.equal(tensor, before[name]) for name, tensor in again.state_dict().items())
    for step in (3, 5):
        with pytest.raises(ConfigError, match=rf"stop_at: expected 4\.\.4, since .* got {step}"):
            resumed(again, data, settings, tmp_path).train(stop_at=step)
    with pytest.raises(ConfigError, match=r"stop_at: expected 1\.\.4"):
        SFTTrainer(again, data, settings).train(stop_at=0)


def test_a_run_may_be_prolonged_until_its_rate_falls(
    fresh_micro, toy, minimal_prompt_rules, config, tmp_path
):
    data = demonstrations(fresh_micro(), toy, minimal_prompt_rules)
    short = replace(config, steps=4, decay_steps=0)
    trainer(fresh_micro(), data, short, tmp_path / "run").train()
    whole, again = fresh_micro(), fresh_micro()
    longer = replace(short, steps=6)
    resumed(again, data, longer, tmp_path / "run").train()
    SFTTrainer(whole, data, longer).train()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    falling = replace(config, steps=4, decay_steps=2)
    trainer(fresh_micro(), data, falling, tmp_path / "falling").train()
    with pytest.raises(ConfigError, match=r"expected \(4, 2, None\), since the learning rate"):
        resumed(fresh_micro(), data, replace(falling, steps=6), tmp_path / "falling")


def test_a_gradient_that_is_not_finite_stops_before_the_weights_move(
    fresh_micro, toy, minimal_prompt_rules, config
):
    vlm = fresh_micro()
    data = demonstrations(vlm, toy, minimal_prompt_rules)
    broken = SFTTrainer(vlm, data, config)
    with torch.no_grad():
        broken.heads.text.flag.weight.fill_(torch.nan)
    before = {name: tensor.clone() for name, tensor in vlm.state_dict().items()}
    with pytest.raises(NonFiniteUpdateError, match="step 1: expected a finite gradient, got norm"):
        broken.train()
    assert all(torch.equal(tensor, before[name]) for name, tensor in vlm.state_dict().items())
