"""Damaged model folders and odd replies of a server, drawn from a seed.

A failure is anything but a result or a ``DipError``, and what takes too long.
"""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file

from dip_agents.engines.chat_client import ChatServer
from dip_agents.engines.choose import engine_for
from dip_agents.engines.openai import OpenAIEngine
from dip_agents.models.loading import load_model
from dip_agents.models.rules import rules_of
from dip_agents.models.tiny.model import build_tiny
from dip_agents.models.vlm import VLM
from dip_agents.models.weights import write_checkpoint
from dip_agents.policies import ServerPolicy, VLMPolicy
from dip_env.config import EpisodeConfig
from dip_env.episode import Episode
from dip_env.errors import DipError
from dip_env.scenes import ToyScenes

SECONDS = 20.0
"""Processor time that one try may take."""
RULES = EpisodeConfig(view_size=64, crop_size=32, size_multiple=32, max_looks=1)
ODD = (
    *(None, True, -1, 0, 1, 7, 10**6, 10**30, -0.5, 1e30, float("nan"), "", "x", "evil-org/evil"),
    *([], [1], {}, {"a": 1}, ["x"] * 3, "\ud800", "<|image_pad|>", "</think>"),
)
"""What a field holds in place of its value."""
Found = dict[str, tuple[int, list[str]]]


def attack(rng: np.random.Generator, tries: int) -> Found:
    """Try damaged folders and odd replies.

    Args:
        rng: chooses the damages.
        tries: of each kind.

    Returns:
        For each kind the number of tries, and its failures in words.
    """
    found: Found = {}
    with tempfile.TemporaryDirectory() as scratch, odd_server() as server:
        model, processor = build_tiny(["Find every person"], size="micro")
        vlm = VLM(model, processor)
        whole = write_checkpoint(vlm, Path(scratch) / "whole")
        for kind, damage in DAMAGES.items():
            failures = []
            for number in range(tries):
                folder = shutil.copytree(whole, Path(scratch) / f"{kind} {number}")
                words = damage(rng, folder)
                failures += _tried(f"{kind} {number}: {words}", lambda f=folder: _load(f))
                shutil.rmtree(folder)
            found[f"folder, {kind}"] = tries, failures
        for kind, reply in REPLIES.items():
            failures = []
            for number in range(tries):
                answers = [reply(rng) for _ in range(3)]
                server.answers = iter(answers)
                failures += _tried(
                    f"{kind} {number}: {str(answers)[:300]}",
                    lambda n=number: _ask(server.address, vlm, n % 3),
                )
            found[f"reply, {kind}"] = tries, failures
    return found


def _tried(words: str, act: Callable[[], object]) -> list[str]:
    """Run one try and return its failure, if it is one."""
    began = time.process_time()
    failures = []
    try:
        act()
    except DipError:
        pass
    except Exception as error:  # what is looked for
        failures.append(f"{words}: {type(error).__name__}: {str(error)[:200]}")
    taken = time.process_time() - began
    return failures + ([f"{words}: {taken:.1f} s"] if taken > SECONDS else [])


def _load(folder: Path) -> None:
    """Load a folder and play a turn with what was loaded."""
    rules_of(str(folder))
    loaded = load_model(str(folder), device="cpu", dtype="float32")
    policy = VLMPolicy(engine_for(loaded.vlm), max_new_tokens=2)
    policy.act([Episode(ToyScenes()[0], RULES).observation()], [0])


def _ask(address: str, vlm: VLM, how: int) -> None:
    """Ask a server for three turns: as text, tokenised again, and as tokens."""
    observations = [Episode(ToyScenes()[k], RULES).observation() for k in range(3)]
    policy: Any = ServerPolicy(address, "m", concurrency=1, retries=0)
    if how:
        server = ChatServer(address, retries=0)
        policy = VLMPolicy(OpenAIEngine(server, "m", vlm.chat, concurrency=1, tokens=how == 2))
    texts = [said.text for said in policy.act(observations, [0, 1, 2])]
    for observation, text in zip(observations, texts, strict=True):
        Episode(ToyScenes()[observation.scene_index or 0], RULES).step(text)


