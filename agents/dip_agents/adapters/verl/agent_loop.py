"""verl's agent loop: a rollout is one episode, whose tokens are only ever appended to.

verl gives a loop one rollout at a time, without its siblings: the look term is measured by the
annotation prior, whatever the rules, and ``extra_fields["ambiguity"]`` is ``annotation``.
``group_rewards`` is for code that sees all rollouts of a row. verl's workers find the loop by the
file that ``actor_rollout_ref.rollout.agent.agent_loop_config_path`` names, with ``AGENT_LOOP_YAML``
in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from dip_agents.adapters.executor import run_in_env_thread
from dip_agents.runtime.optional import require_extra
from dip_agents.tokens.buffer import PlaceholderError
from dip_env.messages import Message
from dip_wrappers.chat import ChatMessage, to_chat
from dip_wrappers.thoughts import open_think

require_extra("verl", "verl")

from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import register
from verl.utils.profiler import simple_timer
from verl.utils.tokenizer import get_processor_token_id
from verl.workers.rollout.replica import TokenOutput

from dip_agents.adapters.verl.dataset import AGENT_NAME, task_and_scene

AGENT_LOOP_YAML = f"- name: {AGENT_NAME}\n  _target_: {__name__}.DIPCrowdLoop\n"


@register(AGENT_NAME)
class DIPCrowdLoop(AgentLoopBase):
    """Plays the episode that a row of ``write_dataset`` names; made by verl.

    verl's token builder and the processor count placeholders as verl computes features later. A
    processor that would resize images, such as one that enlarges small crops, is refused unless
    ``min_pixels`` and ``max_pixels`` of ``data.mm_processor_kwargs`` prevent it.
    """

    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, **row: Any
    ) -> AgentLoopOutput:
        """Play one episode; a message that does not fit ``response_length`` ends it unsent.

        Args:
            sampling_params: of the server.
            priority: of the requests.
            **row: a row of the dataset, of which ``extra_info`` is read.

        Returns:
            The tokens, with mask 1 on those that the policy sampled; the images in the order of
            their placeholders; the reward by the annotation prior, and its terms.

        Raises:
            ConfigError: for a row that names no scene and task, or a processor that would resize.
            PlaceholderError: when the policy sampled an image placeholder.
            ValueError: for a model without images, or an opening longer than ``prompt_length``.
        """
        self._assert_mm_supported(True)
        task, scene = await run_in_env_thread(task_and_scene, row.get("extra_info"))
        task.check_processor(self.processor, self._get_mm_processor_kwargs())
        episode = await run_in_env_thread(task.episode, scene)
        chat = await run_in_env_thread(lambda: to_chat([episode.opening]))
        ids: list[int] = await self.ct_build_initial_tokens(chat, images=_images(chat))
        # verl has template settings of its own, so the very tokens say whether a think is open.
        opened = open_think(self.tokenizer.decode(ids[-16:], skip_special_tokens=False))
        mask: list[int] = []
        logprobs: list[float] | None = [] if sampling_params.get("logprobs") else None
        actions: list[str] = []
        fields: dict[str, Any] = {}
        metrics: dict[str, float] = {}
        limit = self.rollout_config.response_length
        name = f"det-{priority}" if self.rollout_config.full_determinism else uuid4().hex
        request: dict[str, Any] = {"request_id": name, "priority": int(priority)}
        while not episode.done:
            request["sampling_params"] = sampling_params | {"max_tokens": limit - len(mask)}
            with simple_timer("generate_sequences", metrics):
                sampled = await self._sample(prompt_ids=ids, image_data=_images(chat), **request)
            given = None if logprobs is None else sampled.log_probs
            merged, mask, logprobs = await self.ct_merge_assistant_token(
                ids, sampled.token_ids, mask, logprobs, given
            )
            ids, fields = merged.token_ids, _joined(fields, sampled.extra_fields)
            kept = [i for i in sampled.token_ids if i != self.tokenizer.eos_token_id]
            actions.append(opened + self.tokenizer.decode(kept, skip_special_tokens=False))
            with simple_timer("tool_calls", metrics):
                turn = await run_in_env_thread(episode.step, actions[-1])
            if turn.message is None:
                break
            chat += to_chat([Message("assistant", actions[-1])])
            longer = chat + to_chat([turn.message])
            merged, *aligned = await self.ct_merge_context_msg(chat, longer, ids, mask, logprobs)
            # One more token must fit, or the policy cannot act again.
            if len(aligned[0]) >= limit:
                turn = await run_in_env_thread(episode.abandon)
                break
            chat, ids, (mask, logprobs) = longer, merged.token_ids, aligned
        assert turn.result is not None  # the episode has ended
        terms = turn.result.terms.as_dict()
        fields |= {"reward_extra_info": terms, "ambiguity": "annotation"}
        fields |= {"turn_scores": [], "tool_rewards": [], "actions": actions}
        return AgentLoopOutput(
            prompt_ids=ids[: len(ids) - len(mask)],
            response_ids=ids[len(ids) - len(mask) :],
            response_mask=mask,
            response_logprobs=logprobs,
            routed_experts=sampled.routed_experts,
            multi_modal_data={"images": _images(chat)},
            mm_processor_kwargs=self._get_mm_processor_kwargs(),
            reward_score=turn.reward,
            num_turns=2 * len(actions),
            metrics=metrics,
            extra_fields=fields,
        )

    async def _sample(self, **request: Any) -> TokenOutput:
        sampled = await self.server_manager.generate(
            mm_processor_kwargs=self._get_mm_processor_kwargs(), **request
        )
        banned = {get_processor_token_id(self.processor, kind) for kind in ("image", "video")}
        if banned & set(sampled.token_ids):
            raise PlaceholderError("the policy sampled a placeholder; the server must ban it")
        return sampled


def _images(chat: Sequence[ChatMessage]) -> list[Any]:
    """Return the images of a conversation in order."""
    return [p["image"] for m in chat for p in m["content"] if p["type"] == "image"]


def _joined(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Return the server's fields of several turns: the first's, the newest step, summed counts."""
    newest = {key: now[key] for key in ("max_global_steps",) if key in now}
    counts = {k: before[k] + now[k] for k in now if k in before and k.startswith("spec_num_")}
    return {**now, **before, **newest, **counts}
