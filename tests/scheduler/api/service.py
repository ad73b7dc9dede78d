"""The API of a really running scheduler, as its callers reach it."""

import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import uvicorn
from starlette.types import ASGIApp

from config.settings import RedisSettings
from scheduler.api.connections import BoundedProtocol
from tests.support.command import Deployment, Service, free_port

TOKEN = "planted-api-token"
ORIGIN = "http://127.0.0.1"


@dataclass(frozen=True)
class Api:
    """Where the API is, and the scheduler that serves it."""

    url: str
    scheduler: Service
    token: str | None = None

    def without_token(self) -> "Api":
        """Return the same for a caller who shows none."""
        return Api(self.url, self.scheduler)

    def call(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> requests.Response:
        """Send a request and return the answer, whatever it is."""
        own = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        given = {"timeout": 20, "allow_redirects": False} | more
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, f"{self.url}{path}", headers={**own, **(headers or {})}, **given)

    def get(self, path: str, **more: Any) -> Any:
        """Return the document of a successful answer."""
        return _document(self.call("GET", f"/api/v1{path}", **more))

    def post(self, path: str, content: object, **more: Any) -> Any:
        """Return the document of a successful answer to what is sent."""
        return _document(self.call("POST", f"/api/v1{path}", json=content, **more))


def _document(answer: requests.Response) -> Any:
    assert answer.ok, answer.text
    return answer.json() if answer.content else None


def variables(redis: RedisSettings, directory: Path, port: int, token: str | None = None) -> dict[str, str]:
    """Return the settings of a scheduler."""
    prefix = "MODERNE_AGENT_VISUALIZATION_"
    found = {
        f"{prefix}REDIS_URL": redis.url.get_secret_value(),
        f"{prefix}STORAGE_URI": (directory / "store").as_uri(),
        f"{prefix}LEASE": "2s",
        f"{prefix}API_PORT": str(port),
    }
    return found | ({} if token is None else {f"{prefix}API_TOKEN": token})


@contextmanager
def serving(deployment: Deployment, *, token: str | None = None) -> Iterator[Api]:
    """Run a scheduler of these settings until the block is left."""
    port = deployment.variables["MODERNE_AGENT_VISUALIZATION_API_PORT"]
    with deployment.service("scheduler") as scheduler:
        scheduler.wait_for("scheduler_started")
        yield Api(f"http://127.0.0.1:{port}", scheduler, token)


@contextmanager
def answering(app: ASGIApp) -> Iterator[int]:
    """Serve an application in a thread of this process until the block is left, and yield its port."""
    server = uvicorn.Server(
        uvicorn.Config(
            app, http=BoundedProtocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=5
        )
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield int(listener.getsockname()[1])
        server.should_exit = True
        thread.join(10)
    assert not thread.is_alive()


def deployment_for(redis: RedisSettings, directory: Path, token: str | None = None, **more: str) -> Deployment:
    """Return the settings of a scheduler on a free port."""
    assert "MODERNE_AGENT_VISUALIZATION_API_PORT" not in os.environ
    return Deployment(variables(redis, directory, free_port(), token) | more, directory)


def problem(answer: requests.Response, status: int, kind: str) -> dict[str, Any]:
    """Return the problem that an answer tells of, which is of this sort."""
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert (told["status"], told["type"]) == (status, f"urn:vizfetch:{kind}")
    assert told["title"]
    assert told["detail"]
    return told
