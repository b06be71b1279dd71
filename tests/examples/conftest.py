"""What tests of several examples need."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dip_agents.models.loading import save_model
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.tiny.vocabulary import tiny_texts
from dip_agents.models.vlm import VLM
from dip_env.config import EpisodeConfig

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def scripts(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], Callable[[str], ModuleType]]]:
    """Return a function from a folder of examples to an import as a script beside them would."""
    own: set[str] = set()

    def of(folder: str) -> Callable[[str], ModuleType]:
        monkeypatch.syspath_prepend(str(EXAMPLES / folder))
        own.update(path.stem for path in (EXAMPLES / folder).glob("*.py"))
        return importlib.import_module

    yield of
    for name in own & set(sys.modules):
        del sys.modules[name]


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model with random weights."""
    rules = EpisodeConfig(
        view_size=128, crop_size=64, max_looks=1, max_regions=2, max_turns=2, minimal_prompt=True
    )
    vlm = VLM(*build_tiny(tiny_texts(), size="micro"))
    return save_model(vlm, tmp_path_factory.mktemp("model"), rules)
