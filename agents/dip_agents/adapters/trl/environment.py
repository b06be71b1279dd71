"""The environment that TRL calls: an episode whose actions are tools, within a token budget."""

from __future__ import annotations

import json
from typing import Any

from dip_agents.adapters.task import Task
from dip_agents.adapters.trl.budget import BudgetedEpisode, Parts, TokenBudget, parts_of
from dip_env.actions import Think, as_thought
from dip_env.errors import ConfigError
from dip_env.messages import Message
from dip_wrappers.chat import plain_text


class DIPEnvironment:
    """One rollout; each public function but ``reset`` is a tool.

    Args:
        task: scenes and rules.
        budget: of each rollout.
    """

    episode: BudgetedEpisode
    """The running episode, from the first reset on."""

    def __init__(self, task: Task, budget: TokenBudget) -> None:
        """Store the task and the budget."""
        self._task, self._budget = task, budget

    def reset(self, scene: int | None = None, seed: int | None = None, **row: Any) -> Parts:
        """Start an episode on the scene of a dataset row.

        Args:
            scene: index in the source.
            seed: picks a scene as ``DIPCrowdEnv.reset(seed=seed)`` does.
            **row: other columns, unused.

        Returns:
            The first message.

        Raises:
            ConfigError: for a row with neither or both.
        """
        if scene is not None and seed is None:
            index = self._task.check_index(scene)
        elif seed is not None and scene is None:
            index = self._task.scene_of(seed)
        else:
            raise ConfigError(
                "dataset row: expected a scene or a seed, so that all rollouts of a prompt share "
                f"one scene, got scene {scene} and seed {seed} beside columns {sorted(row)}"
            )
        self.episode = BudgetedEpisode(
            self._task.source[index], self._task.config, index, budget=self._budget
        )
        return parts_of(self.episode.opening)

    def look(self, thought: str, regions: list[list[float]]) -> list[dict[str, Any]]:
        """See regions of the image enlarged.

        Args:
            thought: Your reasoning.
            regions: Each one x1,y1,x2,y2.
        """
        return self._call("look", thought, "regions", regions)

    def answer(self, thought: str, boxes: list[list[float]]) -> list[dict[str, Any]]:
        """Give the final boxes.

        Args:
            thought: Your reasoning.
            boxes: Each one x1,y1,x2,y2.
        """
        return self._call("answer", thought, "boxes", boxes)

    def _call(self, tool: str, thought: Any, name: str, boxes: Any) -> Parts:
        """Write a call as an action; one outside the grammar costs a turn."""
        call = {"name": tool, "arguments": {"thought": thought, name: boxes}}
        written = f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"
        items = json.dumps(boxes, ensure_ascii=False, separators=(",", ":"))
        objection = _objection(thought)
        # Without its tags a thought cannot be parsed as other segments before it is refused.
        text = thought if objection is None else as_thought(str(thought)).text
        return self._step(f"<think>{text}</think><{tool}>{items}</{tool}>", written, objection)

    def _step(self, action: str, written: str = "", objection: str | None = None) -> Parts:
        """Take an action, which the rollout spells ``written``, and return the reply."""
        # One more for the end of turn.
        tokens = self._budget.text(plain_text(written or action)) + 1
        reply = self.episode.call(action, tokens, objection).message
        parts = parts_of(reply or Message("user", "The episode has ended."))
        self.episode.spent += self._budget.reply(parts)
        return parts


def _objection(thought: Any) -> str | None:
    """Return why a thought is invalid: not a text, or one that would parse as further segments."""
    if not isinstance(thought, str):
        return f"thought: expected text, got {json.dumps(thought):.40}"
    try:
        Think(thought)
    except ValueError as error:
        return str(error)
    return None
