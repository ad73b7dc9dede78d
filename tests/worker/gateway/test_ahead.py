"""Wheels that a client may choose are fetched while it still does, and little that it does not need."""

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from tests.support.command import eventually
from tests.support.index_server import Exchange, Fault, IndexServer, Status
from tests.worker.gateway.conftest import PURE, MakeGateway, MakeIndex, download, index_settings, page, tiny_wheel
from worker.gateway import ahead
from worker.gateway.ahead import Ahead
from worker.gateway.cache import FileCache, Wanted
from worker.gateway.client import Session
from worker.gateway.collection import Choice
from worker.gateway.upstream import Upstream

WHEEL = tiny_wheel("demo", "1.0", requires=("needed>=1",), filler=os.urandom(300_000))
METADATA = b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\nRequires-Dist: needed>=1\n"
OLDER = PURE.replace("1.0", "0.9")
WHEEL_PATH = f"/files/{PURE}"


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL, metadata=METADATA)
    return server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "ahead"
    directory.mkdir()
    return directory


@dataclass
class OfTheWheel:
    """Is played for the wheel, and not for its metadata, whose address begins with the same."""

    fault: Fault
    times: float = float("inf")

    def play(self, exchange: Exchange) -> None:
        if exchange.path == WHEEL_PATH and self.times > 0:
            self.times -= 1
            self.fault.play(exchange)
        else:
            exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)


@dataclass
class Once:
    """Answers rightly, once something has happened."""

    event: threading.Event

    def play(self, exchange: Exchange) -> None:
        assert self.event.wait(30)
        exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)


def times_asked_for(index: IndexServer, path: str = WHEEL_PATH) -> int:
    return sum(request.path == path for request in index.seen(path))


def read_metadata(session: Session, filename: str = PURE) -> None:
    page(session)
    assert b"Name: demo" in download(session, f"{filename}.metadata").content


def assert_never_asked(index: IndexServer, path: str = WHEEL_PATH) -> None:
    with pytest.raises(AssertionError):
        eventually(lambda: times_asked_for(index, path) > 0, seconds=0.5)


def test_it_is_fetched_once_and_counts_as_served_when_it_is_chosen(
    index: IndexServer, make_gateway: MakeGateway, place: Path, tmp_path: Path
) -> None:
    with make_gateway(index_settings(index)).session(ahead=place) as session:
        page(session)
        assert times_asked_for(index) == 0
        read_metadata(session)
        eventually((place / PURE).exists)
        assert (place / PURE).read_bytes() == WHEEL
        assert (session.record().files, session.progress().size_bytes) == ((), 0)
        read_metadata(session)
        while not session.collect([Choice(project="demo", filename=PURE)], tmp_path).done:
            pass
        assert [file.filename for file in session.record().files] == [PURE]
    assert (tmp_path / PURE).samefile(place / PURE)
    assert times_asked_for(index) == 1


def test_one_that_was_fetched_for_its_metadata_is_brought_too(
    make_index: MakeIndex, make_gateway: MakeGateway, place: Path
) -> None:
    index = make_index()
    index.add(PURE, WHEEL)
    with make_gateway(index_settings(index, max_connections=5)).session(ahead=place) as session:
        read_metadata(session)
        eventually((place / PURE).exists)
    assert times_asked_for(index) == 1


