from dataclasses import replace

import pytest
import torch
from rich.console import Console

from dip_agents.engines.hf import HFEngine
from dip_agents.grpo.config import GRPOConfig
from dip_agents.grpo.run import RolloutLimits, _reference, scene_indices, train_grpo
from dip_agents.models.loading import LoadedModel, load_model
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vlm import VLM
from dip_agents.runtime.distributed import DistributedContext
from dip_agents.runtime.logger import read_metrics
from dip_agents.sft.config import SFTConfig
from dip_agents.sft.run import train_sft
from dip_agents.tokens.buffer import TokenBuffer
from dip_env.config import EpisodeConfig
from dip_env.errors import ConfigError
from dip_env.scenes import ToyScenes
from dip_wrappers.traces import load_traces, replay

LIMITS = RolloutLimits(max_new_tokens=48, token_budget=300)
RULES = EpisodeConfig(
    view_size=128, crop_size=64, max_looks=1, max_regions=2, max_turns=3, minimal_prompt=True
)


@pytest.fixture
def quiet(tmp_path):
    with (tmp_path / "console.txt").open("w") as file:
        yield Console(file=file)


@pytest.fixture
def config():
    return GRPOConfig(
        steps=3,
        scenes_per_step=2,
        group_size=3,
        learning_rate=1e-3,
        warmup_steps=0,
        completions_interval=2,
        checkpoint_interval=1,
        temperature=0.4,
    )


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A micro model that has just learned the form, so that its rewards differ."""
    out = tmp_path_factory.mktemp("tuned")
    model, processor = build_tiny(tiny_texts(), size="micro")
    loaded = LoadedModel(VLM(model, processor), RULES, trained=False)
    settings = SFTConfig(
        steps=70,
        batch_size=4,
        learning_rate=4e-3,
        warmup_steps=5,
        workers=0,
        checkpoint_interval=70,
    )
    with (out / "console.txt").open("w") as file:
        train_sft(loaded, ToyScenes(), RULES, settings, 4, out, console=Console(file=file))
    return out / "model"


def trained(folder, toy, config, out, quiet, **changes):
    loaded = load_model(str(folder), dtype="float32")
    train_grpo(loaded, toy, RULES, config, out, limits=LIMITS, console=quiet, **changes)
    return loaded.vlm


@pytest.mark.grpo_property(10)
@pytest.mark.parametrize(
    "changes",
    [
        {"advantage": "gigpo"},
        {
            "group_size": 6,
            "answers_per_look": 3,
            "blank_answers": 1,
            "advantage": "batch_std",
            "look_credit": "causal",
        },
    ],
)
def test_a_run_on_the_real_model_goes_on_bit_for_bit(
    tuned, toy, config, tmp_path, quiet, monkeypatch, changes
):
    config = replace(
        config, zero_variance_groups="resample", max_resamples=1,
        entropy_target=0.5, reward_schedule=("look_weight:1=0.1,3=0.5", "iou:1=0.3,2=0.5"),
        **changes,
    )  # fmt: skip
    whole = trained(tuned, toy, config, tmp_path / "whole", quiet)

    class Interrupted(RuntimeError):
        pass

    import dip_agents.grpo.run as grpo_run

    real = grpo_run.collect_rollouts

    def breaks(*arguments, **settings):
        if settings["step"] == 3:
            raise Interrupted
        return real(*arguments, **settings)

    monkeypatch.setattr(grpo_run, "collect_rollouts", breaks)
    with pytest.raises(Interrupted):
        trained(tuned, toy, config, tmp_path / "parts", quiet)
    monkeypatch.setattr(grpo_run, "collect_rollouts", real)
    again = trained(tuned, toy, config, tmp_path / "parts", quiet, resume=True)
    for name, tensor in whole.state_dict().items():
        assert tensor.equal(again.state_dict()[name]), name
    logs = [read_metrics(tmp_path / run / "metrics.jsonl") for run in ("whole", "parts")]
    for first, second in zip(*logs, strict=True):
        for key in first:
            assert key.startswith("time/") or first[key] == second[key], key
    gaps = [row["train/behaviour_gap_max"] for row in logs[0] if "train/behaviour_gap_max" in row]
    assert gaps and max(gaps) < 1e-4


def test_traces_of_a_run_replay(tuned, toy, config, tmp_path, quiet):
    trained(tuned, toy, config, tmp_path / "run", quiet)
    for step in (1, 2):
        traces = load_traces(tmp_path / "run" / "traces" / f"step_{step:06d}")
        assert len(traces) == 6
        for trace in traces:
            replay(trace, toy)


def test_a_kl_keeps_the_policy_near_where_it_started(tuned, toy, config, tmp_path, quiet):
    trained(tuned, toy, replace(config, kl_weight=0.1), tmp_path / "kl", quiet)
    rows = read_metrics(tmp_path / "kl" / "metrics.jsonl")
    distances = [row["train/ref_kl"] for row in rows if "train/ref_kl" in row]
    assert distances[0] == pytest.approx(0.0, abs=1e-9)
    assert all(distance >= 0 for distance in distances)


def test_more_scenes_per_step_than_there_are_is_refused(tuned, toy, config, tmp_path, quiet):
    with pytest.raises(ConfigError, match="scenes_per_step: expected at most the 4 scenes"):
        trained(tuned, toy, replace(config, scenes_per_step=5), tmp_path / "x", quiet)


def test_every_epoch_uses_every_scene_once():
    config = GRPOConfig(scenes_per_step=3)
    steps = [scene_indices(step, config, 9) for step in range(1, 7)]
    assert sorted(i for step in steps[:3] for i in step) == list(range(9))
    assert sorted(i for step in steps[3:] for i in step) == list(range(9))
    assert steps[:3] != steps[3:]


def test_further_rounds_of_a_step_draw_their_own_scenes_the_same_every_time():
    config = GRPOConfig(scenes_per_step=3)
    drawn = [scene_indices(step, config, 40, round_) for step in (1, 2) for round_ in (1, 2)]
    assert len({tuple(scenes) for scenes in drawn}) == 4
    assert all(len(set(scenes)) == 3 for scenes in drawn)
    assert drawn[0] == scene_indices(1, config, 40, 1)
    assert drawn[0] != scene_indices(1, replace(config, seed=1), 40, 1)
    assert len(set(scene_indices(1, config, 2**31 - 1, 1))) == 3


def test_the_scheduled_reward_is_the_one_that_is_computed(tuned, toy, config, tmp_path, quiet):
    schedule = ("format_weight:1=2.0,2=0.5", "accuracy_weight:1=0", "look_weight:1=0")
    # At this rate the policy stays what it is, and earns something.
    still = replace(config, steps=2, learning_rate=1e-9, reward_schedule=schedule)
    trained(tuned, toy, still, tmp_path, quiet)
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert first["reward/format"] > 0 and second["reward/format"] > 0
    assert first["reward/total"] == pytest.approx(2.0 * first["reward/format"])
    assert second["reward/total"] == pytest.approx(0.5 * second["reward/format"])
    with pytest.raises(ConfigError, match="reward_schedule: step 9: iou"):
        bad = replace(config, reward_schedule=("iou:1=0.5,9=2",))
        trained(tuned, toy, bad, tmp_path / "bad", quiet)


class OtherEngine(HFEngine):
    """The same weights, presented as another engine that rounds a little."""

    exact_logprobs = False

    def __init__(self, vlm):
        super().__init__(vlm)
        self.versions = []

    def sync(self, vlm, version):
        self.versions.append(version)


def test_another_engine_gets_the_weights_each_step_and_its_tokens_are_weighted(
    tuned, toy, config, tmp_path, quiet
):
    loaded = load_model(str(tuned), dtype="float32")
    engine = OtherEngine(loaded.vlm)
    train_grpo(loaded, toy, RULES, config, tmp_path, engine=engine, limits=LIMITS, console=quiet)
    assert len(engine.versions) == len(set(engine.versions)) == config.steps
    rows = read_metrics(tmp_path / "metrics.jsonl")
    learned = [row for row in rows if row["train/updates"]]
    assert learned and all(row["train/importance_truncated"] == 0.0 for row in learned)
    trained(tuned, toy, replace(config, steps=1), tmp_path / "own", quiet)
    assert "train/importance_truncated" not in read_metrics(tmp_path / "own" / "metrics.jsonl")[0]


def test_an_engine_that_serves_two_runs_never_meets_a_version_again(
    tuned, toy, config, tmp_path, quiet
):
    config = replace(config, steps=2, zero_variance_groups="resample", max_resamples=1)
    loaded = load_model(str(tuned), dtype="float32")
    engine, runs = OtherEngine(loaded.vlm), []
    for name in ("one", "two"):
        engine.versions = []
        settings = {"limits": LIMITS, "console": quiet, "engine": engine}
        train_grpo(loaded, toy, RULES, config, tmp_path / name, **settings)
        runs.append(set(engine.versions))
    # Further rounds of a step play with the same weights, which need no sync.
    assert [len(run) for run in runs] == [2, 2]
    assert not runs[0] & runs[1]


def test_the_weights_of_a_single_rank_are_not_compared(
    tuned, toy, config, tmp_path, quiet, monkeypatch
):
    monkeypatch.delattr("dip_agents.grpo.run.fingerprint")
    trained(tuned, toy, replace(config, steps=1), tmp_path, quiet)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


def test_huge_sources_never_repeat_a_scene():
    config = GRPOConfig(scenes_per_step=8)
    seen = [i for step in range(1, 200) for i in scene_indices(step, config, 2**31 - 1)]
    assert len(set(seen)) == len(seen)


def test_a_frozen_copy_is_the_reference_of_every_family(generic_micro, minimal_prompt_rules):
    vlm = generic_micro("llava")
    reference = _reference(vlm, vlm, GRPOConfig(kl_weight=0.1), DistributedContext())
    buffer = TokenBuffer(vlm.image_token_id)
    buffer.append_env(vlm.chat.tokenizer.encode("people"))
    buffer.append_policy(vlm.chat.policy_ids("<answer>[]</answer>"), None)
    with torch.no_grad():
        torch.testing.assert_close(reference([buffer]), vlm.token_logprobs([buffer]).logprobs)


def test_a_run_with_branches_looks_once_for_several_answers(tuned, toy, config, tmp_path, quiet):
    config = replace(config, steps=1, group_size=6, answers_per_look=3, blank_answers=1)
    trained(tuned, toy, config, tmp_path, quiet)
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["rollout/forked"] > 0
    wanted = row["rollout/accuracy_with_crops"] - row["rollout/accuracy_blank"]
    assert row["rollout/crop_value"] == pytest.approx(wanted)
    assert row["group/look_return_spread"] >= 0 and row["group/answer_spread"] >= 0
    traces = load_traces(tmp_path / "traces" / "step_000001")
    assert [trace.control for trace in traces] == [None, None, "crops blanked"] * 4


@pytest.mark.parametrize("rules", [{"max_looks": 0}, {"max_turns": 1}])
def test_several_answers_to_a_look_need_a_turn_after_it(tuned, toy, config, tmp_path, quiet, rules):
    loaded = load_model(str(tuned), dtype="float32")
    config = replace(config, group_size=4, answers_per_look=2)
    with pytest.raises(ConfigError, match="answers_per_look: expected 1 where no answer can"):
        train_grpo(
            loaded, toy, replace(RULES, **rules), config, tmp_path, limits=LIMITS, console=quiet
        )
