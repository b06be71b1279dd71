"""Scenes behind an OpenEnv server: ``python -m dip_agents.adapters.openenv --scenes crowd``.

Scenes and rules are set when the server starts. A client chooses a seed or the index of a scene,
never a path, a source or a rule. Each session plays episodes of its own, on scenes that all
sessions share; without siblings the look term is measured by the annotation prior.

The server is for a trusted network: it has no authentication, and a client occupies one of
``--max-sessions`` until it leaves, also while idle.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

from dip_agents.adapters.task import Task
from dip_agents.runtime.optional import require_extra

require_extra("openenv", "openenv")

import uvicorn
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.websockets import WebSocketState
from openenv.core.env_server.http_server import HTTPEnvServer

from dip_agents.adapters.openenv.client import CrowdAction, CrowdObservation
from dip_agents.adapters.openenv.session import CrowdEnvironment

ROUTES = ("/ws", "/health", "/metadata", "/schema")
"""All routes of a server; episodes are played on ``/ws``."""
MAX_MESSAGE_BYTES = 2**20
"""Longest message of a client, which is disconnected beyond it. The longest action of the grammar,
65536 characters, needs 12 bytes for each where JSON spells it as a surrogate pair."""
MAX_SESSIONS = 64


def make_app(task: Task, max_sessions: int = MAX_SESSIONS) -> FastAPI:
    """Build the server with only ``ROUTES`` of OpenEnv's.

    OpenEnv's web page shows one episode to all visitors, its ``/reset`` and ``/step`` forget the
    episode between two calls, and sessions opened on ``/mcp`` stay until they are closed. The web
    server should accept no longer messages than ``MAX_MESSAGE_BYTES``.

    Args:
        task: scenes and rules.
        max_sessions: clients at a time; further ones are refused.
    """
    app = FastAPI(title="dip_crowd", docs_url=None, redoc_url=None, openapi_url=None)
    session = partial(CrowdEnvironment, task)
    server = HTTPEnvServer(session, CrowdAction, CrowdObservation, max_sessions)
    server.register_routes(app)
    for error in (WebSocketDisconnect, RuntimeError):
        app.add_exception_handler(error, _let_leave)
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", None) in ROUTES]
    return app


async def _let_leave(connection: Request | WebSocket, error: Exception) -> None:
    """Raise an error unless the client has left: OpenEnv answers it and closes its socket still."""
    if getattr(connection, "application_state", None) is not WebSocketState.DISCONNECTED:
        raise error


def main() -> None:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(prog="python -m dip_agents.adapters.openenv")
    more = 'further keywords of gym.make, such as {"root": "data", "view_size": 672}'
    parser.add_argument("--scenes", default="crowd", help="name of the scenes")
    parser.add_argument("--keywords", type=json.loads, default={}, metavar="JSON", help=more)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000)
    clients = "clients at a time, idle ones included; further ones are refused"
    parser.add_argument("--max-sessions", type=int, default=MAX_SESSIONS, help=clients)
    args = parser.parse_args()
    app = make_app(Task(args.scenes, **args.keywords), args.max_sessions)
    uvicorn.run(app, host=args.host, port=args.port, ws_max_size=MAX_MESSAGE_BYTES)
