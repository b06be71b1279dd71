"""TRL's GRPOTrainer: tools over an episode, or looks and answer in a single message.

With tools (``use_tool_template(processor)`` first: the template of Qwen2.5-VL has none, and under
others a placeholder that a model spells as the name of a tool ends the training)::

    args = GRPOConfig(generation_kwargs=banned_tokens(processor), max_completion_length=2048, ...)
    GRPOTrainer(
        model, dip_rewards(task, args), args, trl_dataset(task, scenes),
        processing_class=processor, environment_factory=environment_factory(task, processor, args),
    )

In a single message::

    GRPOTrainer(
        model, single_pass_reward(task, processor, args), args,
        trl_dataset(task, scenes, "single_pass"), processing_class=processor,
    )

With vLLM write ``banned_tokens(processor, use_vllm=True)``. It reads the processor in the folder of
the model, so one whose settings were changed must be saved there first.
Look terms are measured on siblings as in ``EpisodeGroup``, see ``rewards``.

``max_completion_length`` holds every token after the prompt, those of images included. TRL 1.16
drops a reply that does not fit and ends the rollout; if an image were truncated, the whole batch
would be trained without any. So the environment counts tokens as well, and refuses a look that does
not fit by a message. It does not receive text outside tool calls, nor calls that are not JSON (they
end the rollout) or lack an argument (TRL replies); and it cannot end a rollout: after the answer
the model gets one more message, which is trained like the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

from PIL import Image

from dip_agents.adapters.task import Task
from dip_agents.runtime.optional import require_extra
from dip_env.errors import ConfigError

require_extra("trl", "trl")
from datasets import Dataset
from trl import GRPOConfig

# These need torch, which the extra brings, too.
from dip_agents.adapters.trl.budget import TokenBudget
from dip_agents.adapters.trl.environment import DIPEnvironment
from dip_agents.adapters.trl.sampling import check_banned

TOOLS_ONLY = (
    "Act through the tools, one call in each message: `thought` is what would stand between "
    "<think> and </think>, `regions` and `boxes` are the lists between the other tags."
)
"""The system message beside a task that describes the text grammar."""


def environment_factory(
    task: Task, processor: Any, args: GRPOConfig, reserve: int | None = None
) -> Callable[[], DIPEnvironment]:
    """Return the trainer's argument of the same name.

    Args:
        task: scenes and rules.
        processor: of a Qwen-VL model.
        args: of the trainer; its ``max_completion_length`` is the budget.
        reserve: tokens of it that no look may use, see ``TokenBudget``; by default a quarter.
            Where each digit is a token, a box takes about 16, so an answer with 40 boxes needs
            640.

    Raises:
        ConfigError: when the processor would resize the task's images, when a placeholder could be
            sampled, or without a budget.
    """
    if args.max_completion_length is None:
        raise ConfigError("max_completion_length: expected a number of tokens, got None")
    if reserve is None:
        reserve = args.max_completion_length // 4
    budget = TokenBudget(processor, args.max_completion_length, reserve)
    task.check_processor(processor)
    check_banned(processor, args)
    return partial(DIPEnvironment, task, budget)


def trl_dataset(
    task: Task, scenes: Iterable[int], form: Literal["tools", "single_pass"] = "tools"
) -> Dataset:
    """Return a row for each scene: ``prompt``, ``scene`` and, for a single pass, ``image``.

    Args:
        task: scenes and rules.
        scenes: indices in the source, each once; more epochs repeat them.
        form: with ``tools`` the environment shows image and task; otherwise they are drawn when a
            row is read, and nothing is stored.

    Raises:
        ConfigError: for another form, or a scene that comes twice: rollouts in a row on one scene
            are taken for one group.
        IndexError: for a scene that the source does not have.
    """
    columns: dict[str, list[Any]] = {"scene": [task.check_index(scene) for scene in scenes]}
    for scene, times in Counter(columns["scene"]).most_common(1):
        if times > 1:
            raise ConfigError(f"scenes: expected each once, got scene {scene} {times} times")
    if form == "tools":
        prompt = [{"role": "system", "content": TOOLS_ONLY}, {"role": "user", "content": ""}]
        return Dataset.from_dict(columns | {"prompt": [prompt] * len(columns["scene"])})
    if form != "single_pass":
        raise ConfigError(f"form: expected tools or single_pass, got {form!r}")

    def rows(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        openings = {scene: task.episode(scene).opening for scene in set(batch["scene"])}
        shown = [openings[scene] for scene in batch["scene"]]
        return batch | {
            "prompt": [[{"role": "user", "content": message.text}] for message in shown],
            "image": [Image.fromarray(message.images[0]) for message in shown],
        }

    return Dataset.from_dict(columns).with_transform(rows)
