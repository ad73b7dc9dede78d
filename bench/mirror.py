"""A package index in a directory: what the bench asks for is fetched once from the public index, then served from here.

    PYTHONPATH=. .venv/bin/python -m bench.mirror DIRECTORY [--record] [--delay SECONDS]

Prints its address and serves until standard input ends. Pages are whole, with all their links, compressed for clients
that take it, and with the caching headers of a public index: reading them is a large part of what installers do. With
``--record``, what is missing is fetched from the public index and kept; without, it is not there, and counted.

Layout: ``pages/NAME`` (JSON by PEP 691), ``files/HOST/PATH``, each beside metadata (PEP 658). Made in a process of its
own, so that its work is not counted with anybody's.
"""

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from zipfile import ZipFile

import pypi_simple
import requests

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
_PAGE_HEADERS = {"Content-Type": JSON_TYPE, "Cache-Control": "max-age=600, public", "Vary": "Accept, Accept-Encoding"}
_FILE_HEADERS = {
    "Content-Type": "application/octet-stream",
    "Cache-Control": "max-age=365000000, immutable, public",
    "Accept-Ranges": "bytes",
}
_TIMEOUT_SECONDS = 120
_RELATIVE = re.compile(rb'("url": ?")/files/')


class Absent(Exception):
    """There is nothing at that path."""


class Shelf:
    """The files, and how they get there."""

    def __init__(self, directory: Path, *, record: bool) -> None:
        self._directory = directory
        self._record = record
        self._lock = threading.Lock()
        self._http = requests.Session()

    def page(self, project: str) -> Path:
        """Return the file of a project's page. Raises Absent."""
        if not project or "/" in project or project.startswith("."):
            raise Absent
        return self._kept(self._directory / "pages" / project, lambda part: self._fetch_page(project, part))

    def file(self, address: str) -> Path:
        """Return a file by its address, ``HOST/PATH``. Raises Absent."""
        if ".." in address.split("/"):
            raise Absent
        return self._kept(self._directory / "files" / address, lambda part: self._fetch_file(address, part))

    def _kept(self, path: Path, fetch: Any) -> Path:  # noqa: ANN401 - a callable that writes a file
        if not path.exists():
            if not self._record:
                raise Absent
            with self._lock:
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with tempfile.TemporaryDirectory(dir=self._directory) as name:
                        part = Path(name) / "part"
                        fetch(part)
                        part.rename(path)
        if path.stat().st_size == 0:
            raise Absent
        return path

    def _fetch_page(self, project: str, part: Path) -> None:
        url = f"{pypi_simple.PYPI_SIMPLE_ENDPOINT}{project}/"
        answer = self._http.get(url, headers={"Accept": JSON_TYPE}, timeout=_TIMEOUT_SECONDS)
        if answer.status_code == HTTPStatus.NOT_FOUND:
            part.touch()
            return
        answer.raise_for_status()
        document = answer.json()
        for file in document["files"]:
            address = urlsplit(file["url"])
            file["url"] = f"/files/{address.netloc}{address.path}"
            # As the public index says of every wheel; some that stand between it and us leave it out.
            if file["filename"].endswith(".whl"):
                file["core-metadata"] = True
        part.write_text(json.dumps(document))

    def _fetch_file(self, address: str, part: Path) -> None:
        if address.endswith(".metadata"):
            # Made from the wheel, which is what the index does too.
            with ZipFile(self._unlocked(address.removesuffix(".metadata"))) as archive:
                name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
                part.write_bytes(archive.read(name))
            return
        with self._http.get(f"https://{quote(address)}", stream=True, timeout=_TIMEOUT_SECONDS) as answer:
            answer.raise_for_status()
            with part.open("wb") as file:
                shutil.copyfileobj(answer.raw, file)

    def _unlocked(self, address: str) -> Path:
        path = self._directory / "files" / address
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}")
            self._fetch_file(address, fresh)
            fresh.rename(path)
        return path


