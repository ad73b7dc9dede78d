"""Files that a task chose come into its directory: linked, verified, several at once, and blamed where they do not."""

import errno
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from jobs.errors import ErrorKind
from tests.support.index_server import Body, Exchange, IndexServer, Stall, Status
from tests.worker.gateway.conftest import (
    PURE,
    MakeGateway,
    MakeIndex,
    download,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway import collection
from worker.gateway.client import Session
from worker.gateway.collection import Choice, Collected

WHEEL = tiny_wheel("demo", "1.0", requires=("needed>=1",), filler=os.urandom(300_000))
CHOICE = Choice(project="demo", filename=PURE)


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL)
    return server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    return directory


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def collect(session: Session, directory: Path, files: Sequence[Choice] = (CHOICE,)) -> Collected:
    while not (state := session.collect(files, directory)).done:
        pass
    return state


def test_it_is_the_file_of_the_cache_and_counts_as_served(
    index: IndexServer, make_gateway: MakeGateway, place: Path, tmp_path: Path
) -> None:
    gateway = make_gateway(index_settings(index))
    for number in ("first", "second"):
        (place / number).mkdir()
        with gateway.session() as session:
            assert collect(session, place / number) == Collected(done=True)
            assert [file.filename for file in session.record().files] == [PURE]
            assert session.progress().size_bytes == len(WHEEL)
        assert (place / number / PURE).read_bytes() == WHEEL
    [kept] = (tmp_path / "cache" / "files").glob("??/*")
    assert kept.stat().st_nlink == 3
    assert len(index.seen("/files/")) == 1


def test_where_no_link_can_be_made_it_is_a_copy(
    index: IndexServer, make_gateway: MakeGateway, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    seen: list[Path] = []

    def copy(source: IO[bytes], target: IO[bytes]) -> None:
        target.write(source.read(1))
        seen.extend(place.glob("*.whl"))
        target.write(source.read())

    monkeypatch.setattr("worker.gateway.collection.shutil.copyfileobj", copy)
    with make_gateway(index_settings(index)).session() as session:
        assert collect(session, place) == Collected(done=True)
    [kept] = (tmp_path / "cache" / "files").glob("??/*")
    assert kept.stat().st_nlink == 1
    assert (place / PURE).read_bytes() == WHEEL
    assert (place / PURE).stat().st_mtime_ns == kept.stat().st_mtime_ns, "whoever hashes it may remember that"
    assert seen == [], "a part of it had its name"
    assert [file.name for file in place.iterdir()] == [PURE]


def test_where_no_times_can_be_set_files_are_brought_all_the_same(
    index: IndexServer, make_gateway: MakeGateway, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("utime", "link"):
        monkeypatch.setattr(os, name, _refuse)
    with make_gateway(index_settings(index)).session() as session:
        assert collect(session, place) == Collected(done=True)
    assert (place / PURE).read_bytes() == WHEEL


def test_copies_that_are_made_at_once_of_one_open_file_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", _refuse)
    content = os.urandom(8_000_000)
    (tmp_path / "kept").write_bytes(content)
    with (tmp_path / "kept").open("rb") as kept, ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: collection.place(kept.fileno(), tmp_path / str(number)), range(8)))
    assert all((tmp_path / str(number)).read_bytes() == content for number in range(8))


def test_what_fails_does_not_wait_for_what_is_on_its_way(
    index: IndexServer, make_gateway: MakeGateway, place: Path
) -> None:
    other = tiny_wheel("other", "1.0")
    index.add("other-1.0-py3-none-any.whl", other)
    index.misbehave("/files/demo", Stall())
    index.misbehave("/files/other", Status(403))
    files = (CHOICE, Choice(project="other", filename="other-1.0-py3-none-any.whl"))
    with make_gateway(index_settings(index, read_timeout_seconds=90, connect_timeout_seconds=90)).session() as session:
        page(session)
        page(session, "other")
        collect(session, place, files)
        kinds = {incident.kind for incident in session.record().incidents}
    assert ErrorKind.FORBIDDEN in kinds
    assert list(place.iterdir()) == []


