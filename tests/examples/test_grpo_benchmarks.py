from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vlm import VLM
from dip_agents.tokens.buffer import TokenBuffer

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def load(scripts) -> Callable[[str], ModuleType]:
    """Import benchmark files as a script beside them would."""
    return scripts("benchmarks")


@pytest.fixture
def run_of(load) -> Callable[..., Any]:
    def make(**changes: Any) -> Any:
        known: dict[str, Any] = {
            "side": "ours", "setting": "fp32", "step_seconds": [0.5, 1.5], "cpu_seconds": 3.0,
            "rollouts": 16, "sampled_tokens": 160, "total_tokens": 400, "lengths": (10, 10),
            "prompt_tokens": 15, "prompts": "ab", "megabytes": 100.0,
            "phases": {"rollout": 0.25}, "versions": {"torch": "2"},
        }  # fmt: skip
        return load("grpo_workload").Run(**(known | changes))

    return make


def test_speed_is_counted_over_whole_steps(run_of):
    run = run_of()
    assert run.seconds == 2.0
    assert run.rollouts_per_second == 8.0
    assert run.tokens_per_second == 80.0


def test_a_run_is_found_among_what_its_process_printed(load, run_of):
    run = run_of()
    printed = f"Loading weights: 100%\n{{'train_loss': 1}}\n{run.to_line()}\n"
    assert load("grpo_workload").Run.from_output(printed) == run


def test_a_process_without_numbers_is_reported(load):
    with pytest.raises(ValueError, match="expected a JSON line"):
        load("grpo_workload").Run.from_output("no numbers\n")


def test_ratios_are_taken_within_pairs(load):
    # A drift that slows both runs of the last pair down leaves its ratio as it is.
    spread = load("grpo_workload").paired_ratios([8.0, 9.0, 4.0], [2.0, 3.0, 1.0])
    assert (spread.median, spread.low, spread.high) == (4.0, 3.0, 4.0)
    assert str(spread) == "4.00 (3.00 to 4.00)"


def test_a_missing_partner_is_reported(load):
    with pytest.raises(ValueError, match="zip"):
        load("grpo_workload").paired_ratios([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rollouts", 15),
        ("sampled_tokens", 159),
        ("lengths", (9, 10)),
        ("prompt_tokens", 14),
        ("prompts", "cd"),
        ("total_tokens", 399),
    ],
)
def test_unequal_work_is_not_compared(load, run_of, name, value):
    check = load("grpo_workload").check_same_work
    check(run_of(), run_of(side="trl"))
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        check(run_of(), run_of(**{name: value}))


def test_each_closed_turn_is_one_token_more_on_our_side(load, run_of):
    check = load("grpo_workload").check_same_work
    check(run_of(), run_of(total_tokens=400 - 16), turns=2)
    with pytest.raises(ValueError, match="total_tokens"):
        check(run_of(), run_of(), turns=2)


def test_the_setting_of_the_peer_with_the_fastest_step_plays(load, run_of):
    tried = {
        "steady": run_of(step_seconds=[3.0, 3.0]),
        "disturbed": run_of(step_seconds=[9.0, 1.0]),
    }
    assert load("grpo_vs_trl").fastest(tried) == "disturbed"


def test_the_table_shows_medians_and_the_ratio_of_pairs(load, run_of):
    pairs = [
        (run_of(step_seconds=[a]), run_of(step_seconds=[b], megabytes=200.0))
        for a, b in ((1.0, 4.0), (2.0, 4.0), (4.0, 4.0))
    ]
    lines = load("grpo_vs_trl").table(pairs)
    assert "| rollouts/s | 8.0 | 4.0 | 2.00 (1.00 to 4.00) |" in lines
    assert "| peak memory, MB | 100 | 200 | 0.50 (0.50 to 0.50) |" in lines


def test_growth_compares_rollouts_of_the_largest_step_with_the_smallest(load, run_of):
    growth = load("grpo_growth")
    runs = {
        1: run_of(step_seconds=[1.0, 1.0], rollouts=16),
        8: run_of(step_seconds=[12.0, 12.0], rollouts=128, total_tokens=3200),
    }
    assert growth.per_rollout(runs[1]) == 125.0
    assert "| 8 | 64 | 1600 | 12.00 | 187.5 | 1.50 x | 100 |" in growth.table(runs)


@pytest.mark.slow
def test_growth_is_measured_for_every_size(load, monkeypatch, capsys):
    growth = load("grpo_growth")
    monkeypatch.setattr(growth, "SIZES", (1, 2))
    monkeypatch.setattr(sys, "argv", ["benchmark", "--smoke"])
    code = growth.main()
    out = capsys.readouterr().out
    assert "| 1 | 4 | " in out and "| 2 | 8 | " in out
    assert code == ("MISSED" in out)


