"""Files: fetched once, whole or not at all, kept by content, resumed when broken, evicted when room is needed."""

import hashlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from jobs.errors import ErrorKind
from tests.support.command import eventually
from tests.support.index_server import (
    Body,
    Chunked,
    Exchange,
    IndexServer,
    Reset,
    Short,
    Slow,
    Stall,
    Status,
)
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
from worker.gateway.cache import FileCache

WHEEL = tiny_wheel("demo", "1.0", filler=os.urandom(1_000_000))
SHA256 = hashlib.sha256(WHEEL).hexdigest()
SECOND = "demo-2.0-py3-none-any.whl"


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL)
    return server


def fetch(gateway: LocalGateway, filename: str = PURE) -> bytes:
    with gateway.session() as session:
        assert page(session).status_code == 200
        answer = download(session, filename)
        assert answer.status_code == 200, answer.text
        return answer.content


def kept(tmp_path: Path, sha256: str = SHA256) -> Path:
    return tmp_path / "cache" / "files" / sha256[:2] / sha256


def parts(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache" / "part").glob("*/*") if path.name != "lock"]


def test_fetched_once_for_all_tasks(index: IndexServer, make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(index_settings(index))
    assert fetch(gateway) == fetch(gateway) == WHEEL
    assert len(index.seen("/files/")) == 1
    assert kept(tmp_path).read_bytes() == WHEEL
    assert parts(tmp_path) == []


def test_kept_for_the_next_process(index: IndexServer, make_gateway: MakeGateway) -> None:
    assert fetch(make_gateway(index_settings(index))) == WHEEL
    assert fetch(make_gateway(index_settings(index))) == WHEEL
    assert len(index.seen("/files/")) == 1


def test_many_at_once_ask_the_index_once(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/", Slow(0.3))
    gateway = make_gateway(index_settings(index))
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: fetch(gateway), range(8)))
    assert set(bodies) == {WHEEL}
    assert [request.path for request in index.seen()] == ["/simple/demo/", f"/files/{PURE}"]


def test_readers_see_the_file_grow(index: IndexServer, make_gateway: MakeGateway) -> None:
    """All who ask, the first included, get what has arrived before the index has sent everything."""
    index.misbehave("/files/", Stall(after_bytes=600_000), times=1)
    gateway = make_gateway(index_settings(index, read_timeout_seconds=1.5))
    with gateway.session() as session, requests.Session() as http:
        page(session)
        url = f"{session.index_url.removesuffix('simple/')}files/demo/{PURE}"
        started = time.monotonic()
        for _ in range(2):
            with http.get(url, stream=True, timeout=10) as answer:
                assert answer.headers["Content-Length"] == str(len(WHEEL))
                assert answer.raw.read(300_000) == WHEEL[:300_000]
        assert time.monotonic() - started < 1
        assert download(session).content == WHEEL


@pytest.mark.parametrize("fault", [Reset(after_bytes=700_000), Short(700_000)])
def test_resumes_where_the_body_broke(fault: Reset, index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/files/", fault, times=1)
    assert fetch(make_gateway(index_settings(index))) == WHEEL
    first, second = index.seen("/files/")
    assert "Range" not in first.headers
    assert int(second.headers["Range"].removeprefix("bytes=").removesuffix("-")) > 500_000


def test_starts_over_and_skips_when_it_cannot_resume(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index(ranges=False)
    index.add(PURE, WHEEL)
    index.misbehave("/files/", Reset(after_bytes=700_000), times=1)
    assert fetch(make_gateway(index_settings(index))) == WHEEL
    assert len(index.seen("/files/")) == 2


def test_a_file_that_changes_on_the_way_is_not_glued(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index(ranges=False)
    index.add(PURE, WHEEL, sha256=None)
    index.misbehave("/files/", Reset(after_bytes=700_000), times=1)
    index.misbehave("/files/", Body(bytes(len(WHEEL))))
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        broken(session)
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.TRUNCATED
    assert "other bytes than before" in incident.message


@pytest.mark.parametrize("fault", [Chunked(), Chunked("gzip")])
@pytest.mark.parametrize("size", [-1, None])
def test_any_transfer(fault: Chunked, size: int | None, make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, WHEEL, size=size)
    index.misbehave("/", fault)
    with make_gateway(index_settings(index)).session() as session:
        assert page(session).status_code == 200
        answer = download(session)
        assert answer.content == WHEEL
        assert answer.headers["Content-Length"] == str(len(WHEEL))
        assert session.record().files[0].size_bytes == len(WHEEL)


def test_a_broken_download_leaves_nothing(index: IndexServer, make_gateway: MakeGateway, tmp_path: Path) -> None:
    index.misbehave("/files/", Body(bytes(len(WHEEL))))
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert broken(session) in {"short", "refused"}
    assert parts(tmp_path) == []
    assert list((tmp_path / "cache" / "files").rglob("*")) == []
    index.behave()
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert download(session).content == WHEEL


@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_corrupted_entry_is_fetched_again(
    damage: str, index: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    fetch(make_gateway(index_settings(index)))
    content = bytearray(WHEEL)
    if damage == "flip":
        content[1000] ^= 1
    else:
        del content[-1000:]
    kept(tmp_path).write_bytes(content)
    assert fetch(make_gateway(index_settings(index))) == WHEEL
    assert len(index.seen("/files/")) == 2


def test_cut_while_the_gateway_runs(index: IndexServer, make_gateway: MakeGateway, tmp_path: Path) -> None:
    gateway = make_gateway(index_settings(index))
    fetch(gateway)
    os.truncate(kept(tmp_path), 1000)
    assert fetch(gateway) == WHEEL


def test_written_to_while_the_gateway_runs(index: IndexServer, make_gateway: MakeGateway, tmp_path: Path) -> None:
    """The size stays, and the file has been verified before: only that somebody wrote to it tells."""
    gateway = make_gateway(index_settings(index))
    fetch(gateway)
    with kept(tmp_path).open("r+b") as file:
        file.seek(1000)
        file.write(b"bad")
    assert fetch(gateway) == fetch(gateway) == WHEEL
    assert len(index.seen("/files/")) == 2


def test_use_alone_is_no_reason_to_verify_again(
    index: IndexServer, make_gateway: MakeGateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (make_gateway(index_settings(index)) for _ in range(2))
    assert fetch(one) == fetch(other) == WHEEL
    monkeypatch.setattr("worker.gateway.cache.hashlib.file_digest", None)
    os.utime(kept(tmp_path), ns=(0, kept(tmp_path).stat().st_mtime_ns))
    assert fetch(one) == fetch(other) == WHEEL
    assert kept(tmp_path).stat().st_atime_ns > 0, "it was used"


def test_a_kept_file_is_dated_further_back_than_a_clock_stands_still(
    index: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    """So a write that comes at once still changes the time."""
    fetch(make_gateway(index_settings(index)))
    about = kept(tmp_path).stat()
    assert time.time() - about.st_mtime > 5
    assert time.time() - about.st_atime < 60, "it is the newest of the cache nevertheless"


def test_an_index_that_fails_is_not_blamed_on_another_with_the_same_file(
    index: IndexServer, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    other = make_index()
    other.add(PURE, WHEEL)
    index.misbehave("/files/", Stall(after_bytes=20))
    gateway = make_gateway(index_settings(index, 0), index_settings(other, 1))
    with gateway.session("pypi[0]") as first, gateway.session("pypi[1]") as second, ThreadPoolExecutor(1) as pool:
        failing = pool.submit(broken, first)
        eventually(lambda: index.seen("/files/") != [])
        assert download(second).content == WHEEL
        assert not failing.done(), "both were under way together"
        assert failing.result() == "short"
        assert second.record().incidents == ()
        [incident] = first.record().incidents
    assert (incident.index, incident.url) == ("pypi[0]", f"{index.origin}/files/{PURE}")


def test_another_name_of_a_file_that_is_on_its_way_is_checked_too(
    make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    for filename in (PURE, SECOND):
        index.add(filename, WHEEL)
    index.misbehave("/files/", Slow(0.3))
    with make_gateway(index_settings(index)).session() as session, ThreadPoolExecutor(1) as pool:
        page(session)
        right = pool.submit(download, session, PURE)
        eventually(lambda: index.seen("/files/") != [])
        assert broken(session, SECOND) in {"refused", "short"}
        assert right.result().content == WHEEL
        [incident] = session.record().incidents
        assert [file.filename for file in session.record().files] == [PURE]
    assert (incident.kind, "inside it is demo 1.0" in incident.message) == (ErrorKind.BROKEN_WHEEL, True)
    assert len(index.seen("/files/")) == 1


def test_metadata_in_memory_has_a_bound(
    make_index: MakeIndex, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.gateway.cache._KEPT_METADATA_BYTES", 1000)
    index = make_index()
    names = [f"demo-{number}.0-py3-none-any.whl" for number in range(1, 9)]
    for number, filename in enumerate(names, 1):
        index.add(filename, tiny_wheel("demo", f"{number}.0", requires=("needed>=1",) * 10))
    gateway = make_gateway(index_settings(index))
    with gateway.session() as session:
        for filename in names * 2:
            assert b"needed>=1" in download(session, f"{filename}.metadata").content
    known = gateway.cache._metadata  # noqa: SLF001 - nothing but memory tells
    assert 0 < sum(map(len, known.values())) <= 1000


def test_without_a_promised_hash(make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path) -> None:
    index = make_index()
    index.add(PURE, WHEEL, sha256=None)
    gateway = make_gateway(index_settings(index))
    assert fetch(gateway) == fetch(gateway) == WHEEL
    assert len(index.seen("/files/")) == 1
    assert kept(tmp_path).read_bytes() == WHEEL
    with gateway.session() as session:
        page(session)
        download(session)
        assert session.record().files[0].sha256 is None


@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha224", "sha384", "sha512"])
def test_other_digests_are_verified_and_what_is_wrong_is_not_kept(
    algorithm: str, make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    """Otherwise the file would be served until its note is old, and each job told that the index is wrong."""
    index = make_index(forms=("html",))
    digest = hashlib.new(algorithm, WHEEL).hexdigest()
    index.add(PURE, WHEEL, url=f"{index.origin}/files/{PURE}#{algorithm}={digest}", sha256=None)
    index.misbehave("/files/", Body(WHEEL.replace(b"demo/filler", b"demo/FILLER")), times=1)
    gateway = make_gateway(index_settings(index))
    with gateway.session() as session:
        assert page(session).json()["files"][0]["hashes"] == {algorithm: digest}
        assert broken(session) in {"refused", "short"}
        [incident] = session.record().incidents
    assert (incident.kind, f"its page promises {digest}" in incident.message) == (ErrorKind.HASH_MISMATCH, True)
    assert not list((tmp_path / "cache" / "files").glob("*/*"))
    assert fetch(gateway) == fetch(gateway) == WHEEL
    assert len(index.seen("/files/")) == 2


def test_without_a_hash_another_user_fetches_for_himself(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, WHEEL, sha256=None)
    fetch(make_gateway(index_settings(index, bearer_token="one")))
    fetch(make_gateway(index_settings(index, bearer_token="two")))
    assert len(index.seen("/files/")) == 2


def test_evicts_the_least_recently_used(make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path) -> None:
    index = make_index()
    wheels = {
        f"demo-{n}.0-py3-none-any.whl": tiny_wheel("demo", f"{n}.0", filler=os.urandom(99_000)) for n in range(1, 5)
    }
    for filename, body in wheels.items():
        index.add(filename, body)
    gateway = make_gateway(index_settings(index), max_size_bytes=350_000)
    first, second, third, fourth = wheels
    for filename in (first, second, third):
        fetch(gateway, filename)
    for age, filename in enumerate((third, second, first)):
        os.utime(kept(tmp_path, hashlib.sha256(wheels[filename]).hexdigest()), (age, age))
    fetch(gateway, fourth)
    left = {path.name for path in (tmp_path / "cache" / "files").glob("*/*")}
    assert left == {hashlib.sha256(wheels[filename]).hexdigest() for filename in (second, first, fourth)}
    assert fetch(gateway, third) == wheels[third]


def test_eviction_does_not_disturb_a_reader(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, WHEEL)
    index.add(SECOND, tiny_wheel("demo", "2.0", filler=os.urandom(1_000_000)))
    gateway = make_gateway(index_settings(index), max_size_bytes=1_200_000)
    fetch(gateway)
    with gateway.session() as session, requests.Session() as http:
        page(session)
        url = f"{session.index_url.removesuffix('simple/')}files/demo/{PURE}"
        with http.get(url, stream=True, timeout=10) as answer:
            begin = answer.raw.read(10)
            fetch(gateway, SECOND)
            assert begin + answer.raw.read() == WHEEL


def test_leftovers_of_dead_processes_go_those_of_living_stay(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from worker.gateway.cache import FileCache;"
        "cache = FileCache(Path(sys.argv[1]), 1, 1);"
        "[path.joinpath('half').write_text('x') for path in Path(sys.argv[1], 'part').iterdir()];"
        "print('up', flush=True); sys.stdin.read(); os._exit(9)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"up\n"
        FileCache(tmp_path / "cache", 1, 1).close()
        assert parts(tmp_path) == ["half"]
        other.communicate()
    FileCache(tmp_path / "cache", 1, 1).close()
    assert list((tmp_path / "cache" / "part").iterdir()) == []


def test_a_full_disk_is_told(index: IndexServer, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    gateway = make_gateway(index_settings(index))
    with gateway.session() as session:
        page(session)
        monkeypatch.setattr("worker.gateway.download.os.pwrite", full)
        broken(session)
        monkeypatch.undo()
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.DISK_FULL
    assert "moderne.agent.visualization.cache.maxSize" in incident.message


def test_ranges_for_clients(index: IndexServer, make_gateway: MakeGateway) -> None:
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        middle = download(session, Range="bytes=10-19")
        end = download(session, Range=f"bytes={len(WHEEL) - 5}-")
        beyond = download(session, Range=f"bytes={len(WHEEL)}-")
        last = download(session, Range="bytes=-5")
        etag = middle.headers["ETag"]
        again = download(session, **{"Range": "bytes=10-19", "If-Range": etag})
        other = download(session, **{"Range": "bytes=10-19", "If-Range": '"another"'})
        senseless = [
            download(session, Range=f"bytes={text}") for text in ("-", "-0", "9-5", "9" * 5000 + "-", "1-2,4-5")
        ]
    assert (middle.status_code, middle.content) == (206, WHEEL[10:20])
    assert middle.headers["Content-Range"] == f"bytes 10-19/{len(WHEEL)}"
    assert (end.status_code, end.content) == (206, WHEEL[-5:])
    assert (beyond.status_code, beyond.content) == (200, WHEEL)
    assert (last.status_code, last.content) == (206, WHEEL[-5:])
    assert (again.status_code, again.content) == (206, WHEEL[10:20])
    assert (other.status_code, other.content) == (200, WHEEL)
    assert [(answer.status_code, answer.content) for answer in senseless] == [(200, WHEEL)] * 5


@pytest.mark.parametrize("line", [b"\n", b"\r\n"])
def test_metadata_comes_without_its_description(make_index: MakeIndex, make_gateway: MakeGateway, line: bytes) -> None:
    index = make_index()
    index.add(PURE, WHEEL, metadata=line.join([b"Name: demo", b"Version: 1.0", b"", b"A manual.", b"", b"Its end."]))
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert download(session, f"{PURE}.metadata").content == b"Name: demo\nVersion: 1.0\n"


def test_metadata_is_passed_through(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    told = b"Name: Demo\nVersion: 1\n"
    index.add(PURE, WHEEL, metadata=told)
    index.add(SECOND, tiny_wheel("demo", "2.0", requires=("needed>=1",)))
    with make_gateway(index_settings(index)).session() as session:
        files = {file["filename"]: file for file in page(session).json()["files"]}
        assert files[PURE]["core-metadata"] is True
        assert files[SECOND]["core-metadata"] is True
        assert download(session, f"{PURE}.metadata").content == told
        assert b"Requires-Dist: needed>=1" in download(session, f"{SECOND}.metadata").content
        assert session.record().files == ()
        assert session.progress().size_bytes == 0


def test_of_a_wheel_that_is_here_nobody_is_asked_for_metadata(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, WHEEL, metadata=b"Name: demo\nVersion: 1.0\n")
    gateway = make_gateway(index_settings(index))
    with gateway.session() as first:
        page(first)
        download(first, PURE)
    index.requests.clear()
    with gateway.session() as second:
        page(second)
        assert download(second, f"{PURE}.metadata").content.startswith(b"Metadata-Version")
    assert index.requests == []


@pytest.mark.parametrize("status", [404, 410])
def test_metadata_that_a_page_promises_and_the_index_lacks_is_made(
    status: int, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    index.add(PURE, WHEEL, metadata=b"Name: demo\n")
    index.misbehave(f"/files/{PURE}.metadata", Status(status))
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert b"Version: 1.0" in download(session, f"{PURE}.metadata").content
        assert session.record().incidents == ()


def test_of_metadata_only_what_counts_is_told(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    told = b"Name: demo\nVersion: 1.0\nLicense: Long.\n  And longer.\nRequires-Dist: needed;\n  extra == 'more'\n"
    index.add(PURE, WHEEL, metadata=told + b"Provides-Extra: more\nAuthor: Somebody\n\nRequires-Dist: no\n")
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        content = download(session, f"{PURE}.metadata").content
    needed = b"Requires-Dist: needed;\n  extra == 'more'\n"
    assert content == b"Name: demo\nVersion: 1.0\n" + needed + b"Provides-Extra: more\n"


def test_metadata_that_is_not_what_was_promised(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.add(PURE, WHEEL, metadata=b"Name: demo\n")
    index.misbehave(f"/files/{PURE}.metadata", Body(b"Name: evil\n"))
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        broken(session, f"{PURE}.metadata")
        [incident] = session.record().incidents
    assert (incident.step, incident.kind) == ("metadata", ErrorKind.HASH_MISMATCH)


def test_a_client_that_leaves_does_not_stop_the_others(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/files/", Slow(0.3))
    gateway = make_gateway(index_settings(index))
    with gateway.session() as session, requests.Session() as http:
        page(session)
        url = f"{session.index_url.removesuffix('simple/')}files/demo/{PURE}"
        with ThreadPoolExecutor(1) as pool:
            leaving = pool.submit(http.get, url, timeout=0.1)
            assert download(session).content == WHEEL
        with pytest.raises(requests.ReadTimeout):
            leaving.result()
        assert len(session.record().files) == 1
    assert len(index.seen("/files/")) == 1


def test_an_error_is_shared_by_all_who_wait(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/files/", SlowlyForbidden())
    gateway = make_gateway(index_settings(index))

    def refused(_: int) -> str:
        with gateway.session() as session:
            page(session)
            assert broken(session) == "refused"
            return str(session.record().incidents[0].kind)

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(refused, range(4))) == {ErrorKind.FORBIDDEN}
    assert len(index.seen("/files/")) == 1


class SlowlyForbidden:
    def play(self, exchange: Exchange) -> None:
        exchange.wait(0.5)
        Status(403).play(exchange)


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser can make a directory of somebody else")
@pytest.mark.parametrize("name", ["files", "links", "pages", "part"])
def test_a_directory_that_somebody_else_made_first_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    os.chown(tmp_path / name, 65534, 65534)
    with pytest.raises(PermissionError, match=f"{name} belongs to another user"):
        FileCache(tmp_path, 2**20, 60)


def test_notes_of_addresses_do_not_pile_up(make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path) -> None:
    index = make_index()
    index.add(PURE, WHEEL, sha256=None, url=f"../../files/{PURE}?X-Signature=1")
    directory = tmp_path / "cache"
    with make_gateway(index_settings(index), directory=directory).session() as session:
        page(session)
        assert download(session).content == WHEEL
    [note] = (directory / "links").iterdir()
    os.utime(note, (time.time() - 3600,) * 2)
    FileCache(directory, 2**20, 600).close()
    assert list((directory / "links").iterdir()) == []
