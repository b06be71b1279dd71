"""Scenes as a verifiers (v1) environment: one interaction per episode, the reward on its trace.

verifiers finds plugins by the name of a top-level module. A file ``dip_crowd.py`` on the path with
the line ``from dip_agents.adapters.verifiers import CrowdEnv, CrowdHarness, CrowdTaskset, __all__``
makes ``dip-crowd`` the id of taskset, environment and harness.

An environment of verifiers sees one of its episodes at a time and never the rollouts that a trainer
groups: their look term is measured by the annotation prior. With ``attempts`` of three or more, one
episode of verifiers is itself a group, and its look terms are measured on siblings.
``trace.info["ambiguity"]`` names the reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from dip_agents.adapters.executor import run_in_env_thread
from dip_agents.adapters.task import Task
from dip_agents.runtime.optional import require_extra
from dip_env.group import EpisodeGroup
from dip_env.rewards import look_reference
from dip_env.scenes.base import is_endless
from dip_wrappers.chat import ChatMessage, to_chat

require_extra("verifiers", "verifiers")

import verifiers.v1 as vf
from pydantic import Field

from dip_agents.adapters.verifiers.harness import last_action


class SceneData(vf.TaskData):
    """One scene by its index; no ground truth."""

    scene: int


class SceneTask(vf.Task[SceneData, vf.State, vf.TaskConfig]):
    """One scene; the environment opens the conversation and computes the rewards."""


class CrowdConfig(vf.TasksetConfig):
    """Scenes and rules, given as to ``gym.make("DIPCrowd-v0", ...)``."""

    scenes: str = "crowd"
    """Name of the scenes."""
    keywords: dict[str, Any] = Field(default_factory=dict)
    """All further keywords, such as ``root`` and ``view_size``."""


class CrowdTaskset(vf.Taskset[SceneTask, CrowdConfig]):
    """Every scene of a source, in order.

    Args:
        config: scenes and rules.

    Raises:
        ConfigError: for an unknown name or a value out of range.
    """

    def __init__(self, config: CrowdConfig) -> None:
        """Open the source."""
        super().__init__(config)
        self.crowd = Task(config.scenes, **config.keywords)
        self.INFINITE = is_endless(self.crowd.source)

    def load(self) -> Iterator[SceneTask]:
        """Yield a task for each scene; the scene itself is read when it is played."""
        for scene in range(len(self.crowd.source)):
            yield SceneTask(SceneData(scene=scene, name=f"scene {scene}"), self.config.task)


class CrowdEnvConfig(vf.EnvConfig):
    """How episodes are run."""

    # verifiers would rent a machine by default, which a conversation does not need.
    agent: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    attempts: int = Field(1, ge=1)
    """Traces of an episode; from three on the look term is measured on siblings."""


class CrowdEnv(vf.Env[CrowdEnvConfig]):
    """Play a scene until its episode ends: message, text, reply."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Play all attempts and record the rewards on their traces.

        Args:
            task: the scene.
            agents: the agent under the name ``agent``.

        Raises:
            RuntimeError: when an attempt failed: the rewards of its siblings depend on it.
        """
        crowd, size = self.taskset.crowd, self.config.attempts
        group = await run_in_env_thread(crowd.group, task.data.scene, size)
        async with asyncio.TaskGroup() as running:
            attempts = [
                running.create_task(self._play(task, agents.agent, group, member))
                for member in range(size)
            ]
        traces = [attempt.result() for attempt in attempts]
        failed = sum(not trace.ok for trace in traces)
        if failed:
            raise RuntimeError(f"expected {size} attempts that can be scored, {failed} failed")
        siblings = look_reference(crowd.config, size) == "siblings"
        for trace, score in zip(traces, group.scores, strict=True):
            trace.record_reward("reward", score.terms.total(crowd.config.reward.weights))
            trace.record_metrics(score.terms.as_dict())
            trace.info["ambiguity"] = "siblings" if siblings else "annotation"

    async def _play(
        self, task: vf.Task, agent: vf.Agent, group: EpisodeGroup, member: int
    ) -> vf.Trace:
        """Play one attempt; one that a limit of verifiers stops counts as unanswered."""
        async with agent.interaction(task) as interaction:
            chat: ChatMessage | None = await run_in_env_thread(_opened, group, member)
            while chat is not None:
                segment = await interaction.turn([vf.UserMessage(**chat)])
                if segment.terminated:
                    break
                chat = await run_in_env_thread(
                    _answered, group, member, last_action(interaction.trace)
                )
        if interaction.trace.ok and not group.episodes[member].done:
            await run_in_env_thread(group.abandon, member)
        return interaction.trace


def _opened(group: EpisodeGroup, member: int) -> ChatMessage:
    return to_chat([group.episodes[member].opening], "openai")[0]


def _answered(group: EpisodeGroup, member: int, action: str) -> ChatMessage | None:
    message = group.step_member(member, action).message
    return None if message is None else to_chat([message], "openai")[0]