def test_a_soak_sees_memory_that_grows_and_a_command_that_fails(load, monkeypatch, tmp_path):
    soak = load("soak")
    flat = soak.Soak("train", 100, 1.0, 500.0, 510.0)
    assert flat.growth < soak.GROWTH_LIMIT < soak.Soak("train", 100, 1.0, 500.0, 550.0).growth
    (tmp_path / "metrics.jsonl").write_text('{"step": 7}\n{"step": 8}\n{"st')
    assert soak.last_step(tmp_path / "metrics.jsonl") == 8
    assert soak.last_step(tmp_path / "none") == 0
    with pytest.raises(RuntimeError, match="unknown option"):
        soak.soak(["train", "--stepz", "1"], 20, tmp_path / "run")


def test_scaling_follows_from_sizes_and_rates(load):
    scaling = load("scaling")
    model, step = scaling.Model(weights=10, layers=2, kv_heads=3, head_size=4), scaling.Step(
        groups=2, group_size=4, prompt=100, looks=1, crops=1, sampled=76
    )  # fmt: skip
    assert model.kv_bytes == 2 * 2 * 2 * 3 * 4
    assert (step.tokens, step.unique_tokens) == (300, 2 * (100 + 4 * 200))
    cluster = scaling.Cluster(2, efficiency=0.5, bandwidth=200.0, operations=600.0, link=4.0)
    found = scaling.cost(model, step, cluster, episodes_per_second=2.0)
    # Each of 76 steps reads 20 bytes of weights and 4 rows of 225 tokens, at 100 bytes a second.
    assert found.decode == pytest.approx(76 * (20 + 4 * 96 * 225) / 100)
    assert found.update == pytest.approx(6 * 10 * 1800 / 600)
    assert found.sync == pytest.approx(20 / 4)
    assert found.workers == pytest.approx(8 / (found.decode + found.prefill) / 2)


