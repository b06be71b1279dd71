from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from dip_env.actions import Grammar
from dip_env.boxes import box_iou
from dip_env.metrics import Interval
from dip_env.scenes.procedural.parameters import PRESETS

BENCHMARKS = Path(__file__).parents[2] / "examples" / "benchmarks"


@pytest.fixture
def load() -> Iterator[Callable[[str], ModuleType]]:
    loaded: list[str] = []

    def by_name(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(
            f"{name}_benchmark", BENCHMARKS / f"{name}.py"
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look up their annotations
        loaded.append(spec.name)
        spec.loader.exec_module(module)
        return module

    yield by_name
    for name in loaded:
        del sys.modules[name]


def main(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    return module.main()


def test_env_speed_measures_every_claim(load, monkeypatch, capsys):
    # On toy scenes, a busy machine may miss a limit: what is tested is that all are measured.
    code = main(load("env_speed"), monkeypatch, "--quick")
    out = capsys.readouterr().out
    limits = [line.split("|")[-3].strip() for line in out.splitlines() if line.startswith("| ")]
    assert limits.count("1.5 x") == 6
    assert limits.count("3 x") == 1
    assert limits.count("1.9 x") == 3
    assert limits.count("1.25 x") == 1
    rows = [line.split(" | ") for line in out.splitlines() if line.startswith("| episode, ")]
    for row in rows:
        # Both are rounded: to a microsecond, and to a whole number of episodes.
        assert float(row[1]) * float(row[2]) == pytest.approx(1000, rel=0.02)
    assert len(rows) == 7
    assert limits.count("20 ms") == 1
    assert code == ("MISSED" in out)


def test_env_speed_fails_when_a_limit_is_missed(load, capsys):
    module = load("env_speed")
    kept = module.Row("a step", 1.0, 1.4, limit=1.5)
    missed = module.Row("a slow step", 2.0, 1.6, limit=1.5)
    assert module.report([kept]) == 0
    assert module.report([kept, missed]) == 1
    assert "missed: a slow step" in capsys.readouterr().out


def test_the_textbook_iou_is_the_iou(load):
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (40, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(1, 50, (40, 2))], axis=1)
    np.testing.assert_allclose(load("env_speed").textbook_iou(boxes, boxes), box_iou(boxes, boxes))


def test_hostile_texts_have_the_length_they_claim(load):
    for name, make in load("parser_bounds").HOSTILE.items():
        for n in (1000, 4000):
            assert n - 60 < len(make(n)) <= n, name


def test_random_actions_break_nothing(load, capsys):
    assert load("parser_bounds").check_actions(600, seed=1) == 0
    out = capsys.readouterr().out
    for fate in ("parsed", "malformed", "parsed, but refused"):
        assert f"'{fate}'" in out


def test_a_reward_out_of_range_is_counted(load, monkeypatch):
    module = load("parser_bounds")
    total = module.RewardConfig.weights.fget
    # As if rewards had the wrong sign.
    monkeypatch.setattr(
        module.RewardConfig,
        "weights",
        property(lambda self: {k: -v for k, v in total(self).items()}),
    )
    assert module.check_actions(200, seed=0) > 0


def test_parse_time_is_measured_for_every_hostile_text(load, capsys):
    module = load("parser_bounds")
    module.check_times(4000, repeats=2)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == len(module.HOSTILE) + 1


def test_quadratic_time_is_found_out(load, monkeypatch):
    module = load("parser_bounds")

    def quadratic(self: Grammar, text: str) -> tuple[()]:
        for _ in range(len(text) // 100):
            text.count("ab")
        return ()

    monkeypatch.setattr(module, "HOSTILE", {"a": module.repeated("a")})
    monkeypatch.setattr(Grammar, "parse", quadratic)
    assert module.check_times(40_000, repeats=2) == 1


def test_metrics_speed_measures_every_protocol_and_checks_coco(load, monkeypatch, capsys):
    # On a set this small a busy machine may miss a limit of time: what is tested is that all are
    # measured, and that our AP is that of pycocotools.
    code = main(load("metrics_speed"), monkeypatch, "--rounds", "1", "--share", "0.004")
    out = capsys.readouterr().out
    for protocol in ("crowdhuman", "citypersons", "wider", "uavdt", "no scores", "coco"):
        assert f"| {protocol} | " in out
    assert "| coco, seconds | " in out
    assert "| coco, time per image over that of pycocotools | " in out
    gap = next(row for row in out.splitlines() if row.startswith("| coco, AP minus that of "))
    assert gap.endswith(" | 1e-12 | pass |")
    assert code == ("MISSED" in out)


def test_cli_speed_measures_help_and_usage_errors_beside_a_bare_import(load, monkeypatch, capsys):
    module = load("cli_speed")
    monkeypatch.setattr(
        module,
        "COMMANDS",
        {name: module.COMMANDS[name] for name in (module.REFERENCE, "dip --help")},
    )
    code = main(module, monkeypatch, "--rounds", "1")
    out = capsys.readouterr().out
    assert "| `dip --help` |" in out and "1.0x |" in out
    # A busy machine may be slow: what is tested is that a slow answer is told and fails.
    assert code == (0 if "or 150 MB: none" in out else 1)
    monkeypatch.setattr(module, "LIMIT_SECONDS", 0.0)
    assert main(module, monkeypatch, "--rounds", "1") == 1
    assert "over 0 s or 150 MB: dip --help" in capsys.readouterr().out


def test_scene_speed_measures_every_preset_beside_a_yardstick(load, monkeypatch, capsys):
    # On scenes this small a limit may be missed: what is tested is that all are measured.
    tiny = ("--scenes", "2", "--warm", "1", "--size", "96", "64")
    code = main(load("scene_speed"), monkeypatch, *tiny)
    out = capsys.readouterr().out
    for preset in PRESETS:
        assert f"| {preset} | " in out
    assert "the yardstick: " in out
    assert code == ("MISSED" in out)


def test_scene_speed_fails_where_scenes_are_slow_or_large(load, capsys):
    module = load("scene_speed")
    kept = module.Measured(scenes=[0.010, 0.012, 0.090], yardsticks=[0.020] * 3, megabytes=100.0)
    slow = module.Measured(scenes=[0.110, 0.120, 0.130], yardsticks=[0.020] * 3, megabytes=100.0)
    large = module.Measured(scenes=[0.010] * 3, yardsticks=[0.020] * 3, megabytes=900.0)
    assert module.report({"easy": kept, "crowd": kept}) == 0
    assert "| easy | 12.0 | 26.8 | 100 | 0.60 | 0.7 | pass |" in capsys.readouterr().out
    assert module.report({"easy": kept, "crowd": slow, "night": large}) == 1
    assert "MB: crowd, night" in capsys.readouterr().out


def test_learning_names_each_goal_that_a_run_misses(load) -> None:
    module = load("learning")

    def measured(covered: float, f1: float) -> SimpleNamespace:
        values = {"look_coverage": covered, "look_coverage_oracle": 0.9, "F1": f1}
        return SimpleNamespace(
            metrics={name: Interval(value, value - 0.04, value + 0.04)
                     for name, value in values.items()}
        )  # fmt: skip

    assert module.missed(measured(0.2, 0.4), measured(0.75, 0.56), 11.0) == []
    assert module.missed(measured(0.4, 0.5), measured(0.7, 0.57), 13.0) == [
        "look coverage at least 2 times that before",
        "look coverage at least 80% of the oracle's",
        "F1 up by at least 0.15",
        "intervals of F1 apart",
        "at most 12 minutes",
    ]
