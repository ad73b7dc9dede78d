"""A store that takes connections and says nothing: it holds up nobody who asks nothing of it."""

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import requests
from pydantic import SecretStr
from redis import Redis
from structlog.testing import capture_logs

from bundles.layout import bundle_folder
from bundles.publish import publish
from bundles.store import Patience, open_store
from config.settings import RedisSettings, Settings, StorageSettings
from jobs.actuator import Actuator, Components, up
from jobs.catalog import Catalog
from jobs.models import CatalogEntry
from scheduler.api import shelf
from scheduler.api.application import application
from scheduler.api.resources import resources_of
from scheduler.page import gallery
from tests.bundles.factory import bundled
from tests.scheduler.api.service import answering, problem
from tests.scheduler.entries import catalog_entry
from tests.support.wheels import build_wheel

NOWHERE = f"/api/v1/bundles/acme/1.0/{'0' * 32}"
MANY = 60
"""More than the server has threads."""


def patience(seconds: float) -> Patience:
    return Patience(
        {"connect_timeout": timedelta(seconds=30), "read_timeout": timedelta(seconds=seconds)}, {"max_retries": 0}
    )


def _well() -> Components:
    return {"all": up()}


@contextmanager
def api(redis: Redis, redis_settings: RedisSettings, port: int) -> Iterator[str]:
    """Serve API, pages and health in this process, with a store behind that port."""
    storage = StorageSettings(
        uri="s3://bucket",
        endpoint_url=f"http://127.0.0.1:{port}",
        region="us-east-1",
        access_key=SecretStr("planted-access"),
        secret_key=SecretStr("planted-secret"),
    )
    settings = Settings(nickname="one", redis=redis_settings, storage=storage)
    resources = resources_of(settings, redis, threading.Event())
    well = Actuator(_well, _well, _well, lambda: b"")
    with answering(application(resources, well)) as at:
        yield f"http://127.0.0.1:{at}"
    resources.at_end.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that takes every connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=4 * MANY) as listener:
        yield int(listener.getsockname()[1])


@pytest.fixture
def entry(redis: Redis) -> CatalogEntry:
    made = catalog_entry()
    Catalog(redis).replace(frozenset(), [made])
    return made


@pytest.mark.usefixtures("entry")
def test_what_asks_nothing_of_the_store_is_answered_while_it_hangs(
    redis: Redis, redis_settings: RedisSettings, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "ANSWERING", patience(60))
    monkeypatch.setattr(shelf, "_ANSWER_WITHIN_SECONDS", 1.0)
    monkeypatch.setattr(gallery, "_PATIENCE_SECONDS", 0.5)
    with api(redis, redis_settings, silent) as url, ThreadPoolExecutor(MANY) as callers:
        asked = [callers.submit(requests.get, url + NOWHERE, timeout=30) for _ in range(MANY)]
        for path in ("/api/v1/batches", "/", "/catalogue", "/login", "/actuator/health", "/actuator/prometheus"):
            answer = requests.get(url + path, timeout=10)
            assert answer.status_code == HTTPStatus.OK, path
        assert "still reading 1 package" in requests.get(f"{url}/catalogue", timeout=10).text
        for each in asked:
            told = problem(each.result(), 503, "store-unavailable")
            assert "vizfetch check" in told["detail"]
            assert each.result().headers["Retry-After"]
        page = requests.get(f"{url}/catalogue/acme/1.0/{'0' * 32}", timeout=10)
        assert (page.status_code, "vizfetch check" in page.text) == (503, True)


def test_whoever_waits_for_a_thread_gets_it_when_others_gave_up(
    redis: Redis, redis_settings: RedisSettings, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "ANSWERING", patience(0.2))
    with capture_logs() as logged, api(redis, redis_settings, silent) as url, ThreadPoolExecutor(MANY) as callers:
        for answer in callers.map(lambda _: requests.get(url + NOWHERE, timeout=30), range(MANY)):
            problem(answer, 503, "store-unavailable")
    # The store was asked for each, so none of them waited in vain.
    reasons = [str(each["reason"]) for each in logged if each["event"] == "store_unavailable"]
    assert len(reasons) == MANY
    assert all("could not read" in reason for reason in reasons)


class _StopsInTheMiddle(BaseHTTPRequestHandler):
    """Serves the files of a folder as S3 does, but of large ones only the half."""

    folder: Path
    go_on: ClassVar = threading.Event()

    def do_GET(self) -> None:
        content = (self.folder / self.path.removeprefix("/bucket/")).read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        large = len(content) > 2**20
        self.wfile.write(content[: len(content) // 2] if large else content)
        if large:
            self.go_on.wait(30)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


def test_a_file_that_stops_in_the_middle_is_broken_off(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf, "ANSWERING", patience(2))
    wheel = build_wheel(tmp_path / "made", "acme", "1.0", files={"acme/large.bin": os.urandom(4 * 2**20)})
    objects = open_store(StorageSettings(uri=(tmp_path / "store").as_uri()))
    bundle = publish(objects, bundled(tmp_path / "made", "acme", require_specs=False), tmp_path / "made").bundle
    own = bundle_folder(bundle)

    class Stops(_StopsInTheMiddle):
        folder = tmp_path / "store"

    with ThreadingHTTPServer(("127.0.0.1", 0), Stops) as store, capture_logs() as logged:
        threading.Thread(target=store.serve_forever, daemon=True).start()
        with api(redis, redis_settings, store.server_port) as url:
            answer = requests.get(f"{url}/api/v1/{own}/files/wheels/{wheel.name}", stream=True, timeout=10)
            assert answer.status_code == HTTPStatus.OK
            with pytest.raises(requests.exceptions.ChunkedEncodingError):
                assert answer.content
            assert requests.get(f"{url}/api/v1/{own}", timeout=10).json()["bundle"]["name"] == "acme"
        Stops.go_on.set()
        store.shutdown()
    assert [each["event"] for each in logged] == ["store_unavailable"]