def test_the_guide_shows_what_the_script_prints(load, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling"])
    assert load("scaling").main() == 0
    guide = (BENCHMARKS.parents[1] / "docs" / "guides" / "scaling.md").read_text()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(printed) == 5
    for line in printed:
        assert line in guide


def test_both_sides_offer_the_same_settings(load):
    # TRL is not installed here, so its side is read and not imported.
    tree = ast.parse((BENCHMARKS / "trl_side.py").read_text())
    settings = next(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "SETTINGS"
    )
    assert isinstance(settings, ast.Dict)
    names = tuple(ast.literal_eval(key) for key in settings.keys if key is not None)
    assert names == load("grpo_vs_trl").TRL_SETTINGS


def test_what_runs_beside_trl_needs_nothing_of_this_project():
    for file in ("trl_side.py", "grpo_workload.py"):
        tree = ast.parse((BENCHMARKS / file).read_text())
        modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        modules |= {n.name for node in ast.walk(tree) if isinstance(node, ast.Import)
                    for n in node.names}  # fmt: skip
        assert not {m for m in modules if m and m.startswith("dip_")}, file


def test_the_peer_gets_our_versions_without_their_local_part(load, monkeypatch):
    module = load("grpo_vs_trl")
    monkeypatch.setattr(module, "version", lambda name: "2.15.0+cpu")
    assert {"trl==1.16.*", "torch==2.15.0", "transformers==2.15.0"} <= set(module.packages())


def test_a_missing_environment_is_reported_with_how_to_make_it(load, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--trl", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        load("grpo_vs_trl").main()
    assert f"--setup {tmp_path / 'none'}" in capsys.readouterr().err


def test_the_reward_is_the_share_of_even_digits(load):
    reward = load("grpo_workload").reward
    assert reward("2431,") == 0.4
    assert reward("") == 0.0


def test_looks_lie_inside_the_view_and_depend_on_the_generated_text(load):
    regions_of = load("grpo_workload").regions_of
    seen = {tuple(regions_of([i, i + 1], 256)) for i in range(50)}
    assert len(seen) == 50
    for regions in seen:
        for x1, y1, x2, y2 in regions:
            assert 0 <= x1 < x2 <= 256
            assert 0 <= y1 < y2 <= 256
            assert (x2 - x1, y2 - y1) == (64, 64)


@pytest.mark.parametrize("turns", [1, 2])
def test_our_side_samples_and_learns_exactly_the_tokens_of_the_workload(load, tmp_path, turns):
    work = load("grpo_workload").Workload(
        groups=2, group_size=2, turns=turns, new_tokens=31, warmup=1, steps=2, view=64, crop=64,
        scene=64, seed=1,  # with seed 0 both members of a group happen to earn the same
    )  # fmt: skip
    load("grpo_vs_trl").prepare(work, tmp_path, size="micro")
    assert len(list(tmp_path.glob("view_*.bmp"))) == work.scenes == 6
    written = load("dip_side").measure(work, tmp_path).to_line()
    run = load("grpo_workload").Run.from_output(written)
    assert len(run.step_seconds) == work.steps
    assert min(run.step_seconds) > 0
    assert run.rollouts == 8
    assert run.lengths == (31 * turns, 31 * turns)
    assert run.sampled_tokens == 8 * 31 * turns
    # Overview of 2 x 2 tokens; of two turns, two crops of 2 x 2 in between.
    assert (run.total_tokens > 8 * (run.prompt_tokens + 62 + 8)) == (turns == 2)


def test_a_side_that_fails_tells_what_it_wrote(load):
    with pytest.raises(RuntimeError, match="boom"):
        load("grpo_vs_trl").run_side([sys.executable, "-S", "-c", "exit('boom')"], threads=1)


def test_silenced_tokens_are_never_likely_and_the_others_as_before(load):
    model, processor = build_tiny(tiny_texts(), size="micro")
    ids = torch.tensor([[5, 700, 3, 900]])
    load("random_weights").silence(model, processor)
    with torch.no_grad():
        probabilities = model(input_ids=ids).logits[0].softmax(-1)
    special = processor.tokenizer.all_special_ids
    assert processor.tokenizer.eos_token_id in special
    assert probabilities[:, special].sum() < 1e-6
    assert probabilities[:, len(processor.tokenizer) :].sum() < 1e-6
    # The rest stays random: no word has taken their place.
    assert probabilities.max() < 0.1


def test_work_counts_what_a_group_shares_once(load):
    def rollout(own: int) -> SimpleNamespace:
        buffer = TokenBuffer(image_token_id=99)
        buffer.append_env([1, 2, 3])
        buffer.append_policy([4] * own, [0.0] * own)
        return SimpleNamespace(buffer=buffer)

    group = SimpleNamespace(rollouts=[rollout(2), rollout(4)])
    work = load("step_flops").Work.of([group])
    assert (work.tokens, work.sampled, work.patches) == (3 + 2 + 4, 6, 0)
    # By hand: prefix 1+2+3; first rollout 4+5; second 4+5+6+7.
    assert work.pairs == 6 + 9 + 22


def test_operations_are_six_per_weight_and_token(load):
    flops = load("step_flops")
    vlm = VLM(*build_tiny(tiny_texts(), family="qwen2_5_vl", size="micro"))
    config = vlm.core.config.text_config
    layers = vlm.core.model.language_model.layers
    weights = sum(p.numel() for p in layers.parameters() if p.ndim == 2)
    text = flops.flops(vlm, flops.Work(7, 0, 0, 0), flops.FULL_UPDATE)
    assert text == 6 * 7 * weights
    head = flops.flops(vlm, flops.Work(0, 5, 0, 0), flops.FULL_UPDATE)
    assert head == 6 * 5 * config.hidden_size * config.vocab_size
    pairs = flops.flops(vlm, flops.Work(0, 0, 0, 3), flops.FORWARD)
    assert pairs == 4 * 3 * config.num_hidden_layers * config.hidden_size


def test_a_switch_changes_how_and_not_what_is_computed(load):
    gpu = load("grpo_on_gpu")
    work = replace(gpu.SMOKE, warmup=1, steps=1, new_tokens=6)
    vlm = gpu.build(True, torch.device("cpu"), 0)
    vlm.autocast = None
    groups = load("dip_side").train(work, vlm, gpu.rules_of(work)).groups
    buffers = [rollout.buffer for rollout in groups[0].rollouts]
    with torch.no_grad():
        expected = vlm.token_logprobs(buffers).logprobs
        for name, switch in gpu.SWITCHES.items():
            with switch(vlm):
                found = vlm.token_logprobs(buffers).logprobs
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0, msg=name)


def test_a_switch_is_undone(load):
    gpu = load("grpo_on_gpu")
    vlm = gpu.build(True, torch.device("cpu"), 0)
    visual = vlm.core.model.visual

    def state() -> tuple[bool, bool, bool, bool]:
        return (
            vlm.shares_prefix,
            vlm.head.weight() is not None,
            "forward" in vars(visual),
            "forward" in vars(visual.blocks[0].attn),
        )

    assert state() == (True, True, True, True)
    seen = {}
    for name, switch in gpu.SWITCHES.items():
        with switch(vlm):
            seen[name] = state()
        assert state() == (True, True, True, True), name
    assert seen["without shared prefix"] == (False, True, True, True)
    assert seen["without tiled head"] == (True, False, True, True)
    assert seen["without fast vision"] == (True, True, False, False)


def test_the_smoke_run_measures_every_row(load, monkeypatch, capsys):
    gpu = load("grpo_on_gpu")
    monkeypatch.setattr(gpu, "SMOKE", replace(gpu.SMOKE, new_tokens=4, steps=1))
    monkeypatch.setattr(sys, "argv", ["benchmark", "--smoke", "--markdown"])
    assert gpu.main() == 0
    out = capsys.readouterr().out
    rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [row["switch"] for row in rows] == list(gpu.SWITCHES)
    for row in rows:
        assert 0 < row["forward"] < row["update"] < row["step"]
        assert 0 < row["sync"] < row["rollout"] < row["step"]
        assert 0 < row["mfu_step"] < 1
    assert "- Command: `python examples/benchmarks/grpo_on_gpu.py --smoke`" in out
    assert "| without fast vision | " in out


def test_without_a_gpu_the_gpu_benchmark_says_so(load, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    with pytest.raises(SystemExit):
        load("grpo_on_gpu").main()
    assert "expected a CUDA device" in capsys.readouterr().err
