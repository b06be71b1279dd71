"""The messages between an OpenEnv server of scenes and its client, and the client.

A single episode has no siblings: its look term is measured by the annotation prior, as every
observation states (``ambiguity``).
"""

from __future__ import annotations

import base64
import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dip_agents.runtime.optional import require_extra
from dip_env.messages import Message
from dip_wrappers.chat import PNG_PREFIX, to_chat

require_extra("openenv", "openenv")

from openenv.core.client_types import StepResult
from openenv.core.env_client import EnvClient
from openenv.core.env_server.types import Action, Observation, State
from pydantic import Field


class CrowdAction(Action):
    """The policy's action of one turn.

    Args:
        text: any text; text outside the grammar costs a turn.
    """

    text: str


class CrowdObservation(Observation):
    """The environment's next message; no ground truth.

    Args:
        content: text and images in the order they are read, as content parts of a chat message
            (OpenAI's form, images as lossless PNG data URLs); empty at the end.
        parse_error: why the action was malformed or refused, else None.
        reward_terms: every reward term by name, unweighted; at the end only.
        ambiguity: the reference of the look term.
    """

    content: list[dict[str, Any]] = Field(default_factory=list)
    parse_error: str | None = None
    reward_terms: dict[str, float] | None = None
    ambiguity: Literal["annotation"] = "annotation"

    @property
    def text(self) -> str:
        """The texts together, without the images."""
        return "".join(part["text"] for part in self.content if part["type"] == "text")

    @property
    def images(self) -> list[NDArray[np.uint8]]:
        """The images in order, RGB uint8 (h, w, 3)."""
        urls = [p["image_url"]["url"] for p in self.content if p["type"] == "image_url"]
        files = [io.BytesIO(base64.b64decode(url.removeprefix(PNG_PREFIX))) for url in urls]
        return [np.asarray(Image.open(file, formats=("PNG",))) for file in files]


class CrowdState(State):
    """The state of the session; no ground truth.

    Args:
        episode_id: the client's own label for the episode; it gives no access.
        step_count: actions taken so far.
        scene: index of the scene in the server's source; None before the first reset.
        done: whether the episode has ended.
    """

    episode_id: str | None = Field(default=None, max_length=255)
    scene: int | None = None
    done: bool = False


class CrowdClient(EnvClient[CrowdAction, CrowdObservation, CrowdState]):
    """One session on a server, asynchronous as OpenEnv's clients are.

    ``reset`` takes ``seed``, ``episode_id`` and ``scene`` and nothing else; ``.sync()`` returns
    the same for synchronous code::

        with CrowdClient("http://127.0.0.1:8000").sync() as env:
            first = env.reset(seed=0).observation
            last = env.step(CrowdAction(text="<think>nobody</think><answer>[]</answer>"))
    """

    def _step_payload(self, action: CrowdAction) -> dict[str, Any]:
        return {"text": action.text}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[CrowdObservation]:
        fields = payload["observation"]
        observation = CrowdObservation(**fields, reward=payload["reward"], done=payload["done"])
        return StepResult(observation, payload["reward"], payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> CrowdState:
        return CrowdState(**payload)


def content_of(message: Message | None) -> list[dict[str, Any]]:
    """Return a message as the content parts of an observation, none without a message."""
    return [] if message is None else to_chat([message], "openai")[0]["content"]