def test_metadata_of_a_wheel_without_a_digest_is_made_also_when_nothing_is_kept(
    make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    index.add(PURE, WHEEL, sha256=None)
    with make_gateway(index_settings(index), page_ttl_seconds=0).session() as session:
        page(session)
        assert b"Requires-Dist: needed>=1" in download(session, f"{PURE}.metadata").content
    assert len(index.seen("/files/")) == 1


def test_several_are_asked_for_at_once(make_index: MakeIndex, make_gateway: MakeGateway, place: Path) -> None:
    index, both = make_index(), threading.Barrier(2, timeout=30)

    class Meet:
        def play(self, exchange: Exchange) -> None:
            both.wait()
            exchange.send(200, exchange.right.headers, exchange.right.body)

    names = [f"demo-{version}.0-py3-none-any.whl" for version in (1, 2)]
    for number, name in enumerate(names, 1):
        index.add(name, tiny_wheel("demo", f"{number}.0"))
    index.misbehave("/files/", Meet())
    with make_gateway(index_settings(index, connect_timeout_seconds=30)).session() as session:
        assert collect(session, place, [Choice(project="demo", filename=name) for name in names]).problem is None
        assert session.record().incidents == ()
    assert sorted(path.name for path in place.iterdir()) == names


@pytest.mark.parametrize(
    ("fault", "kind"),
    [(Body(bytes(len(WHEEL))), ErrorKind.HASH_MISMATCH), (Status(403), ErrorKind.FORBIDDEN)],
)
def test_what_an_index_does_not_deliver_is_in_the_record_and_not_in_the_directory(
    fault: Body | Status, kind: ErrorKind, index: IndexServer, make_gateway: MakeGateway, place: Path
) -> None:
    index.misbehave("/files/", fault)
    with make_gateway(index_settings(index)).session() as session:
        assert collect(session, place) == Collected(done=True)
        [incident] = session.record().incidents
        assert session.record().files == ()
    assert incident.kind is kind
    assert list(place.iterdir()) == []


def test_nothing_is_begun_after_an_incident(index: IndexServer, make_gateway: MakeGateway, place: Path) -> None:
    index.misbehave("/simple/gone/", Status(500))
    with make_gateway(index_settings(index)).session() as session:
        assert page(session, "gone").status_code == 502
        assert collect(session, place) == Collected(done=True)
    assert list(place.iterdir()) == []
    assert index.seen("/files/") == []


@pytest.mark.parametrize(
    ("told", "differing"),
    [
        (b"Name: demo\nVersion: 1.0\nRequires-Dist: Needed >=1\n", None),
        (b"Name: demo\nVersion: 1.0\n", "Requires-Dist"),
        (b"Name: demo\nVersion: 1.0\nRequires-Dist: needed>=1\nRequires-Python: >=3\n", "Requires-Python"),
        (b"Name: demo\nVersion: 1.0\nRequires-Dist: needed>=1\nProvides-Extra: more\n", "Provides-Extra"),
    ],
)
def test_metadata_that_is_not_the_wheel_s_is_noticed(
    told: bytes, differing: str | None, make_index: MakeIndex, make_gateway: MakeGateway, place: Path
) -> None:
    """pip, which has only the metadata, would have chosen by what is not true."""
    index = make_index()
    index.add(PURE, WHEEL, metadata=told)
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert download(session, f"{PURE}.metadata").content == told
        collect(session, place)
        incidents = session.record().incidents
    if differing is None:
        assert incidents == ()
    else:
        [incident] = incidents
        assert incident.kind is ErrorKind.BROKEN_WHEEL
        assert differing in incident.message
        assert list(place.iterdir()) == []


def test_what_is_wrong_with_this_machine_is_told_as_such(
    index: IndexServer, make_gateway: MakeGateway, place: Path
) -> None:
    with make_gateway(index_settings(index)).session() as session:
        state = collect(session, place / "nowhere")
        assert session.record().incidents == ()
    assert state.errno == 2


def test_a_file_that_no_page_lists_is_a_problem(index: IndexServer, make_gateway: MakeGateway, place: Path) -> None:
    with make_gateway(index_settings(index)).session() as session:
        state = collect(session, place, [Choice(project="demo", filename="demo-7-py3-none-any.whl")])
    assert state.problem is not None
    assert "not on the page" in state.problem
