"""Does looking help? One model with its own looks, without any, and under every control."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dip_agents import Policy
from dip_agents.experiments import looking_sheet, variations
from dip_agents.experiments.run import play_variations
from dip_env import EpisodeConfig, SceneSource
from examples.studies.rewards.measure.answers import BATCH, RESULT, Columns, columns_of

SHEET = "looks.png"
DRAWN = 6
"""Scenes on the sheet that shows the looks."""


def measure_looking(
    policy: Policy,
    source: SceneSource,
    indices: Sequence[int],
    rules: EpisodeConfig,
    folder: Path,
) -> None:
    """Play a policy under every control and keep the numbers of each scene, and a picture.

    Args:
        policy: who acts.
        source: the scenes.
        indices: which of them, each once.
        rules: of the episodes; they allow a look.
        folder: where to.
    """
    # The bundled model was trained to look at tiles; so the oracle looks at tiles too.
    controls = variations("controls", rules, tiles=True)
    played = play_variations(lambda _: policy, source, indices, controls, batch_size=BATCH)
    sheet = looking_sheet(policy, source, indices[:DRAWN], rules, batch_size=BATCH)
    sheet.save(folder / SHEET)
    found = {name: columns_of(result.score) for name, result in played.results.items()}
    data = {
        "indices": list(indices),
        "controls": {
            name: {column: values.tolist() for column, values in columns.items()}
            for name, columns in found.items()
        },
    }
    (folder / RESULT).write_text(json.dumps(data) + "\n", encoding="utf-8")


def load_looking(folder: Path) -> dict[str, Columns]:
    """Read the numbers of each scene back, by control, in the order they were played.

    Args:
        folder: of a finished run.
    """
    data = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    return {
        name: {column: np.array(values, dtype=np.float64) for column, values in columns.items()}
        for name, columns in data["controls"].items()
    }
