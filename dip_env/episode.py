"""One episode: a policy reads messages, looks and answers; a plain Python state machine.

Independent of Gymnasium, groups and trainers, all of which build on it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from dip_env import prompts
from dip_env.action_reader import SURROGATE
from dip_env.actions import Answer, Grammar, Look, Segment
from dip_env.boxes import Boxes, as_boxes
from dip_env.config import EpisodeConfig
from dip_env.errors import ActionParseError, ActionRefusedError, EpisodeOverError
from dip_env.messages import Message, Observation, Turn
from dip_env.result import EpisodeResult
from dip_env.rewards import Outcome, Score, score_group
from dip_env.scenes.base import Scene
from dip_env.views import Crop, View, cut_crop, shown_region


class Episode:
    """The state machine of one episode.

    An action is taken whole or not at all: when one of its looks is refused, none of its looks
    counts and its answer is ignored; it costs its turn all the same.

    ``step`` and ``abandon`` score the episode when it ends. ``advance`` and ``stop`` do the same
    without scoring it, for members of a group and for episodes whose reward nobody reads.

    Args:
        scene: the image and its annotation.
        config: the rules.
        scene_index: index of the scene in its source; policies that know the source use it.
        opening: first message, for episodes that share a scene and rules.
    """

    def __init__(
        self,
        scene: Scene,
        config: EpisodeConfig | None = None,
        scene_index: int | None = None,
        *,
        opening: Message | None = None,
    ) -> None:
        """Start the episode; the image is loaded on first use."""
        self.scene = scene
        self.config = config or EpisodeConfig()
        self.scene_index = scene_index
        self.view = View.of(
            scene.size,
            self.config.view_size,
            self.config.size_multiple,
            self.config.coordinate_format,
        )
        self.grammar = Grammar(self.config.max_regions, self.config.max_boxes)
        self.crops: list[Crop] = []
        """What all looks so far have shown."""
        self.looks: Boxes = np.zeros((0, 4))
        """Regions of all looks so far, (R, 4) scene frame, whether they were shown or not."""
        self.done = False
        if opening is not None:
            self.opening = opening
        self.score: Score | None = None
        """The score that ``step`` or ``abandon`` gave at the end, else None."""
        self.last_action = ""
        """The newest action as the episode took it; a subclass may have replaced its looks."""
        self._messages: list[Message] = []
        self._segments_per_turn: list[tuple[Segment, ...] | None] = []
        self._looks_taken = 0
        self._answer: Answer | None = None

    @cached_property
    def opening(self) -> Message:
        """The first message: the overview and the task."""
        image = self.scene.overview(self.view)
        prompt = prompts.task_prompt(self.view, self.config, self.grammar, self.scene.target)
        return Message("user", prompt, (image,))

    @property
    def transcript(self) -> list[Message]:
        """The conversation so far, first message first."""
        return [self.opening, *self._messages]

    @property
    def turn(self) -> int:
        """Actions taken so far."""
        return len(self._segments_per_turn)

    @property
    def turns_left(self) -> int:
        """Actions that may still be given."""
        return self.config.max_turns - self.turn

    @property
    def looks_left(self) -> int:
        """Looks that may still be taken."""
        return self.config.max_looks - self._looks_taken

    @property
    def answered(self) -> bool:
        """Whether the policy has given an answer."""
        return self._answer is not None

    @property
    def answer(self) -> Boxes:
        """The boxes of the answer, (N, 4) text frame; none before or without an answer."""
        return np.zeros((0, 4)) if self._answer is None else self._answer.boxes

    @property
    def outcome(self) -> Outcome:
        """The episode so far, in the form that the rewards take."""
        return Outcome(
            answer=self.view.text_to_scene(self.answer),
            looks=self.looks,
            segments_per_turn=tuple(self._segments_per_turn),
            answered=self.answered,
        )

    def observation(self) -> Observation:
        """Return all that the policy may know now."""
        return Observation(
            messages=tuple(self.transcript),
            view=self.view,
            crops=tuple(self.crops),
            turn=self.turn,
            looks_left=self.looks_left,
            turns_left=self.turns_left,
            scene_index=self.scene_index,
        )

    def step(self, action: str) -> Turn:
        """Take one action and score the episode if that ends it.

        Args:
            action: any text; text outside the grammar costs a turn and is answered by a message.

        Returns:
            The reply, new crops and, at the end, the reward and the result.

        Raises:
            TypeError: when the action is not a string.
            EpisodeOverError: when the episode has ended.
        """
        return self._scored(self.advance(action))

    def advance(self, action: str) -> Turn:
        """Take one action without scoring the episode.

        Args:
            action: as for ``step``.

        Returns:
            The reply and new crops; the reward is 0 and there is no result.

        Raises:
            TypeError: when the action is not a string.
            EpisodeOverError: when the episode has ended.
        """
        if not isinstance(action, str):
            raise TypeError(f"action: expected str, got {type(action).__name__}")
        if self.done:
            raise EpisodeOverError("expected no action, as the episode has ended; got another one")

        segments: tuple[Segment, ...] | None = None
        regions: Boxes = np.zeros((0, 4))
        crops: tuple[Crop, ...] = ()
        reply: Message | None = None
        error: ActionParseError | ActionRefusedError | None = None
        try:
            segments = self.grammar.parse(action)
            regions = self.regions_of(segments)
            crops, reply = self.show(segments, regions)
        except (ActionParseError, ActionRefusedError) as err:
            segments, regions, error = None, np.zeros((0, 4)), err

        answers = [s for s in segments or () if isinstance(s, Answer)]
        self.last_action = action
        # The parser refuses half a surrogate pair; what shows the conversation could not encode it.
        shown = SURROGATE.sub("\N{REPLACEMENT CHARACTER}", action)
        self._messages.append(Message("assistant", shown))
        self._segments_per_turn.append(segments)
        self._looks_taken += sum(isinstance(s, Look) for s in segments or ())
        self.looks = np.concatenate([self.looks, regions])
        self.crops += crops
        if answers:
            self._answer = answers[0]
        if answers or self.turns_left == 0:
            return self._end(crops, segments, error)
        reply = reply or self._reply(error)
        self._messages.append(reply)
        return Turn(
            reply, crops, 0.0, False, False, segments, None if error is None else str(error)
        )

    def abandon(self) -> Turn:
        """End the episode without an answer, as when its next message does not fit, and score it.

        Returns:
            The last turn, truncated and scored with an empty answer.

        Raises:
            EpisodeOverError: when the episode has ended.
        """
        return self._scored(self.stop())

    def stop(self) -> Turn:
        """End the episode without an answer and without scoring it.

        Returns:
            The last turn, truncated.

        Raises:
            EpisodeOverError: when the episode has ended.
        """
        if self.done:
            raise EpisodeOverError("expected a running episode to abandon, as this one has ended")
        return self._end((), None, None)

    def result(self, score: Score) -> EpisodeResult:
        """Return what the episode earned.

        Args:
            score: of this episode, alone or within its group.

        Returns:
            Reward, terms, boxes in the view frame and matches.
        """
        return EpisodeResult(
            reward=score.terms.total(self.config.reward.weights),
            terms=score.terms,
            truth_boxes=self.view.scene_to_view(self.scene.truth),
            ignore_boxes=self.view.scene_to_view(self.scene.ignore_boxes),
            answer_boxes=self.view.text_to_view(self.answer),
            matches=score.matches,
        )

    def cut(self, regions: Boxes) -> tuple[Crop, ...]:
        """Cut crops out of the source image; this takes no look.

        Args:
            regions: (R, 4) xyxy, scene frame.

        Returns:
            R crops, as a look at the regions would show them.
        """
        config = self.config
        return tuple(
            cut_crop(self.scene.image, region, self.view, config.crop_size, config.size_multiple)
            for region in regions
        )

    def regions_of(self, segments: tuple[Segment, ...]) -> Boxes:
        """Return what the looks of one action would show; subclasses may refuse more.

        Args:
            segments: of a well-formed action.

        Returns:
            (R, 4) xyxy, scene frame; none without a look.

        Raises:
            ActionRefusedError: for more looks than are left, or a region outside the image. The
                action then costs its turn, and the policy reads the message.
        """
        looks = [s for s in segments if isinstance(s, Look)]
        if not looks:
            return np.zeros((0, 4))
        if len(looks) > self.looks_left:
            raise ActionRefusedError(
                f"expected at most {prompts.count(self.looks_left, 'more look')}, got {len(looks)}"
            )
        wanted = np.concatenate([look.regions for look in looks])
        width, height = self.view.text_size
        # Plain numbers: for so few regions, array functions cost more than what they compute.
        for region in wanted.tolist():
            x1, y1, x2, y2 = region
            if min(x2, width) <= max(x1, 0.0) or min(y2, height) <= max(y1, 0.0):
                got = ",".join(f"{v:g}" for v in region)
                raise ActionRefusedError(
                    f"expected a region with an area inside 0,0,{width},{height}, got {got}"
                )
        config = self.config
        return as_boxes(
            [
                shown_region(region, self.view, config.crop_size, config.size_multiple)
                for region in self.view.text_to_scene(wanted)
            ]
        )

    def show(
        self, segments: tuple[Segment, ...], regions: Boxes
    ) -> tuple[tuple[Crop, ...], Message | None]:
        """Cut one action's crops and write the reply that shows them; subclasses may refuse it.

        Args:
            segments: of a well-formed action.
            regions: (R, 4) xyxy, scene frame, that ``regions_of`` returned.

        Returns:
            The crops, none beside an answer, and their message; None without crops and where the
            action ends the episode. A subclass may raise ``ActionRefusedError``, as in
            ``regions_of``.
        """
        if not len(regions) or isinstance(segments[-1], Answer):
            return (), None
        crops = self.cut(regions)
        turns_left = self.turns_left - 1
        if not turns_left:
            return crops, None
        looks_left = self.looks_left - sum(isinstance(s, Look) for s in segments)
        text = prompts.crops_message(
            crops,
            self.view,
            turns_left,
            looks_left,
            first=len(self.crops) + 1,
            minimal_prompt=self.config.minimal_prompt,
        )
        return crops, Message("user", text, tuple(crop.image for crop in crops), captioned=True)

    def _reply(self, error: Exception | None) -> Message:
        """Return the message after an action that showed nothing and did not end the episode."""
        left = (self.turns_left, self.looks_left)
        if error is not None:
            return Message("user", prompts.error_message(error, *left))
        return Message("user", prompts.nudge_message(*left))

    def _end(
        self,
        crops: tuple[Crop, ...],
        segments: tuple[Segment, ...] | None,
        error: Exception | None,
    ) -> Turn:
        """Close the episode."""
        self.done = True
        ended = (self.answered, not self.answered)
        return Turn(None, crops, 0.0, *ended, segments, None if error is None else str(error))

    def _scored(self, turn: Turn) -> Turn:
        """Return a turn with its reward and result, if it is the last one."""
        if not self.done:
            return turn
        self.score = score_group([self.outcome], self.scene, self.config)[0]
        result = self.result(self.score)
        return replace(turn, reward=result.reward, result=result)