def test_what_was_in_the_cache_before_stays_there(
    index: IndexServer, make_gateway: MakeGateway, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    monkeypatch.setattr(Ahead, "begin", lambda _, upstream, project, wanted: begun.append(project))  # noqa: ARG005
    index.add("other-1.0-py3-none-any.whl", tiny_wheel("other", "1.0"))
    gateway = make_gateway(index_settings(index))
    with gateway.session() as session:
        page(session)
        download(session)
    with gateway.session(ahead=place) as session:
        read_metadata(session)
        page(session, "other")
        assert b"Name: other" in download(session, "other-1.0-py3-none-any.whl.metadata").content
    assert begun == ["other"]


def test_nobody_waits_for_it_who_does_not_ask_for_it(
    index: IndexServer, make_gateway: MakeGateway, place: Path
) -> None:
    read = threading.Event()
    index.misbehave(WHEEL_PATH, OfTheWheel(Once(read)))
    settings = index_settings(index, connect_timeout_seconds=30, read_timeout_seconds=30)
    with make_gateway(settings).session(ahead=place) as session:
        read_metadata(session)
        read.set()
        assert download(session).content == WHEEL
    assert times_asked_for(index) == 1


def test_who_asks_about_a_second_version_tries_one_after_the_other(
    index: IndexServer, make_gateway: MakeGateway, place: Path
) -> None:
    index.add(OLDER, tiny_wheel("demo", "0.9"), metadata=METADATA.replace(b"1.0", b"0.9"))
    with make_gateway(index_settings(index)).session(ahead=place) as session:
        read_metadata(session)
        eventually((place / PURE).exists)
        read_metadata(session, OLDER)
        assert_never_asked(index, f"/files/{OLDER}")


def test_who_has_no_place_for_them_gets_none(index: IndexServer, make_gateway: MakeGateway) -> None:
    with make_gateway(index_settings(index)).session() as session:
        read_metadata(session)
        assert_never_asked(index)


def test_where_connections_are_counted_pages_come_first(
    index: IndexServer, make_gateway: MakeGateway, place: Path
) -> None:
    with make_gateway(index_settings(index, max_connections=5)).session(ahead=place) as session:
        read_metadata(session)
        assert_never_asked(index)


def test_a_large_one_waits_until_it_is_chosen(
    index: IndexServer, make_gateway: MakeGateway, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "MAX_BYTES", len(WHEEL) - 1)
    with make_gateway(index_settings(index)).session(ahead=place) as session:
        read_metadata(session)
        assert_never_asked(index)
        assert download(session).content == WHEEL


def test_a_failure_that_nobody_met_is_no_incident(index: IndexServer, make_gateway: MakeGateway, place: Path) -> None:
    index.misbehave(WHEEL_PATH, OfTheWheel(Status(500), times=2))
    gateway = make_gateway(index_settings(index))
    with gateway.session(ahead=place) as session:
        read_metadata(session)
        eventually(lambda: times_asked_for(index) == 2 and not gateway.cache._downloads)  # noqa: SLF001
        assert session.record().incidents == ()
        assert download(session).content == WHEEL
        assert session.record().incidents == ()
    assert times_asked_for(index) == 3


def test_once_the_client_has_chosen_nothing_comes_any_more(
    index: IndexServer, make_gateway: MakeGateway, place: Path, tmp_path: Path
) -> None:
    """What comes later would come into a directory that is being removed."""
    chosen = threading.Event()
    index.misbehave(WHEEL_PATH, OfTheWheel(Once(chosen)))
    settings = index_settings(index, connect_timeout_seconds=30, read_timeout_seconds=30)
    gateway = make_gateway(settings)
    with gateway.session(ahead=place) as session:
        read_metadata(session)
        eventually(lambda: times_asked_for(index) == 1)
    chosen.set()
    eventually(lambda: [*(tmp_path / "cache" / "files").glob("??/*")] != [] and not gateway.cache._downloads)  # noqa: SLF001
    assert list(place.iterdir()) == []


class _Waiting:
    """A file that arrives when it is told to."""

    def __init__(self) -> None:
        self.asked, self.arrive, self.closed = threading.Event(), threading.Event(), threading.Event()

    def arrivals(self) -> Iterator[int]:
        self.asked.set()
        assert self.arrive.wait(30)
        yield 1

    @property
    def descriptor(self) -> int:
        raise AssertionError("it is not to be linked any more")

    def close(self) -> None:
        self.closed.set()


def test_what_arrives_after_the_end_is_let_go(place: Path) -> None:
    content = _Waiting()

    class Cache:
        def open(self, *_: object) -> _Waiting:
            return content

        def has(self, *_: object) -> bool:
            return True

    brought = Ahead(cast("FileCache", Cache()), place)
    wanted = Wanted(url="", sha256=None, size_bytes=None, filename=PURE)
    brought.begin(cast("Upstream", None), "demo", wanted)
    assert content.asked.wait(30)
    brought.stop()
    content.arrive.set()
    assert content.closed.wait(30)
    brought.begin(cast("Upstream", None), "other", wanted)
    assert list(place.iterdir()) == []
