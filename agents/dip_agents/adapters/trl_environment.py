"""What TRL plays: an episode whose moves are tools, and which keeps to a token budget."""

from __future__ import annotations

import json
from typing import Any

from dip_agents.adapters.task import Task
from dip_agents.adapters.trl_template import TokenBudget
from dip_env.actions import Answer, Look, Segment
from dip_env.boxes import Boxes
from dip_env.episode import Episode, Message
from dip_env.errors import ActionRefusedError
from dip_env.prompts import crops_message
from dip_wrappers.chat import to_chat

Parts = list[dict[str, Any]]


def parts_of(message: Message) -> Parts:
    """Return a message's text and images in the order they are read, as chat templates take them.

    What the policy said is quoted in error messages, so special tokens it spells out are undone:
    a placeholder without an image would end the training.
    """
    (chat,) = to_chat([message])
    return list(chat["content"])


class BudgetedEpisode(Episode):
    """An episode that refuses looks whose crops do not fit; see ``Episode`` for other arguments.

    Args:
        budget: what calls and replies may cost.
    """

    def __init__(self, *args: Any, budget: TokenBudget, **options: Any) -> None:
        """Start with nothing spent."""
        super().__init__(*args, **options)
        self.budget = budget
        self.spent = 0
        """Tokens of calls and replies so far."""
        self.looks_without_room = 0
        """Actions refused because their crops did not fit."""

    def _regions(self, segments: tuple[Segment, ...]) -> Boxes:
        """Return what the looks of one action would show, (R, 4) scene frame, or refuse."""
        regions = super()._regions(segments)
        # Neither beside an answer nor in the last turn are crops shown.
        if len(regions) and not isinstance(segments[-1], Answer) and self.turns_left > 1:
            crops = self.cut(regions)
            left = self.looks_left - sum(isinstance(s, Look) for s in segments)
            text = crops_message(
                crops,
                self.view,
                self.turns_left - 1,
                left,
                first=len(self.crops) + 1,
                brief=self.config.brief,
            )
            images = tuple(crop.image for crop in crops)
            tokens = self.budget.reply(parts_of(Message("user", text, images, captioned=True)))
            room = max(0, self.budget.room - self.spent)
            if tokens > room:
                self.looks_without_room += 1
                raise ActionRefusedError(
                    f"expected a look that fits into the {room} tokens left, got one of {tokens}"
                )
        return regions


class DIPEnvironment:
    """One rollout; each public function but ``reset`` is a tool.

    Args:
        task: scenes and rules.
        budget: what calls and replies may cost.
    """

    episode: BudgetedEpisode
    """The one being played, from the first reset on."""

    def __init__(self, task: Task, budget: TokenBudget) -> None:
        """Wait for a dataset row."""
        self._task, self._budget = task, budget

    def reset(self, scene: int | None = None, seed: int | None = None, **row: Any) -> Parts:
        """Start an episode on the scene of a dataset row.

        Args:
            scene: place in the source.
            seed: picks a scene as ``DIPCrowdEnv.reset(seed=seed)`` does.
            **row: other columns, unused.

        Returns:
            The first message.

        Raises:
            ValueError: for a row with neither or both.
        """
        if scene is not None and seed is None:
            index = self._task.checked(scene)
        elif seed is not None and scene is None:
            index = self._task.scene_of(seed)
        else:
            raise ValueError(
                "dataset row: expected a scene or a seed, so that all rollouts of a prompt share "
                f"one scene, got scene {scene} and seed {seed} beside columns {sorted(row)}"
            )
        self.episode = BudgetedEpisode(
            self._task.source[index], self._task.config, index, deferred=True, budget=self._budget
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

    def _call(self, tool: str, thought: str, name: str, boxes: Any) -> Parts:
        """Write a call as an action; what the grammar does not allow costs a turn as ever."""
        call = {"name": tool, "arguments": {"thought": thought, name: boxes}}
        said = f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call><|im_end|>"
        items = json.dumps(boxes, ensure_ascii=False, separators=(",", ":"))
        return self._step(f"<think>{thought}</think><{tool}>{items}</{tool}>", said)

    def _step(self, action: str, said: str = "") -> Parts:
        """Take an action, which reads ``said`` in the rollout, and return the reply."""
        self.episode.spent += self._budget.text(said or action)
        reply = self.episode.step(action).message
        parts = parts_of(reply or Message("user", "The episode has ended."))
        self.episode.spent += self._budget.reply(parts)
        return parts
