"""Tiny models and the dip command, which several test files share."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dip_agents.cli.main import main
from dip_agents.engines.base import Sample
from dip_agents.models.generic_vlm import GenericVLM
from dip_agents.models.tiny.model import Family, build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vlm import VLM
from dip_env.config import EpisodeConfig


def _loud(model: Any) -> None:
    """Spread the logits (std about 8): with the default initialisation errors would hide."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name:
                parameter.mul_(3.0)
        text = getattr(model.model, "language_model", None) or model.model.text_model
        # Gemma's gain is 1 + weight.
        text.norm.weight.fill_(31.0 if model.config.model_type == "gemma3" else 32.0)


@pytest.fixture(scope="session")
def micro() -> Callable[[Family], VLM]:
    """Return a function that gives the shared micro model of a family; do not change it."""
    made: dict[str, VLM] = {}

    def get(family: Family = "qwen3_vl") -> VLM:
        if family not in made:
            model, processor = build_tiny(tiny_texts(), family=family, size="micro")
            _loud(model)
            made[family] = VLM(model, processor)
        return made[family]

    return get


@pytest.fixture
def fresh_micro() -> Callable[[], VLM]:
    """Return a function that builds a new micro model, always the same one."""

    def build() -> VLM:
        model, processor = build_tiny(tiny_texts(), size="micro")
        return VLM(model, processor)

    return build


@pytest.fixture(scope="session")
def build_generic() -> Callable[..., tuple[Any, Any]]:
    """Return the function that builds a tiny random model of a family other than Qwen-VL."""
    # Tests do not import each other, so the module is loaded from its path.
    path = Path(__file__).parent / "models" / "tiny" / "generic_families.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build: Callable[..., tuple[Any, Any]] = module.build_generic
    return build


@pytest.fixture(scope="session")
def generic_micro(build_generic) -> Callable[[str], GenericVLM]:
    """Return a function that gives the shared tiny model of another family; do not change it."""
    made: dict[str, GenericVLM] = {}

    def get(family: str) -> GenericVLM:
        if family not in made:
            model, processor = build_generic(tiny_texts(), family)
            _loud(model)
            made[family] = GenericVLM(model, processor)
        return made[family]

    return get


class _Speaker:
    """An engine without a model: row r says ``lines[r]`` turn by turn, and keeps to the rules."""

    exact_logprobs = True

    def __init__(self, chat: Any, lines: Sequence[Sequence[str]]) -> None:
        self.chat, self.lines = chat, lines
        self.fed: list[list[int]] = []

    def play(self, prompts, repeats, reply, sampling, turn_seed):
        for row, lines in enumerate(self.lines):
            fed, turn = [*prompts[row // repeats].ids], 0
            while True:
                room = min(sampling.max_new_tokens, sampling.token_budget - len(fed))
                ids = tuple(self.chat.policy_ids(lines[turn % len(lines)])[: max(room, 0)])
                ended = ids[-1:] == (self.chat.eos_token_id,)
                chunk = reply(row, Sample(ids, (-1.0,) * len(ids), not ended))
                fed += ids
                if chunk is None:
                    break
                assert len(fed) + len(chunk.ids) < sampling.token_budget  # as ``Reply`` promises
                fed += chunk.ids
                turn += 1
            self.fed.append(fed)


@pytest.fixture(scope="session")
def speaker() -> type[_Speaker]:
    """Return an engine that generates given texts: chat tokens, and lines for each row."""
    return _Speaker


@pytest.fixture
def minimal_prompt_rules() -> EpisodeConfig:
    return EpisodeConfig(
        view_size=128, crop_size=64, max_looks=1, max_regions=2, max_turns=3, minimal_prompt=True
    )


@pytest.fixture
def run(capsys):
    """Return a function that runs ``dip`` and gives exit code, output and error output."""

    def call(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        shown = capsys.readouterr()
        return stop.value.code, shown.out, shown.err

    return call