def _pick(rng: np.random.Generator, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _file(rng: np.random.Generator, folder: Path) -> Path:
    return _pick(rng, sorted(folder.iterdir()))


def _cut(rng: np.random.Generator, folder: Path) -> str:
    file = _file(rng, folder)
    raw = file.read_bytes()
    kept = int(rng.integers(len(raw) + 1))
    file.write_bytes(raw[:kept])
    return f"{file.name} cut to {kept} of {len(raw)} bytes"


def _flip(rng: np.random.Generator, folder: Path) -> str:
    file = _file(rng, folder)
    raw = bytearray(file.read_bytes())
    # Half of the time at the beginning, where formats have their headers.
    end = len(raw) if rng.random() < 0.5 else min(len(raw), 400)
    places = [int(rng.integers(end)) for _ in range(int(rng.integers(1, 5)))]
    for place in places:
        raw[place] ^= 1 << int(rng.integers(8))
    file.write_bytes(raw)
    return f"{file.name}, bits flipped in bytes {places}"


def _delete(rng: np.random.Generator, folder: Path) -> str:
    names = []
    for _ in range(int(rng.integers(1, 3))):
        file = _file(rng, folder)
        file.unlink()
        names.append(file.name)
    return f"without {names}"


def _replace(rng: np.random.Generator, folder: Path) -> str:
    file, other = _file(rng, folder), _file(rng, folder)
    contents = {
        "nothing": b"",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "noise": rng.bytes(100),
        "an adapter": b'{"base_model_name_or_path": "x", "peft_type": "LORA"}',
        other.name: other.read_bytes(),
        "brackets": b"[" * 200_000,
        "an object": b"{}",
    }
    name = _pick(rng, sorted(contents))
    file.write_bytes(contents[name])
    return f"{file.name} is {name}"


def _rename(rng: np.random.Generator, folder: Path) -> str:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    name = _pick(rng, sorted(tensors))
    change = _pick(rng, ("drop", "rename", "cut", "transpose", "add", "integers", "prefix", "nan"))
    tensor = tensors[name]
    if change == "prefix":
        tensors = {f"base_model.model.{key}": value for key, value in tensors.items()}
    elif change == "add":
        tensors["more.weight"] = tensor.clone()
    else:
        del tensors[name]
        changed = {
            "rename": lambda: {name.replace(".", "_", 1): tensor},
            "cut": lambda: {name: tensor[1:].clone()},
            "transpose": lambda: {name: tensor.reshape(-1, 1).clone()},
            "integers": lambda: {name: tensor.int()},
            "nan": lambda: {name: tensor * float("nan")},
        }
        tensors |= changed.get(change, dict)()
    save_file(tensors, file, metadata={"format": "pt"})
    return f"{change} {name}"


def _configure(rng: np.random.Generator, folder: Path) -> str:
    file = _pick(rng, sorted(folder.glob("*.json")))
    tree = json.loads(file.read_text())
    words = _oddly(rng, tree)
    file.write_text(json.dumps(tree))
    return f"{file.name}, {words}"


def _oddly(rng: np.random.Generator, tree: Any) -> str:
    """Put something odd into one place of a JSON value, in place."""
    path = []
    while True:
        keys = sorted(tree) if isinstance(tree, dict) else range(len(tree))
        key = _pick(rng, keys)
        path.append(str(key))
        inner = tree[key]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.2:
            break
        tree = inner
    value = copy.deepcopy(_pick(rng, ODD))  # the next oddity may go into this one
    if rng.random() < 0.15 and isinstance(tree, dict):
        del tree[key]
        return f"without {'/'.join(path)}"
    tree[key] = value
    return f"{'/'.join(path)} is {value!r}"


DAMAGES: dict[str, Callable[[np.random.Generator, Path], str]] = {
    "cut": _cut,
    "flip": _flip,
    "delete": _delete,
    "replace": _replace,
    "rename": _rename,
    "configure": _configure,
}

TURN = "<think>1</think><answer>[[1,2,30,40]]</answer>"
Answer = tuple[int, bytes, int]
"""Status, body and the bytes of it that are promised."""


def _valid() -> dict[str, Any]:
    message = {"role": "assistant", "content": TURN, "reasoning_content": None, "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "stop",
        "token_ids": [1, 2, 3],
        "logprobs": {"content": [{"token": "a", "logprob": -0.5}] * 3},
    }
    return {"id": "x", "choices": [choice], "prompt_token_ids": [1, 2], "usage": {"n": 1}}


def _whole(raw: bytes, status: int = 200) -> Answer:
    return status, raw, len(raw)


def _odd_field(rng: np.random.Generator) -> Answer:
    tree = _valid()
    for _ in range(int(rng.integers(1, 3))):
        with contextlib.suppress(TypeError, IndexError, ValueError):  # what was odd already
            _oddly(rng, tree)
    return _whole(json.dumps(tree).encode())


def _odd_bytes(rng: np.random.Generator) -> Answer:
    raw = bytearray(json.dumps(_valid()).encode())
    for _ in range(int(rng.integers(4))):
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    kept = bytes(raw[: int(rng.integers(len(raw) + 1))]) if rng.random() < 0.5 else bytes(raw)
    promised = len(kept) + (int(rng.integers(1, 50)) if rng.random() < 0.3 else 0)
    return 200, kept, promised


def _odd_status(rng: np.random.Generator) -> Answer:
    status = _pick(rng, (200, 204, 302, 400, 401, 404, 413, 422, 429, 500, 503, 599))
    body = _pick(rng, (b"", b"no", b"use max_completion_tokens", json.dumps(_valid()).encode()))
    return _whole(b"" if status == 204 else body, status)


def _deep(rng: np.random.Generator) -> Answer:
    depth = int(rng.choice([10, 300, 900, 990, 3000, 300_000]))
    opening, closing = _pick(rng, ((b"[", b"]"), (b'{"a":', b"}")))
    nested = opening * depth + b"1" + (closing * depth if rng.random() < 0.7 else b"")
    tree = json.dumps(_valid() | {"choices": "HERE"}).encode()
    return _whole(nested if rng.random() < 0.3 else tree.replace(b'"HERE"', nested))


def _odd_text(rng: np.random.Generator) -> Answer:
    pieces = (
        *("<think>", "</think>", "<look>[[1,2,3,4]]</look>", "<answer>[]</answer>", "\ud800"),
        *("<|im_end|>", "<|image_pad|>", "1" * 5000, "[" * 5000, "x" * 70_000, "\x00", " "),
    )
    tree = _valid()
    choice = tree["choices"][0]
    for name in ("content", "reasoning_content"):
        some = [_pick(rng, pieces) for _ in range(int(rng.integers(5)))]
        choice["message"][name] = "".join(some) if rng.random() < 0.8 else None
    choice["finish_reason"] = _pick(rng, ("stop", "length", None, "content_filter", "tool_calls"))
    choice["token_ids"] = [int(i) for i in rng.integers(0, 3000, int(rng.integers(6)))]
    return _whole(json.dumps(tree).encode())


REPLIES: dict[str, Callable[[np.random.Generator], Answer]] = {
    "field": _odd_field,
    "bytes": _odd_bytes,
    "status": _odd_status,
    "depth": _deep,
    "text": _odd_text,
}


class _OddServer(ThreadingHTTPServer):
    answers: Iterator[Answer]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _OddServer

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, raw, promised = next(self.server.answers, _whole(json.dumps(_valid()).encode()))
        with contextlib.suppress(ConnectionError):  # the client has given up
            self.send_response(status)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            self.wfile.write(raw)
        self.close_connection = True

    def log_message(self, *args: Any) -> None:
        pass


@contextlib.contextmanager
def odd_server() -> Iterator[_OddServer]:
    """Run a server that gives the answers it is told to."""
    made = _OddServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
