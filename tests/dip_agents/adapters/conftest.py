"""The parity suite: what every adapter must show and reward, whatever its trainer looks like."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dip_agents.adapters import Task
from dip_env.episode import Episode
from dip_env.messages import Message

RULES = {
    "scenes": "toy", "view_size": 128, "crop_size": 64, "max_looks": 2, "max_regions": 2,
    "max_turns": 3,
}  # fmt: skip
"""Keywords of the task, as for ``gym.make``; JSON values only."""
SEEDS = (0, 1, 5)
LOOK = "<think>closer</think><look>[[8,8,60,70],[64,10,120,90]]</look>"
ANSWER = "<think>one</think><answer>[[30,40,50,90]]</answer>"
SCRIPTS = (
    (LOOK, ANSWER),
    ("<think>at once</think><answer>[[10,40,30,90],[80,40,100,95]]</answer>",),
    # Malformed, refused, and out of turns without an answer.
    ("<look>[[1,2,3]]</look>", "<think>out</think><look>[[500,500,600,600]]</look>", "I wonder"),
    # A look that is scored but not shown, as in a single pass.
    ("<think>both</think><look>[[0,0,64,64]]</look><answer>[]</answer>",),
)
"""What four siblings say, turn by turn."""
CALL = re.compile(r"<think>(.*)</think><(look|answer)>(\[.*\])</\2>")


@dataclass(frozen=True)
class Shown:
    """One message of the environment.

    Args:
        text: what it says.
        images: shape and bytes of each image.
    """

    text: str
    images: tuple[tuple[tuple[int, ...], bytes], ...]


@dataclass(frozen=True)
class Played:
    """One episode as a trainer saw it.

    Args:
        shown: messages of the environment, in order.
        reward: in all.
        terms: every reward term, unweighted.
    """

    shown: tuple[Shown, ...]
    reward: float
    terms: dict[str, float]


def pixels(image: Any) -> tuple[tuple[int, ...], bytes]:
    """Return shape and bytes of an image, as an array or as PIL's."""
    array = np.asarray(image)
    assert array.dtype == np.uint8
    return array.shape, array.tobytes()


def shown(text: str, images: Any = ()) -> Shown:
    """Return a message in the form that is compared."""
    return Shown(text, tuple(pixels(image) for image in images))


def _of(message: Message) -> Shown:
    return shown(message.text, message.images)


def _played(episode: Episode, reward: float, terms: Any) -> Played:
    messages = tuple(_of(m) for m in episode.transcript if m.role == "user")
    return Played(messages, reward, terms.as_dict())


def expected_alone(seed: int, **rules: Any) -> list[Played]:
    """Play each script in an episode of its own, on the scene that a seed picks."""
    task = Task(**RULES | rules)
    found = []
    for script in SCRIPTS:
        episode = task.episode(task.scene_of(seed))
        reward = sum(episode.step(text).reward for text in script)
        assert episode.done and episode.score is not None
        found.append(_played(episode, reward, episode.score.terms))
    return found


def expected_group(seed: int, **rules: Any) -> list[Played]:
    """Play the scripts as one group, whose look terms are measured on siblings."""
    task = Task(**RULES | rules)
    group = task.group(task.scene_of(seed), len(SCRIPTS))
    for member, script in enumerate(SCRIPTS):
        for text in script:
            group.step_member(member, text)
    assert group.done
    return [
        _played(episode, score.terms.total(task.config.reward.weights), score.terms)
        for episode, score in zip(group.episodes, group.scores, strict=True)
    ]


@pytest.fixture(params=SEEDS)
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def parity() -> SimpleNamespace:
    """Everything above: RULES, SCRIPTS, expected_alone, expected_group, shown, Played."""
    return SimpleNamespace(
        RULES=RULES,
        SCRIPTS=SCRIPTS,
        Played=Played,
        shown=shown,
        expected_alone=expected_alone,
        expected_group=expected_group,
    )


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Micro models lose by more, and by a lot where the cores are busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def built(family: str) -> tuple[Any, Any]:
    """Return a new micro model with the vocabulary of tool conversations, and its processor."""
    # Here, since the environment of verl has no TRL.
    from transformers.utils import get_json_schema

    from dip_agents.adapters.trl.environment import DIPEnvironment
    from dip_agents.adapters.trl.template import TOOL_TEMPLATE
    from dip_agents.adapters.trl.trainer import TOOLS_ONLY
    from dip_agents.models.tiny.model import build_tiny
    from dip_agents.models.tiny.vocabulary import tiny_texts

    schemas = [json.dumps(get_json_schema(t)) for t in (DIPEnvironment.look, DIPEnvironment.answer)]
    words = [*tiny_texts(), *schemas, TOOL_TEMPLATE, TOOLS_ONLY]
    model, processor = build_tiny(words, family=family, size="micro")
    processor.tokenizer.padding_side = "left"
    return model, processor


@pytest.fixture(scope="session")
def processors() -> dict[str, Any]:
    """Return a processor with the tool template for each family; do not change them."""
    from dip_agents.adapters.trl import use_tool_template

    found = {family: built(family)[1] for family in ("qwen2_5_vl", "qwen3_vl")}
    for processor in found.values():
        use_tool_template(processor)
    return found


@pytest.fixture
def processor(processors: dict[str, Any]) -> Any:
    """Of the family whose images have the sides of the parity rules."""
    return processors["qwen3_vl"]


@pytest.fixture(scope="session")
def tools() -> SimpleNamespace:
    """Return what TRL's tests share: args, factory, act, shown, no_log, built."""
    from dip_agents.adapters.trl import banned_tokens, environment_factory

    def args(processor: Any, **changes: Any) -> SimpleNamespace:
        """Arguments of a trainer with groups of four."""
        usual = {
            "num_generations": 4,
            "num_generations_eval": None,
            "max_completion_length": 4000,
            "use_vllm": False,
            "generation_kwargs": banned_tokens(processor),
        }
        return SimpleNamespace(**usual | changes)

    def factory(task: Task, processor: Any, reserve: int | None = None, **changes: Any) -> Any:
        return environment_factory(task, processor, args(processor, **changes), reserve)

    def act(environment: Any, text: str, through: str) -> Any:
        """Say a text as a tool call where it can be one; return the reply."""
        call = CALL.fullmatch(text) if through == "tools" else None
        if call is None:
            return environment._step(text)
        thought, tool, boxes = call.groups()
        return getattr(environment, tool)(thought, json.loads(boxes))

    def parts(reply: list[dict[str, Any]]) -> Shown:
        texts = [part["text"] for part in reply if part["type"] == "text"]
        return shown("".join(texts), [p["image"] for p in reply if p["type"] == "image"])

    return SimpleNamespace(
        args=args,
        factory=factory,
        act=act,
        shown=parts,
        no_log=lambda name, value: None,
        built=built,
    )
