"""Source distributions on their way: as real servers send them, and whether they are what their names say."""

import gzip
import io
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from bundles.archive import MAX_TEXT_BYTES
from config.settings import IndexSettings
from jobs.errors import ErrorKind
from tests.support.command import free_port
from tests.support.index_server import Body, Exchange, Reset
from tests.support.servers import running
from tests.worker.gateway.conftest import (
    PURE,
    MakeGateway,
    MakeIndex,
    broken,
    download,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway.inside import NotThisFile, metadata
from worker.gateway.startup import Rules

ALLOWED = Rules(sdists="allow")
SOURCE = "demo-1.0.tar.gz"


def source(name: str = "demo", version: str = "1.0", *, info: str = "PKG-INFO", filler: int = 0) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=0) as archive:
        for member, content in (
            ("setup.py", b"#" * filler),
            (info, f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n\nName: other\n".encode()),
        ):
            entry = tarfile.TarInfo(f"demo-1.0/{member}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def zipped(name: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("demo-1.0/PKG-INFO", f"Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n")
    return packed.getvalue()


def test_an_index_that_says_its_archives_are_encoded(make_gateway: MakeGateway, tmp_path: Path) -> None:
    """pypiserver calls a ``.tar.gz`` a tar archive with the encoding gzip, which a client would undo."""
    packages = tmp_path / "packages"
    packages.mkdir()
    packed = source()
    (packages / SOURCE).write_bytes(packed)
    port = free_port()
    command = [str(Path(sys.executable).with_name("pypi-server")), "run", "-i", "127.0.0.1", "-p", str(port)]
    settings = IndexSettings.model_validate({"name": "pypi[0]", "url": f"http://127.0.0.1:{port}/simple"})
    with running(*command, "--disable-fallback", str(packages), url=f"http://127.0.0.1:{port}/"):  # noqa: SIM117 - the server first
        with make_gateway(settings, rules=ALLOWED).session() as session:
            assert page(session).status_code == 200
            assert download(session, SOURCE).content == packed
            assert session.record().incidents == ()


@pytest.mark.parametrize("sha256", ["", None])
def test_an_encoding_that_is_none_over_a_connection_that_breaks(
    sha256: str | None, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    body = source(filler=300_000)
    index = make_index()
    index.add(SOURCE, body, sha256=sha256)
    index.misbehave("/files/", Reset(after_bytes=100_000), times=1)
    index.misbehave("/files/", Body(body, "application/x-tar", {"Content-Encoding": "gzip"}))
    with make_gateway(index_settings(index), rules=ALLOWED).session() as session:
        page(session)
        assert download(session, SOURCE).content == body


@pytest.mark.parametrize(
    ("filename", "body", "says"),
    [
        (SOURCE, source(name="other"), "inside it is other 1.0"),
        (SOURCE, source(version="2.0"), "inside it is demo 2.0"),
        (SOURCE, b"hello", "not a readable source distribution"),
        ("demo-1.0.zip", zipped("other"), "inside it is other 1.0"),
        ("demo-1.0.zip", b"PK\3\4 no", "not a readable source distribution"),
    ],
)
def test_another_package_inside_a_right_name(
    filename: str, body: bytes, says: str, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    index.add(filename, body)
    with make_gateway(index_settings(index), rules=ALLOWED).session() as session:
        page(session)
        broken(session, filename)
        [incident] = session.record().incidents
        assert session.record().files == ()
    assert (incident.kind, incident.attempts, incident.step) == (ErrorKind.BROKEN_WHEEL, 1, "file")
    assert says in incident.message


@pytest.mark.parametrize("filename", [PURE, SOURCE])
@pytest.mark.parametrize(
    ("told", "says"),
    [
        (b"Name: demo\nVersion: 2.0\n", "inside it is demo 2.0"),
        (b"Name: other\nVersion: 1.0\n", "inside it is other 1.0"),
        (b"Name: demo\n", "inside it is demo None"),
    ],
)
def test_metadata_of_another_package_is_not_passed_on(
    filename: str, told: bytes, says: str, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    """pip would pass over the file, and take an older one."""
    index = make_index()
    index.add(filename, tiny_wheel("demo", "1.0"), metadata=told)
    with make_gateway(index_settings(index), rules=ALLOWED).session() as session:
        page(session)
        assert broken(session, f"{filename}.metadata") == "refused"
        [incident] = session.record().incidents
    assert (incident.kind, incident.attempts, incident.step) == (ErrorKind.BROKEN_WHEEL, 1, "metadata")
    assert (
        f"/files/{filename}.metadata offers metadata of it that is not what its name says: {says}" in incident.message
    )


def directory_bomb() -> bytes:
    """An archive of nothing but its directory: a reader makes an object of some hundred bytes of each 47."""
    entry = b"PK\1\2" + bytes(24) + struct.pack("<H", 1) + bytes(16) + b"x"
    entries = entry * (MAX_TEXT_BYTES // len(entry) + 1)
    return entries + b"PK\5\6" + bytes(8) + struct.pack("<LLH", len(entries), 0, 0)


def attribute_bomb() -> bytes:
    """A tar archive with an attribute of 64 MB, which packs to some kilobytes."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 64_000_000
    return gzip.compress(header.tobuf() + bytes(header.size))


@pytest.mark.parametrize(
    ("filename", "body", "says"),
    [
        (PURE, directory_bomb(), "not a readable wheel: its directory"),
        ("demo-1.0.zip", directory_bomb(), "not a readable source distribution: its directory"),
        (SOURCE, attribute_bomb(), "a name or an attribute in it is larger"),
    ],
)
def test_an_archive_that_would_fill_the_memory(filename: str, body: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / filename
    path.write_bytes(body)
    tracemalloc.start()
    try:
        with pytest.raises(NotThisFile, match=says):
            metadata(path, filename)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("filename", "body"),
    [
        (SOURCE, source(name="Demo", version="1")),
        (SOURCE, source(info="elsewhere/PKG-INFO", name="other")),
        ("demo-1.0.zip", zipped("DEMO")),
    ],
)
def test_what_is_right_or_does_not_say(
    filename: str, body: bytes, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    index.add(filename, body)
    with make_gateway(index_settings(index), rules=ALLOWED).session() as session:
        page(session)
        assert download(session, filename).content == body
        assert session.record().incidents == ()


class Half:
    """Sends the beginning of a file, and resets the connection."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def play(self, exchange: Exchange) -> None:
        exchange.send(200, {"Content-Type": "application/zip"}, self.body, stop_after=len(self.body) // 2)
        exchange.reset()


def test_two_files_are_never_made_one(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    """Nothing promises a hash here, and the file changes between a broken answer and the next."""
    old, new = (tiny_wheel("demo", "1.0", filler=letter * 200_000) for letter in (b"x", b"y"))
    index = make_index()
    index.add(PURE, new, sha256=None)
    index.misbehave("/files/", Half(old), times=1)
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert broken(session) in {"short", "refused"}
        [incident] = session.record().incidents
    assert "other bytes than before" in incident.message
    assert all("Range" not in request.headers for request in index.seen("/files/"))
