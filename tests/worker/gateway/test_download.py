"""A file on its way: whoever reads it comes to an end, with the rest or with an error that is in the record."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import ErrorKind
from tests.support.index_server import Chunked, Exchange, IndexServer
from tests.worker.gateway.conftest import (
    PURE,
    QUICK,
    LocalGateway,
    MakeGateway,
    MakeIndex,
    broken,
    download,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway.cache import Growing
from worker.gateway.client import Session
from worker.gateway.collection import Choice
from worker.gateway.download import Download
from worker.gateway.errors import UpstreamError
from worker.gateway.upstream import Upstream

WHEEL = tiny_wheel("demo", "1.0", filler=os.urandom(30_000))
SECONDS = 10
"""For what takes none where it works, and for ever where it does not."""


class Announced:
    """Announces a size and, once a reader knows of it, resets the connection before the first byte of the body."""

    def __init__(self, size_bytes: int, known: threading.Event) -> None:
        self.size_bytes = size_bytes
        self.known = known

    def play(self, exchange: Exchange) -> None:
        exchange.send(200, {"Content-Length": str(self.size_bytes)}, b"")
        assert self.known.wait(SECONDS)
        exchange.reset()


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL, size=None)
    return server


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """What is set when a reader has been told how large the file is."""
    event = threading.Event()

    class Telling(Growing):
        def __init__(self, download: Download) -> None:
            super().__init__(download)
            event.set()

    monkeypatch.setattr("worker.gateway.cache.Growing", Telling)
    return event


def patient(index: IndexServer, make_gateway: MakeGateway) -> LocalGateway:
    return make_gateway(index_settings(index, connect_timeout_seconds=SECONDS, read_timeout_seconds=SECONDS))


def downloaded(session: Session, _: Path) -> None:
    """Have pip read it."""
    broken(session)


def collected(session: Session, place: Path) -> None:
    """Have it brought."""
    until = time.monotonic() + SECONDS
    while not session.collect([Choice(project="demo", filename=PURE)], place).done:
        assert time.monotonic() < until


@pytest.mark.parametrize("more", [-1000, 1000])
@pytest.mark.parametrize("read", [downloaded, collected])
def test_another_size_than_a_reader_was_told_is_an_error(
    more: int,
    read: Callable[[Session, Path], None],
    index: IndexServer,
    known: threading.Event,
    make_gateway: MakeGateway,
    tmp_path: Path,
) -> None:
    """Else one who reads would wait for what never comes, or take a part for the whole."""
    index.misbehave("/files/", Announced(len(WHEEL) + more, known), times=1)
    with patient(index, make_gateway).session() as session:
        page(session)
        read(session, tmp_path)
        [incident] = session.record().incidents
        assert session.record().files == ()
    assert (incident.step, incident.kind) == ("file", ErrorKind.TRUNCATED)
    assert f"announced {len(WHEEL)} bytes after {len(WHEEL) + more} the time before" in incident.message


def test_the_size_that_was_told_may_come_with_the_next_try(
    index: IndexServer, known: threading.Event, make_gateway: MakeGateway
) -> None:
    index.misbehave("/files/", Announced(len(WHEEL), known), times=1)
    with patient(index, make_gateway).session() as session:
        page(session)
        assert download(session).content == WHEEL
        assert session.record().incidents == ()


class Piece:
    """Sends this without a length, and breaks off."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def play(self, exchange: Exchange) -> None:
        exchange.send(200, {"Transfer-Encoding": "chunked"}, None)
        exchange.write(b"%x\r\n%s\r\n" % (len(self.body), self.body))
        exchange.reset()


def test_a_whole_that_is_shorter_than_what_came_before_is_not_lengthened_by_it(
    make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    """Without a hash or a length, nothing else would tell that the end is of another file."""
    index = make_index()
    index.add(PURE, WHEEL, sha256=None, size=None)
    index.misbehave("/files/", Piece(WHEEL + b"the end of another file"), times=1)
    index.misbehave("/files/", Chunked())
    with patient(index, make_gateway).session() as session:
        page(session)
        assert broken(session) in {"short", "refused"}
        [incident] = session.record().incidents
    assert (incident.kind, "sent less than before" in incident.message) == (ErrorKind.TRUNCATED, True)


def test_a_machine_without_room_for_a_thread_fails_this_time_only(
    index: IndexServer, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    gateway = patient(index, make_gateway)
    with gateway.session() as session:
        page(session)
        with monkeypatch.context() as patched:
            patched.setattr("worker.gateway.cache.threading.Thread.start", full)
            assert broken(session) == "refused"
        [incident] = session.record().incidents
        assert (incident.step, incident.kind) == ("file", ErrorKind.INTERNAL)
    with gateway.session() as session:
        page(session)
        assert download(session).content == WHEEL


def test_nothing_comes_after_the_end(index: IndexServer, tmp_path: Path) -> None:
    upstream = Upstream(index_settings(index), retries=QUICK)
    growing = Download(upstream, f"{index.origin}/files/{PURE}", None, None, tmp_path / "part", max_bytes=2**20)
    growing.run(lambda _: None)
    assert growing.wait_beyond(len(WHEEL) - 1) == len(WHEEL)
    with pytest.raises(UpstreamError, match=f"ended after {len(WHEEL)} bytes"):
        growing.wait_beyond(len(WHEEL))
    growing.release()
    upstream.close()
