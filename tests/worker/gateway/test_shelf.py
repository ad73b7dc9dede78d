"""Pages: used while fresh, then asked about; shared by processes, apart for each asker; whole or not at all."""

import errno
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.settings import CacheSettings, Target
from jobs.errors import ErrorKind
from tests.support.index_server import JSON_TYPE, Bearer, Body, IndexServer, Slow, Status
from tests.worker.gateway.conftest import (
    PURE,
    LocalGateway,
    MakeGateway,
    MakeIndex,
    broken,
    download,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway import pages
from worker.gateway.client import GatewayClient
from worker.gateway.locks import KeyLocks
from worker.gateway.pages import Page
from worker.gateway.process import GatewayProcess

WHEEL = tiny_wheel("demo", "1.0", filler=os.urandom(300_000))
NEWER = "demo-2.0-py3-none-any.whl"


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL)
    return server


def offered(gateway: LocalGateway, project: str = "demo") -> list[str]:
    with gateway.session() as session:
        answer = page(session, project)
        return [file["filename"] for file in answer.json()["files"]] if answer.ok else []


def kept_pages(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache" / "pages").glob("??/*") if path.is_file()]


@pytest.mark.parametrize(
    ("validator", "condition"), [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")]
)
@pytest.mark.parametrize("restarted", [True, False])
def test_a_stale_page_is_asked_about(
    validator: str, condition: str, *, restarted: bool, index: IndexServer, make_gateway: MakeGateway
) -> None:
    index.page_headers = {validator: '"one"'}
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    assert offered(gateway) == [PURE]
    if restarted:
        gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    assert offered(gateway) == [PURE]
    first, second = index.seen("/simple/")
    assert condition not in first.headers
    assert second.headers[condition] == '"one"'
    index.page_headers = {validator: '"two"'}
    index.add(NEWER, WHEEL)
    assert offered(gateway) == [PURE, NEWER]


@pytest.mark.parametrize(
    ("headers", "requests"),
    [
        ({}, 1),
        ({"Cache-Control": "max-age=600, public"}, 1),
        ({"Cache-Control": "max-age=0"}, 3),
        ({"Cache-Control": "public, MAX-AGE=600", "Age": "700"}, 3),
        ({"Cache-Control": "no-cache"}, 3),
        ({"Cache-Control": "private, no-store"}, 3),
        ({"Cache-Control": "s-maxage=0"}, 1),  # for caches that are shared by strangers
    ],
)
def test_the_index_says_how_long(
    headers: dict[str, str], requests: int, index: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    index.page_headers = headers
    gateway = make_gateway(index_settings(index))
    for _ in range(3):
        assert offered(gateway) == [PURE]
    assert len(index.seen("/simple/")) == requests
    assert len(kept_pages(tmp_path)) == ("no-store" not in headers.get("Cache-Control", ""))


def test_page_ttl_is_the_upper_bound(index: IndexServer, make_gateway: MakeGateway, tmp_path: Path) -> None:
    index.page_headers = {"Cache-Control": "max-age=6000"}
    gateway = make_gateway(index_settings(index), page_ttl_seconds=600)
    for _ in range(2):
        offered(gateway)
    assert len(index.seen("/simple/")) == 1
    [kept] = kept_pages(tmp_path)
    os.utime(kept, (time.time() - 700,) * 2)
    offered(make_gateway(index_settings(index), page_ttl_seconds=600))
    assert len(index.seen("/simple/")) == 2


def test_the_next_process_asks_nothing_while_a_page_is_fresh(index: IndexServer, make_gateway: MakeGateway) -> None:
    for _ in range(2):
        gateway = make_gateway(index_settings(index))
        assert offered(gateway) == [PURE]
        assert offered(gateway, "absent") == []
    assert [request.path for request in index.seen()] == ["/simple/demo/", "/simple/absent/"]


def test_an_absence_is_not_believed_for_long(
    index: IndexServer, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.gateway.shelf.MAX_ABSENCE_SECONDS", 0.2)
    gateway = make_gateway(index_settings(index))
    assert offered(gateway, "late") == []
    index.add("late-1.0-py3-none-any.whl", tiny_wheel("late", "1.0"))
    time.sleep(0.25)
    assert offered(gateway, "late") == ["late-1.0-py3-none-any.whl"]


def test_who_asks_with_other_credentials_gets_a_page_of_his_own(
    index: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    index.auth = Bearer("one")
    assert offered(make_gateway(index_settings(index, bearer_token="one"))) == [PURE]
    assert offered(make_gateway(index_settings(index, bearer_token="two"))) == []
    assert offered(make_gateway(index_settings(index))) == []
    assert [request.headers.get("Authorization") for request in index.seen()] == ["Bearer one", "Bearer two", None]
    kept = b"".join(path.read_bytes() + path.name.encode() for path in kept_pages(tmp_path))
    assert b"Bearer" not in kept


@pytest.mark.parametrize("other", [{"skip_ssl": True}, {"proxy": {"host": "127.0.0.1", "port": "PORT"}}])
def test_what_came_another_way_is_another_page(
    other: dict[str, Any], index: IndexServer, make_gateway: MakeGateway
) -> None:
    """Whoever stood in the way of an unverified request must not decide what a verified one is answered."""
    if "proxy" in other:
        other = {"proxy": {"host": "127.0.0.1", "port": index.origin.rpartition(":")[2]}}
    assert offered(make_gateway(index_settings(index, **other))) == [PURE]
    assert offered(make_gateway(index_settings(index))) == [PURE]
    assert len(index.seen()) == 2


def _flip(content: bytes) -> bytes:
    return content.replace(b"demo-1.0", b"demo-6.6")


@pytest.mark.parametrize(
    "damage", [_flip, lambda content: content[:-5], lambda _: b"", lambda content: b"\0" + content]
)
def test_a_corrupted_page_is_fetched_again(
    damage: Callable[[bytes], bytes], index: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    index.page_headers = {"ETag": '"one"'}
    assert offered(make_gateway(index_settings(index))) == [PURE]
    [kept] = kept_pages(tmp_path)
    kept.write_bytes(damage(kept.read_bytes()))
    assert offered(make_gateway(index_settings(index))) == [PURE]
    assert "If-None-Match" not in index.seen("/simple/")[1].headers
    assert len(index.seen("/simple/")) == 2


def test_a_clock_that_was_set_back_makes_no_page_eternal(
    index: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    offered(make_gateway(index_settings(index)))
    [kept] = kept_pages(tmp_path)
    os.utime(kept, (time.time() + 10_000, time.time() + 10_000))
    offered(make_gateway(index_settings(index)))
    assert len(index.seen("/simple/")) == 2


def test_a_page_that_led_astray_is_not_asked_about_but_fetched(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.page_headers = {"ETag": '"one"'}
    gateway = make_gateway(index_settings(index))
    index.misbehave("/files/", Body(b"x"), times=1)
    with gateway.session() as session:
        page(session)
        broken(session)
    offered(gateway)
    assert ["If-None-Match" in request.headers for request in index.seen("/simple/")] == [False, False]


def test_an_error_while_asking_about_a_page_is_an_error(index: IndexServer, make_gateway: MakeGateway) -> None:
    """A stale page is never passed off as the present one."""
    index.page_headers = {"ETag": '"one"'}
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    offered(gateway)
    index.misbehave("/simple/", Status(503))
    with gateway.session() as session:
        assert page(session).status_code == 502
        assert session.record().incidents[0].status == 503


def test_an_answer_of_unchanged_that_nobody_asked_for(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/simple/", Status(304))
    with make_gateway(index_settings(index)).session() as session:
        assert page(session).status_code == 502


def test_two_processes_fetch_once(index: IndexServer, tmp_path: Path) -> None:
    """Pages and files alike: the second waits for the first, and takes what that has fetched."""
    index.misbehave("/", Slow(0.4))
    settings, cache = index_settings(index, connect_timeout_seconds=10), CacheSettings(directory=tmp_path / "cache")

    def fetch(gateway: GatewayProcess) -> bytes:
        with GatewayClient(gateway.address).session(Target()) as session:
            assert page(session).status_code == 200
            return download(session).content

    with (
        GatewayProcess((settings,), cache, environment=os.environ) as one,
        GatewayProcess((settings,), cache, environment=os.environ) as two,
        ThreadPoolExecutor(4) as pool,
    ):
        assert set(pool.map(fetch, [one, two, one, two])) == {WHEEL}
    assert [request.path for request in index.seen()] == ["/simple/demo/", f"/files/{PURE}"]


HOLDER = """
import sys, time
from pathlib import Path
from typing import Any
from worker.gateway.locks import KeyLocks
with KeyLocks(Path(sys.argv[1])).held("a", 1) as mine:
    print(mine, flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    locks = KeyLocks(tmp_path / "locks")
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "locks")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"True\n"
        with locks.held("b", 1) as mine:
            assert mine
        with locks.held("a", 0.1) as mine:
            assert not mine
        holder.kill()
    with locks.held("a", 5) as mine:
        assert mine


def test_locks_keep_threads_apart_too(tmp_path: Path) -> None:
    locks, inside, most = KeyLocks(tmp_path / "locks"), threading.Semaphore(1), []

    def enter(_: int) -> None:
        with locks.held("a", 10):
            most.append(inside.acquire(blocking=False))
            time.sleep(0.01)
            inside.release()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(enter, range(12)))
    assert most == [True] * 12


def test_the_bound_counts_pages(make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path) -> None:
    index = make_index()
    for number in range(4):
        body = {"meta": {"api-version": "1.0"}, "name": f"p{number}", "files": [], "padding": "x" * 100_000}
        index.misbehave(f"/simple/p{number}/", Body(json.dumps(body).encode(), JSON_TYPE))
    gateway = make_gateway(index_settings(index), max_size_bytes=250_000)
    for number in range(4):
        offered(gateway, f"p{number}")
        time.sleep(0.02)
    assert sum(path.stat().st_size for path in kept_pages(tmp_path)) <= 250_000
    assert kept_pages(tmp_path)


def test_the_bound_holds_for_processes_together(
    make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    index = make_index()
    names = [f"demo-{number}.0-py3-none-any.whl" for number in range(8)]
    for number, name in enumerate(names):
        index.add(name, tiny_wheel("demo", f"{number}.0", filler=os.urandom(100_000)))
    gateways = [make_gateway(index_settings(index), max_size_bytes=400_000) for _ in range(2)]
    for number, name in enumerate(names):
        with gateways[number % 2].session() as session:
            page(session)
            assert download(session, name).status_code == 200
    assert sum(path.stat().st_size for path in (tmp_path / "cache" / "files").glob("*/*")) <= 400_000


def test_a_disk_that_is_full_at_the_end_of_a_page_is_told(
    index: IndexServer, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file object still holds goes to the disk only when it is flushed."""

    class Full(io.BytesIO):
        def __init__(self, *_: object, **__: object) -> None:
            super().__init__()

        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("worker.gateway.pagefiles.SpooledTemporaryFile", Full)
    with make_gateway(index_settings(index)).session() as session:
        assert not page(session).ok
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.DISK_FULL


@pytest.mark.parametrize(("kept", "read"), [(1, ["demo", "other", "demo"]), (2, ["demo", "other"])])
def test_pages_beyond_those_in_memory_are_read_from_the_disk(
    kept: int, read: list[str], index: IndexServer, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.add("other-1.0-py3-none-any.whl", tiny_wheel("other", "1.0"))
    found: list[str] = []

    def noting(project: str, *answer: Any) -> Page:
        found.append(project)
        return pages.read(project, *answer)

    monkeypatch.setattr("worker.gateway.shelf._MAX_KEPT_PAGES", kept)
    monkeypatch.setattr("worker.gateway.shelf.pages", SimpleNamespace(read=noting))
    gateway = make_gateway(index_settings(index))
    assert [offered(gateway, project) for project in ("demo", "other", "demo")][::2] == [[PURE], [PURE]]
    assert found == read
    assert len(index.seen("/simple/demo/")) == 1
