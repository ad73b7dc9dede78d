"""Wheels that a client may choose are fetched while it still does, and little that it does not need."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from jobs.traffic import Patience
from tests.support.command import eventually
from tests.support.index_server import Exchange, Fault, IndexServer, Status
from tests.worker.gateway.conftest import (
    PURE,
    LocalGateway,
    MakeGateway,
    MakeIndex,
    download,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway import ahead
from worker.gateway.ahead import Ahead
from worker.gateway.cache import FileCache, Wanted
from worker.gateway.client import Session
from worker.gateway.collection import FILES_AT_ONCE, Choice
from worker.gateway.download import Download
from worker.gateway.errors import UpstreamError
from worker.gateway.upstream import Answer, Upstream

WHEEL = tiny_wheel("demo", "1.0", requires=("needed>=1",), filler=os.urandom(300_000))
METADATA = b"Metadata-Version: 2.1\nName: demo\nVersion: 1.0\nRequires-Dist: needed>=1\n"
OLDER = PURE.replace("1.0", "0.9")
NEEDED = "needed-1.0-py3-none-any.whl"
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
        eventually(lambda: times_asked_for(index) == 1 and not _bringing())
        assert session.record().incidents == ()
        assert download(session).content == WHEEL
        assert session.record().incidents == ()
    assert times_asked_for(index) == 3


def test_after_a_failure_only_what_is_asked_for_is_fetched(
    index: IndexServer, make_gateway: MakeGateway, place: Path
) -> None:
    index.misbehave(WHEEL_PATH, OfTheWheel(Status(429)))
    index.add(NEEDED, tiny_wheel("needed", "1.0"), metadata=METADATA.replace(b"demo", b"needed"))
    gateway = make_gateway(index_settings(index))
    with gateway.session(ahead=place) as session:
        read_metadata(session)
        eventually(lambda: times_asked_for(index) == 1 and not _bringing())
        page(session, "needed")
        assert b"Name: needed" in download(session, f"{NEEDED}.metadata").content
        assert_never_asked(index, f"/files/{NEEDED}")


@pytest.mark.parametrize("status", [Status(429, {"Retry-After": "300"}), Status(503, {"Retry-After": "300"})])
def test_a_failure_that_nobody_met_does_not_close_the_index(
    index: IndexServer, make_gateway: MakeGateway, place: Path, status: Status
) -> None:
    index.misbehave(WHEEL_PATH, OfTheWheel(status))
    index.add(NEEDED, tiny_wheel("needed", "1.0"))
    gateway = make_gateway(index_settings(index))
    with gateway.session(ahead=place) as session:
        read_metadata(session)
        eventually(lambda: times_asked_for(index) == 1 and not _bringing())
        assert page(session, "needed").status_code == 200
        assert session.record().incidents == ()
        assert download(session).status_code == 502, "what is asked for is told, and counts"
        assert page(session, "other").status_code == 502


@pytest.fixture
def down_before(index: IndexServer, make_gateway: MakeGateway) -> LocalGateway:
    """A gateway whose index was down, and may be asked again by one that finds out."""
    patience = Patience(failures=1, first_pause_seconds=0.2, longest_pause_seconds=60)
    gateway = make_gateway(index_settings(index), patience=patience)
    with gateway.session() as session:
        read_metadata(session)
        index.misbehave("/simple/", Status(503))
        assert page(session, "other").status_code == 502
        index.behave()
        time.sleep(0.3)
    return gateway


def test_it_does_not_find_out_for_others_whether_an_index_is_still_down(
    index: IndexServer, down_before: LocalGateway, place: Path
) -> None:
    with down_before.session(ahead=place) as session:
        read_metadata(session)
        assert_never_asked(index)
        assert page(session, "another").status_code == 404, "it has taken nobody's turn"
        assert session.record().incidents == ()


def test_who_asks_for_one_that_was_refused_meanwhile_finds_out_instead(
    index: IndexServer, down_before: LocalGateway, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused, go_on, opened = threading.Event(), threading.Event(), Upstream.open

    def open_slowly(self: Upstream, url: str, headers: Mapping[str, str], **quiet: Callable[[], bool]) -> Answer:
        try:
            return opened(self, url, headers, **quiet)
        except UpstreamError:
            refused.set()
            assert go_on.wait(30)
            raise

    monkeypatch.setattr(Upstream, "open", open_slowly)
    with down_before.session(ahead=place) as session, ThreadPoolExecutor(1) as client:
        read_metadata(session)
        assert refused.wait(30)
        eventually(lambda: down_before.cache._downloads)  # noqa: SLF001 - where a thread puts it that has begun it
        [begun] = down_before.cache._downloads.values()  # noqa: SLF001
        asked = client.submit(download, session)
        eventually(lambda: begun._asked_for)  # noqa: SLF001
        go_on.set()
        assert asked.result().content == WHEEL
        assert session.record().incidents == ()
    assert times_asked_for(index) == 1


@pytest.mark.parametrize(("failures", "status"), [(1, 200), (2, 502)])
def test_who_asks_for_one_that_was_begun_ahead_has_all_attempts(
    index: IndexServer, make_gateway: MakeGateway, place: Path, failures: int, status: int
) -> None:
    joined = threading.Event()

    @dataclass
    class FailAtFirst:
        left: int = failures

        def play(self, exchange: Exchange) -> None:
            assert joined.wait(30)
            self.left -= 1
            if self.left >= 0:
                Status(500).play(exchange)
            else:
                exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)

    index.misbehave(WHEEL_PATH, OfTheWheel(FailAtFirst()))
    gateway = make_gateway(index_settings(index, connect_timeout_seconds=30))

    def begun() -> list[Download]:
        return [each for key, each in gateway.cache._downloads.items() if key.filename == PURE]  # noqa: SLF001

    with gateway.session(ahead=place) as session, ThreadPoolExecutor(1) as client:
        read_metadata(session)
        eventually(lambda: begun() and times_asked_for(index) == 1)
        [download_of_it] = begun()
        asked = client.submit(download, session)
        eventually(lambda: download_of_it._asked_for)  # noqa: SLF001
        joined.set()
        assert asked.result().status_code == status
        assert (asked.result().content == WHEEL) is (status == 200)
    assert times_asked_for(index) == 2


def test_who_asks_for_one_that_was_just_given_up_is_not_told_of_it(
    index: IndexServer, make_gateway: MakeGateway, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the failure is noted, whoever asks finds the download where it was."""
    given_up, go_on, fail = threading.Event(), threading.Event(), Download._fail  # noqa: SLF001

    def fail_late(download: Download, error: UpstreamError) -> None:
        given_up.set()
        assert go_on.wait(30)
        fail(download, error)

    monkeypatch.setattr(Download, "_fail", fail_late)
    index.misbehave(WHEEL_PATH, OfTheWheel(Status(500), times=1))
    gateway = make_gateway(index_settings(index))
    with gateway.session(ahead=place) as session:
        read_metadata(session)
        assert given_up.wait(30)
        assert download(session).content == WHEEL
        go_on.set()
        eventually(lambda: not gateway.cache._downloads)  # noqa: SLF001
        assert session.record().incidents == ()
    assert times_asked_for(index) == 2


