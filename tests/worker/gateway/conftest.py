"""A gateway inside the test's own process, in front of real index servers."""

import secrets
import socket
import threading
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import pytest
import requests

from config.settings import IndexSettings, RedisSettings, Target
from jobs.traffic import Patience
from tests.support.index_server import IndexServer
from tests.support.wheels import build_wheel
from tests.worker.conftest import MakeIndex
from worker.gateway import pages
from worker.gateway.cache import FileCache
from worker.gateway.client import GatewayAddress, GatewayClient, Session
from worker.gateway.pages import JSON_TYPE, Page
from worker.gateway.server import Application, Server
from worker.gateway.shelf import Shelf
from worker.gateway.startup import Retries, Rules
from worker.gateway.tasks import Tasks
from worker.gateway.traffic import traffic
from worker.gateway.upstream import Upstream

__all__ = ["MakeIndex"]

QUICK = Retries(attempts=2, base_delay_seconds=0.01, max_delay_seconds=0.02, max_retry_after_seconds=2)
PURE = "demo-1.0-py3-none-any.whl"


def index_settings(server: IndexServer, number: int = 0, /, **options: Any) -> IndexSettings:
    """Settings for a server, with limits short enough for tests."""
    limits = {"connect_timeout_seconds": 0.6, "read_timeout_seconds": 0.8}
    return IndexSettings.model_validate({"name": f"pypi[{number}]", "url": server.url, **limits, **options})


def tiny_wheel(name: str, version: str, *, requires: tuple[str, ...] = (), filler: bytes = b"") -> bytes:
    """Make a wheel in memory, not compressed, so that ``filler`` makes it as large as a test needs."""
    with TemporaryDirectory() as directory:
        files = {f"{name}/filler": filler}
        stored = zipfile.ZIP_STORED
        return build_wheel(
            Path(directory), name, version, requires=requires, files=files, compression=stored
        ).read_bytes()


class Quickly(Server):
    """Stops without making a test wait."""

    expiration_interval = 0.02


class LocalGateway:
    """The gateway's parts put together as its process does it."""

    def __init__(
        self,
        directory: Path,
        *indexes: IndexSettings,
        ca_bundle: Path | None = None,
        retries: Retries = QUICK,
        page_ttl_seconds: float = 600,
        max_size_bytes: int = 2**30,
        idle_seconds: float = 3600,
        rules: Rules | None = None,
        patience: Patience | None = None,
        redis: RedisSettings | None = None,
        threads: int = 12,
    ) -> None:
        known = traffic(redis, patience or Patience())
        self.upstreams = tuple(
            Upstream(index, ca_bundle=ca_bundle, retries=retries, traffic=known) for index in indexes
        )
        self.cache = FileCache(directory, max_size_bytes, page_ttl_seconds)
        shelf = Shelf(page_ttl_seconds, self.cache.pages)
        tasks = Tasks(self.upstreams, shelf, self.cache, idle_seconds, rules)
        token = secrets.token_urlsafe(16)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = Quickly(self._listener, Application(tasks, token), threads=threads)
        self.address = GatewayAddress(url=f"http://127.0.0.1:{self._listener.getsockname()[1]}", control_token=token)
        self.client = GatewayClient(self.address)

    def __enter__(self) -> Self:
        self._server.prepare()
        threading.Thread(target=self._server.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self.cache.close()
        for upstream in self.upstreams:
            upstream.close()

    def session(
        self, index: str | None = None, target: Target | None = None, ahead: Path | None = None
    ) -> AbstractContextManager[Session]:
        return self.client.session(target or Target(), index, ahead)


MakeGateway = Callable[..., LocalGateway]


@pytest.fixture
def make_gateway(resources: ExitStack, tmp_path: Path) -> MakeGateway:
    """Start gateways that end with the test, before the indexes they use."""

    def make(*indexes: IndexSettings, directory: Path = tmp_path / "cache", **options: Any) -> LocalGateway:
        return resources.enter_context(LocalGateway(directory, *indexes, **options))

    return make


def read(project: str, url: str, content_type: str, body: bytes) -> Page:
    """Read a page that stands in memory."""
    return pages.read(project, url, content_type, BytesIO(body))


def get(session: Session, path: str, **headers: str) -> requests.Response:
    """Ask the gateway as an installer does; ``path`` is below the task's own address."""
    with requests.Session() as http:
        http.trust_env = False
        return http.get(session.index_url.removesuffix("simple/") + path, headers=headers, timeout=30)


def page(session: Session, project: str = "demo") -> requests.Response:
    return get(session, f"simple/{project}/", Accept=JSON_TYPE)


def download(session: Session, filename: str = PURE, **headers: str) -> requests.Response:
    """Fetch a file; the body may be short, which is for the test to judge."""
    return get(session, f"files/{filename.split('-', maxsplit=1)[0].replace('_', '-')}/{filename}", **headers)


def broken(session: Session, filename: str = PURE) -> str:
    """Fetch a file that must not arrive: ``refused`` with a status, or ``short`` in the middle."""
    try:
        response = download(session, filename)
    except requests.exceptions.ChunkedEncodingError:  # what requests makes of a body that ends early
        return "short"
    assert response.status_code in {502, 503, 504}, response.status_code
    return "refused"
