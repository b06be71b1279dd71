"""Fixtures that more than one test file uses."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from PIL import Image

from dip_env.scenes import Scene, ToyScenes

if "PYTEST_XDIST_WORKER" in os.environ:
    # Tests that run beside each other on as many cores; before anything loads torch.
    os.environ["OMP_NUM_THREADS"] = "1"

# The same examples on every machine and run; no deadline, since the machines differ in speed.
settings.register_profile("dip", deadline=None, derandomize=True)
settings.load_profile("dip")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests: last, they would keep one worker busy alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture
def toy() -> ToyScenes:
    return ToyScenes()


class CountingScenes(ToyScenes):
    """Notes which scenes were made."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __getitem__(self, index: int) -> Scene:
        self.made.append(index)
        return super().__getitem__(index)


@pytest.fixture(scope="session")
def counting_scenes() -> type[CountingScenes]:
    """Return the class; each source of it starts with nothing made."""
    return CountingScenes


@pytest.fixture
def write_coco(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a COCO folder and returns its root."""

    def write(
        annotations: list[dict[str, Any]],
        images: list[dict[str, Any]] | None = None,
        categories: list[dict[str, Any]] | None = None,
        size: tuple[int, int] = (100, 80),
    ) -> Path:
        if images is None:
            images = [{"id": 0, "file_name": "a.png", "width": 100, "height": 80}]
        if categories is None:
            categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
        (tmp_path / "images").mkdir(exist_ok=True)
        for row in images:
            if isinstance(row.get("file_name"), str):
                Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "images" / row["file_name"])
        data = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / "annotations.json").write_text(json.dumps(data))
        return tmp_path

    return write


class ChatTestServer(ThreadingHTTPServer):
    """A server that speaks the chat protocol and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _ChatHandler)
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.now = self.most = 0
        self.answer: Callable[[dict[str, Any]], Any] = lambda body: self.said("<answer>[]</answer>")
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    @staticmethod
    def said(text: str, reason: str = "stop", **more: Any) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of an answer."""
        message = {"role": "assistant", "content": text}
        return 200, {"choices": [{"message": message, "finish_reason": reason, **more}]}


class _ChatHandler(BaseHTTPRequestHandler):
    server: ChatTestServer

    def do_POST(self) -> None:
        made = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with made.lock:
            made.bodies.append(body)
            made.headers.append(dict(self.headers))
            made.paths.append(self.path)
            made.now += 1
            made.most = max(made.most, made.now)
        status, content, *headers = made.answer(body)
        with made.lock:
            made.now -= 1
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError):  # the client has given up
            self.wfile.write(raw)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ChatTestServer]:
    """Return a server whose ``answer`` (body -> status and JSON or bytes) a test may replace."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = ChatTestServer()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()
