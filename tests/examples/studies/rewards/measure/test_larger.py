from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration

from dip_agents.cli.settings import resolve
from dip_agents.cli.sft import Settings
from dip_agents.models.loading import load_model
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts


def test_the_default_size_has_110_million_weights(load):
    larger = load("measure.larger")
    small, _ = build_tiny(tiny_texts(), size="micro")
    words = ("hidden", "layers", "vision", "vision-layers")
    text = Path(larger.__file__).read_text()
    size = [int(re.search(rf'"--{word}", type=int, default=(\d+)', text)[1]) for word in words]
    config = larger.scaled(small.config, *size)
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 110
    assert "110 million" in load("report.write").GPU
    assert small.config.text_config.hidden_size == 64  # untouched


def test_the_model_is_a_folder_that_can_be_fine_tuned(load, tmp_path, monkeypatch, capsys):
    larger = load("measure.larger")
    size = ["--hidden", "128", "--layers", "1", "--vision", "64", "--vision-layers", "2"]
    monkeypatch.setattr(sys, "argv", ["larger.py", "--out", str(tmp_path), *size])
    larger.main()
    assert "million weights" in capsys.readouterr().out
    loaded = load_model(str(tmp_path), dtype="float32", device="cpu")
    assert loaded.rules == larger.RULES and loaded.rules.view_size == 448
    weights = loaded.vlm.core.get_input_embeddings().weight
    # Neighbouring numbers begin alike, far ones do not.
    near, far = (torch.cosine_similarity(weights[100], weights[100 + d], dim=0) for d in (1, 300))
    assert near > 0.8 and abs(far) < 0.6

    (command_line,) = re.findall(r"^dip (sft .*?)\npython", load("report.write").GPU, re.M | re.S)
    words = command_line.replace("\\\n", " ").replace("runs/small/untrained", str(tmp_path)).split()
    assert words[0] == "sft"
    command = resolve(Settings, "sft", words[1:]).settings
    assert command.rules == larger.RULES and command.sft.optimizer == "muon"
    settings = load("config").defaults(["--gpu"])
    assert settings.model == f"{command.out}/model"


@pytest.mark.parametrize("flag", ["--quick", "--gpu"])
def test_a_flag_brings_defaults_that_other_options_change(load, flag):
    defaults = load("config").defaults
    assert defaults([]) == load("config").Study()
    assert defaults([flag]) != defaults([])
