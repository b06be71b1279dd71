"""G episodes on one scene that end together, since siblings enter the reward of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dip_env.ambiguity import SiblingTable, sibling_table
from dip_env.checks import check_integer
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import EpisodeOverError
from dip_env.messages import Turn
from dip_env.rewards import RewardTerms, Score, score_group
from dip_env.scenes.base import Scene

MAX_GROUP_SIZE = 10_000
"""Most members of a group."""


class EpisodeGroup:
    """A group of episodes that share a scene, their first message and their end.

    A member that has ended waits: ``Turn.waiting`` is True from that turn on and its further
    actions are ignored. When the last member ends, all end in that step and get their rewards and
    results.

    Args:
        scene: the image and its annotation.
        config: the rules of every member.
        group_size: number of members, at least 1.
        scene_index: index of the scene in its source, where it has one.
        new_episode: starts a member, or one for each member; takes the arguments of ``Episode``.
        siblings: (G, G), whose answers the look term of each member is measured on; all others
            by default, see ``score_group``.

    Raises:
        ConfigError: for a group without members, or with more than 10,000.
        ValueError: for ``siblings`` or ``new_episode`` of another number of members.
    """

    def __init__(
        self,
        scene: Scene,
        config: EpisodeConfig | None = None,
        group_size: int = 1,
        scene_index: int | None = None,
        *,
        new_episode: Callable[..., Episode] | Sequence[Callable[..., Episode]] = Episode,
        siblings: SiblingTable | None = None,
    ) -> None:
        """Start every member with the same first message."""
        group_size = check_integer("group_size", group_size, 1, MAX_GROUP_SIZE)
        self.scene = scene
        self.config = config or EpisodeConfig()
        self.siblings = None if siblings is None else sibling_table(group_size, siblings)
        starts = [new_episode] * group_size if callable(new_episode) else list(new_episode)
        if len(starts) != group_size:
            raise ValueError(f"new_episode: expected {group_size}, got {len(starts)}")
        first = starts[0](scene, self.config, scene_index)
        self.episodes = [first]
        self.episodes += [
            start(scene, self.config, scene_index, opening=first.opening) for start in starts[1:]
        ]
        self.scores: list[Score] = []
        """The score of each member; empty before the end."""

    @property
    def done(self) -> bool:
        """True when every member has ended."""
        return all(episode.done for episode in self.episodes)

    @property
    def terms(self) -> list[RewardTerms]:
        """Reward terms of each member, unweighted; empty before the end."""
        return [score.terms for score in self.scores]

    def step(self, actions: Sequence[str | None]) -> list[Turn]:
        """Take one action per member.

        Args:
            actions: G texts; the entry of a waiting member is ignored.

        Returns:
            G turns; rewards are 0 until the step in which the last member ends.

        Raises:
            ValueError: for another number of actions than members.
            TypeError: when the action of a member that still plays is not a string.
            EpisodeOverError: when the group has ended.
        """
        if self.done:
            raise EpisodeOverError("expected no action, as the group has ended; got another step")
        if len(actions) != len(self.episodes):
            raise ValueError(f"actions: expected {len(self.episodes)}, got {len(actions)}")
        # Checked before any member moves, so that a wrong call leaves the group as it was.
        for k, (episode, action) in enumerate(zip(self.episodes, actions, strict=True)):
            if not episode.done and not isinstance(action, str):
                raise TypeError(f"actions[{k}]: expected str, got {type(action).__name__}")
        turns = [self._move(k, action) for k, action in enumerate(actions)]
        return self._end(turns) if self.done else turns

    def step_member(self, member: int, action: str) -> Turn:
        """Let one member act independently of the others.

        Args:
            member: index among the G members; it must not have ended.
            action: any text.

        Returns:
            Its turn; the reward is 0 unless this ended the whole group.

        Raises:
            TypeError: when the action is not a string.
            EpisodeOverError: when that member has ended.
        """
        if not isinstance(action, str):
            raise TypeError(f"actions[{member}]: expected str, got {type(action).__name__}")
        if self.episodes[member].done:
            raise EpisodeOverError(f"expected no action of member {member}, as it has ended")
        turn = self._move(member, action)
        if not self.done:
            return turn
        self._score()
        return self._ended(member, turn)

    def abandon(self, member: int) -> None:
        """End one member without an answer, as when its next message does not fit.

        Args:
            member: index among the G members; it must not have ended.

        Raises:
            EpisodeOverError: when that member has ended.
        """
        self.episodes[member].stop()
        if self.done:
            self._score()

    def _move(self, k: int, action: str | None) -> Turn:
        """Let member k act, or wait."""
        episode = self.episodes[k]
        if episode.done or action is None:
            return Turn(None, (), 0.0, terminated=False, truncated=False, waiting=True)
        turn = episode.advance(action)
        return replace(turn, terminated=False, truncated=False, waiting=episode.done)

    def _end(self, turns: list[Turn]) -> list[Turn]:
        """Give every member its reward and result."""
        self._score()
        return [self._ended(k, turn) for k, turn in enumerate(turns)]

    def _ended(self, k: int, turn: Turn) -> Turn:
        """Return member k's last turn with its reward and result."""
        episode = self.episodes[k]
        result = episode.result(self.scores[k])
        return replace(
            turn,
            reward=result.reward,
            terminated=episode.answered,
            truncated=not episode.answered,
            waiting=False,
            result=result,
        )

    def _score(self) -> None:
        """Score all members together."""
        outcomes = [episode.outcome for episode in self.episodes]
        self.scores = score_group(outcomes, self.scene, self.config, self.siblings)
