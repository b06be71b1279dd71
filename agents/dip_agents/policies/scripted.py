"""Policies without a model: random actions and a fixed grid; the oracle is in ``oracle``.

Each acts from the observation alone, so one object serves any number of episodes at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dip_agents.policies.base import Completion
from dip_agents.policies.formatting import (
    PERSON_ASPECT,
    make_answer,
    may_look,
    must_answer_at_once,
    quantize_boxes,
    random_boxes,
    reading_order,
)
from dip_env.actions import Grammar, Look, Segment, Think
from dip_env.config import EpisodeConfig
from dip_env.episode import Observation
from dip_env.errors import ConfigError
from dip_env.views import View


class RandomPolicy:
    """Random well-formed actions: the lower bound of every table.

    Args:
        config: the episode's rules; bounds looks and boxes.
        max_people: most boxes in an answer.
    """

    def __init__(self, config: EpisodeConfig, max_people: int = 20) -> None:
        """Store the settings.

        Raises:
            ConfigError: when max_people is negative.
        """
        if max_people < 0:
            raise ConfigError(f"max_people: expected at least 0, got {max_people}")
        self.config = config
        self.grammar = Grammar(config.max_regions, config.max_boxes)
        self.max_people = min(max_people, config.max_boxes)

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Look somewhere with probability one half while looks are left, else answer at random.

        Args:
            observations: what each unfinished episode shows now.
            seeds: one seed for each observation.

        Returns:
            One well-formed completion for each observation.
        """
        return [
            Completion(self._text(o, np.random.default_rng(s)))
            for o, s in zip(observations, seeds, strict=True)
        ]

    def _text(self, observation: Observation, rng: np.random.Generator) -> str:
        view, at_once = observation.view, must_answer_at_once(observation)
        segments: list[Segment] = [Think("random.")]
        if (may_look(observation) or at_once) and rng.random() < 0.5:
            n = int(rng.integers(1, self.config.max_regions + 1))
            regions = random_boxes(n, view.scene_size, rng, (0.1, 0.5))
            segments.append(Look(quantize_boxes(regions, view, outward=True)))
        if len(segments) == 1 or at_once:
            n = int(rng.integers(0, self.max_people + 1))
            boxes = random_boxes(n, view.scene_size, rng, (0.05, 0.5))
            segments.append(make_answer(quantize_boxes(boxes, view)))
        return self.grammar.format(segments)


class GridScanPolicy:
    """Look at the cells of a grid in turn, then answer a fixed grid of person-shaped boxes.

    Args:
        config: the episode's rules; sets how many cells one look takes.
        cells: (columns, rows) of the grid of looks.
        people: (columns, rows) of the grid of answered boxes.
    """

    def __init__(
        self,
        config: EpisodeConfig,
        cells: tuple[int, int] = (3, 2),
        people: tuple[int, int] = (8, 3),
    ) -> None:
        """Store the settings.

        Raises:
            ConfigError: for a grid without cells.
        """
        for name, grid in (("cells", cells), ("people", people)):
            if min(grid) < 1:
                raise ConfigError(f"{name}: expected at least 1 column and 1 row, got {grid}")
        self.config = config
        self.grammar = Grammar(config.max_regions, config.max_boxes)
        self.cells = cells
        self.people = people

    def act(self, observations: Sequence[Observation], seeds: Sequence[int]) -> list[Completion]:
        """Look at the next cells; answer once the grid or the budget is used up.

        Args:
            observations: what each unfinished episode shows now; the crops seen so far say
                which cells come next.
            seeds: unused, the scan is fixed.

        Returns:
            One completion for each observation.
        """
        return [Completion(self._text(observation)) for observation in observations]

    def _text(self, observation: Observation) -> str:
        view, seen = observation.view, len(observation.crops)
        columns, rows = self.cells
        todo = range(seen, min(columns * rows, seen + self.config.max_regions))
        at_once = must_answer_at_once(observation)
        segments: list[Segment] = []
        if todo and (may_look(observation) or at_once):
            width, height = view.scene_size[0] / columns, view.scene_size[1] / rows
            corners = [(i % columns * width, i // columns * height) for i in todo]
            cells = np.array([(x, y, x + width, y + height) for x, y in corners])
            segments += [
                Think(f"cells {todo.start + 1} to {todo.stop}."), Look(quantize_boxes(cells, view)),
            ]  # fmt: skip
        if not segments or at_once:
            boxes = quantize_boxes(self._people(view), view)[: self.config.max_boxes]
            segments += [Think("the grid."), make_answer(boxes[reading_order(boxes)])]
        return self.grammar.format(segments)

    def _people(self, view: View) -> NDArray[np.float64]:
        (width, height), (columns, rows) = view.scene_size, self.people
        cell_width, tall = width / columns, height / rows
        wide = min(cell_width, PERSON_ASPECT * tall)
        x, y = np.meshgrid((np.arange(columns) + 0.5) * cell_width, np.arange(rows) * tall)
        x, y = x.ravel(), y.ravel()
        return np.stack([x - wide / 2, y, x + wide / 2, y + tall], axis=1)