def test_a_page_that_lies_about_the_size_gets_no_more_fetched(
    make_index: MakeIndex, make_gateway: MakeGateway, place: Path
) -> None:
    index = make_index()
    index.add(PURE, WHEEL, metadata=METADATA, size=10)
    gateway = make_gateway(index_settings(index))
    with gateway.session(ahead=place) as session:
        read_metadata(session)
        eventually(lambda: times_asked_for(index) == 1 and not _bringing())
        assert list(place.iterdir()) == []
        assert download(session).content == WHEEL, "it does not matter to who asks for it"
        assert session.record().incidents == ()


def test_what_the_cache_would_drive_out_again_waits_until_it_is_chosen(
    make_index: MakeIndex, make_gateway: MakeGateway, place: Path, tmp_path: Path
) -> None:
    index, letters, chosen = make_index(), "abcdef", tmp_path / "chosen"
    chosen.mkdir()
    names = {f"{letter}x": f"{letter}x-1.0-py3-none-any.whl" for letter in letters}
    for project, name in names.items():
        wheel = tiny_wheel(project, "1.0", requires=("needed>=1",), filler=os.urandom(400_000))
        index.add(name, wheel, metadata=METADATA.replace(b"demo", project.encode()))
    with make_gateway(index_settings(index), max_size_bytes=1_000_000).session(ahead=place) as session:
        for project, name in names.items():
            page(session, project)
            download(session, f"{name}.metadata")
        assert_never_asked(index, f"/files/{names['ax']}")
        choices = [Choice(project=project, filename=name) for project, name in names.items()]
        while not session.collect(choices, chosen).done:
            pass
    assert [times_asked_for(index, f"/files/{name}") for name in names.values()] == [1] * len(names)


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), OSError(5, "Input/output error")])
def test_a_machine_that_cannot_look_ahead_answers_all_the_same(
    index: IndexServer, make_gateway: MakeGateway, place: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    begun = threading.Event()

    def refuse(*_: object) -> None:
        begun.set()
        raise error

    monkeypatch.setattr(ThreadPoolExecutor, "submit", refuse)
    with make_gateway(index_settings(index)).session(ahead=place) as session:
        read_metadata(session)
        assert begun.is_set()
        assert session.record().incidents == ()


@pytest.mark.parametrize("end", ["chosen", "gone"])
def test_once_the_client_has_chosen_or_gone_nothing_comes_any_more(
    index: IndexServer, make_gateway: MakeGateway, place: Path, tmp_path: Path, end: str
) -> None:
    """What comes later would come into a directory that is being removed."""
    go_on = threading.Event()
    index.misbehave(WHEEL_PATH, OfTheWheel(Once(go_on)))
    gateway = make_gateway(index_settings(index, connect_timeout_seconds=30, read_timeout_seconds=30))
    with ExitStack() as leaving:
        session = leaving.enter_context(gateway.session(ahead=place))
        read_metadata(session)
        eventually(lambda: times_asked_for(index) == 1)
        if end == "chosen":
            assert session.collect([], tmp_path).done
        else:
            leaving.close()
        go_on.set()
        eventually(lambda: not _bringing())
        assert [*(tmp_path / "cache" / "files").glob("??/*")] != []
        assert list(place.iterdir()) == []


def _bringing() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("ahead")]


