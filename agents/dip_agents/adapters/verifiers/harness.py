"""Requests to a model under verifiers, and its actions; independent of scenes.

The chat harnesses that verifiers ships start a program for each turn, whose packages they install
first. A conversation without tools needs neither.
"""

from __future__ import annotations

from dip_agents.runtime.optional import require_extra
from dip_wrappers.thoughts import whole_action

require_extra("verifiers", "verifiers")

import verifiers.v1 as vf
from openai import AsyncOpenAI
from verifiers.v1.dialects.chat import message_to_wire


class CrowdHarness(vf.Harness[vf.HarnessConfig]):
    """One chat completion for each turn, requested from this process."""

    APPENDS_SYSTEM_PROMPT = True
    SUPPORTS_RESUME = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        """Send the conversation to verifiers' own endpoint, which records the answer.

        Args:
            ctx: names the model.
            trace: unused, like ``runtime`` and ``mcp_urls``.
            runtime: unused.
            endpoint: address of the endpoint.
            secret: key of this rollout.
            mcp_urls: unused: verifiers refuses tools to this harness.
            data: the conversation, as the prompt of a task.

        Returns:
            Success; a failed request raises.
        """
        system, conversation = self.resolve_prompt(data)
        opening = [] if system is None else [vf.SystemMessage(content=system)]
        messages = [message_to_wire(message) for message in [*opening, *(conversation or ())]]
        # The time limit of a turn is the agent's timeout.
        async with AsyncOpenAI(base_url=endpoint, api_key=secret, timeout=None) as client:
            await client.chat.completions.create(model=ctx.model, messages=messages)
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")


def last_action(trace: vf.Trace) -> str:
    """Return the model's last output as one action, with a think that was moved out of its text.

    Args:
        trace: of a rollout with at least one turn.

    Returns:
        The text for the grammar.
    """
    message = trace.assistant_messages[-1]
    truncated = trace.calls[-1].finish_reason == "length"
    return whole_action(message.content or "", message.reasoning_content, truncated=truncated)