class Server(ThreadingHTTPServer):
    """Serves a shelf, slowly if asked to, and counts."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, shelf: Shelf, delay_seconds: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.shelf = shelf
        self.delay_seconds = delay_seconds
        self.pages: dict[Path, tuple[bytes, bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.counting = threading.Lock()

    @property
    def address(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def count(self, **amounts: int) -> None:
        """Add to the counters."""
        with self.counting:
            self.counts.update(amounts)

    def page(self, path: Path) -> tuple[bytes, bytes]:
        """Return a page plain and compressed, which a public index also does once for all clients.

        With whole addresses, as a public index has them.
        """
        if path not in self.pages:
            body = _RELATIVE.sub(rb"\1" + self.address.encode() + b"/files/", path.read_bytes())
            self.pages[path] = body, gzip.compress(body)
        return self.pages[path]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_GET(self) -> None:
        """Answer, late if asked to."""
        path = unquote(urlsplit(self.path).path)
        if path == "/counters":
            self._send(HTTPStatus.OK, {}, json.dumps(self.server.counts).encode())
            return
        time.sleep(self.server.delay_seconds)
        self.server.count(requests=1)
        try:
            if path.startswith("/files/"):
                self._file(self.server.shelf.file(path.removeprefix("/files/")))
            else:
                self._page(self.server.shelf.page(path.removeprefix("/simple/").strip("/")))
        except Absent:
            self.server.count(absent=1)
            self._send(HTTPStatus.NOT_FOUND, {}, b"not here")

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def _page(self, path: Path) -> None:
        plain, compressed = self.server.page(path)
        tag = f'"{sha256(plain).hexdigest()}"'
        headers = _PAGE_HEADERS | {"ETag": tag}
        if self.headers.get("If-None-Match") == tag:
            self.server.count(conditional=1)
            self._send(HTTPStatus.NOT_MODIFIED, headers, b"")
        elif "gzip" in self.headers.get("Accept-Encoding", ""):
            self._send(HTTPStatus.OK, headers | {"Content-Encoding": "gzip"}, compressed)
        else:
            self._send(HTTPStatus.OK, headers, plain)

    def _file(self, path: Path) -> None:
        size = path.stat().st_size
        start, stop = self._range(size)
        headers = _FILE_HEADERS | {"Content-Length": str(stop - start), "ETag": f'"{path.name}"'}
        partial = (start, stop) != (0, size)
        if partial:
            headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
        self._head(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK, headers)
        if self.command == "HEAD":
            return
        self.server.count(fileBytes=stop - start, files=1)
        self.wfile.flush()
        with path.open("rb") as file:
            self.connection.sendfile(file, start, stop - start)

    def _range(self, size: int) -> tuple[int, int]:
        unit, _, bounds = self.headers.get("Range", "").partition("=")
        first, _, last = bounds.partition("-")
        if unit != "bytes" or "," in bounds:
            return 0, size
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(int(last) + 1, size) if last else size

    def _send(self, status: HTTPStatus, headers: dict[str, str], body: bytes) -> None:
        if status is not HTTPStatus.NOT_MODIFIED:
            headers = headers | {"Content-Length": str(len(body))}
        self._head(status, headers)
        if self.command != "HEAD":
            self.server.count(pageBytes=len(body))
            self.wfile.write(body)
            self.wfile.flush()

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is http.server's
        """Nothing is logged."""


@dataclass(frozen=True)
class Mirror:
    """A mirror that runs."""

    address: str
    pid: int

    @property
    def url(self) -> str:
        """The root of the simple repository."""
        return f"{self.address}/simple/"

    def counts(self) -> Counter[str]:
        """Return what it has counted: requests, conditional, absent, files, fileBytes, pageBytes."""
        return Counter(requests.get(f"{self.address}/counters", timeout=10).json())


@contextmanager
def mirror(directory: Path, *, record: bool = False, delay_seconds: float = 0) -> Iterator[Mirror]:
    """Run a mirror in a process of its own until the block is left."""
    options = [*(["--record"] if record else []), "--delay", str(delay_seconds)]
    command = [sys.executable, "-m", "bench.mirror", str(directory), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("a mirror was started without pipes")
        try:
            yield Mirror(process.stdout.readline().strip(), process.pid)
        finally:
            process.stdin.close()
            process.wait()


def main() -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--delay", type=float, default=0.0)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with Server(Shelf(options.directory, record=options.record), options.delay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.address, flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