class _Waiting:
    """A file that arrives when it is told to."""

    def __init__(self) -> None:
        self.arrive, self.closed = threading.Event(), threading.Event()
        self.linked = False

    def arrivals(self) -> Iterator[int]:
        assert self.arrive.wait(30)
        yield 1

    @property
    def descriptor(self) -> int:
        self.linked = True
        raise OSError("it is not to be linked")

    def close(self) -> None:
        self.closed.set()


class _Cache:
    """Has all files, none of which arrives by itself."""

    max_size_bytes = 2**30

    def __init__(self) -> None:
        self.opened: dict[str, _Waiting] = {}

    def has(self, *_: object) -> bool:
        return True

    def open(self, _: object, wanted: Wanted, *, asked_for: bool) -> _Waiting:
        assert not asked_for
        return self.opened.setdefault(str(wanted.filename), _Waiting())


def test_what_arrives_after_the_end_is_let_go_and_what_waits_is_not_begun(place: Path) -> None:
    cache = _Cache()
    brought = Ahead(cast("FileCache", cache), place)

    def begin(number: int) -> None:
        name = f"demo{number}-1.0-py3-none-any.whl"
        wanted = Wanted(url="", sha256="0" * 64, size_bytes=None, filename=name)
        brought.begin(cast("Upstream", None), f"demo{number}", wanted)

    for number in range(FILES_AT_ONCE + 2):
        begin(number)
    eventually(lambda: len(cache.opened) == FILES_AT_ONCE)
    brought.stop()
    begin(FILES_AT_ONCE + 3)
    for content in cache.opened.values():
        content.arrive.set()
    eventually(lambda: not _bringing())
    assert len(cache.opened) == FILES_AT_ONCE
    assert all(content.closed.is_set() and not content.linked for content in cache.opened.values())
