"""A package index of ours for tests: real sockets, real TLS, real authentication, and it can misbehave.

with IndexServer(auth=Basic("ada", "secret")) as index:
    index.add("demo-1.0-py3-none-any.whl", wheel_bytes)
    index.misbehave("/simple/demo/", Status(503), times=2)
    ...
    assert index.seen("/simple/demo/")[0].headers["Authorization"] == index.auth.header
"""

import base64
import contextlib
import hashlib
import html
import json
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import quote, unquote, urlsplit

import trustme

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
LOGIN_PAGE = (
    b"<!DOCTYPE html><html><body><form method=post><input name=user>"
    b'<input type="password" name=pass><button>Sign in</button></form></body></html>'
)


# ---- who may ask ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Basic:
    """User name and password."""

    username: str
    password: str

    @property
    def header(self) -> str:
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True)
class Bearer:
    """An access token."""

    token: str

    @property
    def header(self) -> str:
        return f"Bearer {self.token}"


# ---- how it may misbehave ------------------------------------------------------------------------------------------


class Fault(Protocol):
    """Something done instead of, or to, the right answer."""

    def play(self, exchange: "Exchange") -> None: ...


@dataclass(frozen=True)
class Status:
    """Answer with this status, for example 503 with ``{"Retry-After": "1"}``."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"no"

    def play(self, exchange: "Exchange") -> None:
        exchange.send(self.code, dict(self.headers), self.body)


@dataclass(frozen=True)
class Reset:
    """Reset the connection: at once, or after so many bytes of the right body."""

    after_bytes: int | None = None

    def play(self, exchange: "Exchange") -> None:
        if self.after_bytes is not None:
            exchange.send(200, exchange.right.headers, exchange.right.body, stop_after=self.after_bytes)
        exchange.reset()


@dataclass(frozen=True)
class Short:
    """Announce the whole length, send less, and close in good order."""

    bytes_sent: int

    def play(self, exchange: "Exchange") -> None:
        exchange.send(200, exchange.right.headers, exchange.right.body, stop_after=self.bytes_sent)
        exchange.hang_up()


@dataclass(frozen=True)
class Stall:
    """Say nothing more: before the first byte, or after so many bytes of the right body."""

    after_bytes: int | None = None

    def play(self, exchange: "Exchange") -> None:
        if self.after_bytes is not None:
            exchange.send(200, exchange.right.headers, exchange.right.body, stop_after=self.after_bytes)
        exchange.wait()


@dataclass(frozen=True)
class Trickle:
    """Send the right body byte by byte; ``headers`` has even the headers trickle."""

    pause_seconds: float = 0.05
    headers: bool = False

    def play(self, exchange: "Exchange") -> None:
        if self.headers:
            raw = b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(90))
        else:
            exchange.send(200, exchange.right.headers, exchange.right.body, stop_after=0)
            raw = exchange.right.body
        for number in range(len(raw)):
            if exchange.wait(self.pause_seconds):
                return
            exchange.write(raw[number : number + 1])


@dataclass(frozen=True)
class Body:
    """Answer 200 with another body: a login page, bad JSON, another file, without end."""

    body: bytes
    content_type: str = "text/html"
    headers: Mapping[str, str] = field(default_factory=dict)

    def play(self, exchange: "Exchange") -> None:
        exchange.send(200, {"Content-Type": self.content_type, **self.headers}, self.body)


@dataclass(frozen=True)
class Redirect:
    """Send the client elsewhere. ``to`` may be a function of the path asked for."""

    to: str | Callable[[str], str]
    code: int = 302

    def play(self, exchange: "Exchange") -> None:
        location = self.to if isinstance(self.to, str) else self.to(exchange.path)
        exchange.send(self.code, {"Location": location}, b"")


@dataclass(frozen=True)
class Endless:
    """Send a body that does not end, chunked, as fast as it goes."""

    content_type: str = "text/html"
    chunk: bytes = b"<!-- nothing -->" * 65536
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    def play(self, exchange: "Exchange") -> None:
        headers = {"Content-Type": self.content_type, "Transfer-Encoding": "chunked", **self.headers}
        exchange.send(self.status, headers, None)
        while not exchange.stopped:
            exchange.write(b"%x\r\n%s\r\n" % (len(self.chunk), self.chunk))


@dataclass(frozen=True)
class Chunked:
    """Send the right body without announcing its length; ``encoding`` gzip packs it."""

    encoding: str | None = None

    def play(self, exchange: "Exchange") -> None:
        import gzip  # noqa: PLC0415 - only here

        headers = {"Content-Type": exchange.right.headers["Content-Type"], "Transfer-Encoding": "chunked"}
        body = exchange.right.body
        if self.encoding == "gzip":
            body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
        exchange.send(200, headers, None)
        for start in range(0, len(body), 1000):
            part = body[start : start + 1000]
            exchange.write(b"%x\r\n%s\r\n" % (len(part), part))
        exchange.write(b"0\r\n\r\n")


@dataclass(frozen=True)
class Slow:
    """Answer rightly, but later."""

    seconds: float

    def play(self, exchange: "Exchange") -> None:
        exchange.wait(self.seconds)
        exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)


# ---- the server ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A request that reached the server."""

    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Right:
    """The answer the server would give if it behaved."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Offered:
    """A file on a page."""

    filename: str
    body: bytes
    url: str
    sha256: str | None
    size: int | None
    requires_python: str | None
    yanked: str | None
    upload_time: str | None
    metadata: bytes | None


@dataclass
class _Planned:
    path: str
    fault: Fault
    left: float


class IndexServer:
    """An index at ``url``. A context manager.

    ``forms`` are the page formats it can serve; without ``auth`` anybody may ask. ``as_proxy`` lets it answer
    requests for any host, as an HTTP proxy for plain HTTP does.
    """

    def __init__(
        self,
        *,
        auth: Basic | Bearer | None = None,
        tls: ssl.SSLContext | None = None,
        forms: tuple[str, ...] = ("json", "html"),
        ranges: bool = True,
        protect_files: bool = True,
        etags: bool = False,
    ) -> None:
        self.auth = auth
        self.forms = forms
        self.ranges = ranges
        self.protect_files = protect_files
        self.lists_projects = True
        """Whether the root is there, which PEP 503 asks for and not every index has."""
        self.etags = etags
        """Whether each page has an ETag of its own content."""
        self.page_headers: dict[str, str] = {}
        """Sent with each page: ``Cache-Control``, and validators, to which conditional requests are compared."""
        self.project_status: dict[str, dict[str, str]] = {}
        """By project, what PEP 792 puts on its page."""
        self.requests: list[Request] = []
        self.stopped = threading.Event()
        self.connections = 0
        self.played = 0
        """How many faults met a request."""
        self._lock = threading.Lock()
        self._planned: list[_Planned] = []
        self._files: dict[str, dict[str, Offered]] = {}
        self._scheme = "https" if tls else "http"
        self._http = _Server(self, tls)

    @property
    def origin(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._http.server_port}"

    @property
    def url(self) -> str:
        """The simple repository's root, as a setting has it."""
        return f"{self.origin}/simple"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def add(
        self,
        filename: str,
        body: bytes | Path,
        *,
        url: str | None = None,
        sha256: str | None = "",
        size: int | None = -1,
        requires_python: str | None = None,
        yanked: str | None = None,
        upload_time: str | None = "2026-01-02T03:04:05.000006Z",
        metadata: bytes | None = None,
    ) -> Offered:
        """Offer a file. The empty ``sha256`` is the right one, None promises none; the same for ``size`` -1."""
        content = body.read_bytes() if isinstance(body, Path) else body
        project = normalised(filename.split("-", maxsplit=1)[0])
        offered = Offered(
            filename=filename,
            body=content,
            url=f"../../files/{quote(filename)}" if url is None else url,
            sha256=hashlib.sha256(content).hexdigest() if sha256 == "" else sha256,
            size=len(content) if size == -1 else size,
            requires_python=requires_python,
            yanked=yanked,
            upload_time=upload_time,
            metadata=metadata,
        )
        self._files.setdefault(project, {})[filename] = offered
        return offered

    def remove(self, filename: str) -> None:
        """Take a file off its page and the disk."""
        del self._files[normalised(filename.split("-", maxsplit=1)[0])][filename]

    def misbehave(self, path: str, fault: Fault, *, times: float = float("inf")) -> None:
        """Play ``fault`` for requests whose path begins with ``path``, the given number of times."""
        with self._lock:
            self._planned.append(_Planned(path, fault, times))

    def behave(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._planned.clear()

    def seen(self, path: str = "/") -> list[Request]:
        """The requests whose path begins with ``path``, in order."""
        with self._lock:
            return [request for request in self.requests if request.path.startswith(path)]

    # -- for the handler

    def note(self, request: Request) -> Fault | None:
        """Record a request; return the fault that is due for it."""
        with self._lock:
            self.requests.append(request)
            for planned in self._planned:
                if request.path.startswith(planned.path) and planned.left > 0:
                    planned.left -= 1
                    self.played += 1
                    return planned.fault
        return None

    def answer(self, path: str, headers: Message) -> Right:
        """Give the right answer."""
        protected = self.protect_files or path.startswith("/simple/")
        if self.auth is not None and protected and headers.get("Authorization") != self.auth.header:
            return Right(401, {"WWW-Authenticate": 'Basic realm="index"'}, b"who are you?")
        match path.strip("/").split("/"):
            case ["simple"] if self.lists_projects:
                return self._root(headers.get("Accept", ""))
            case ["simple", name] if name in self._files:
                return self._unless_unchanged(self._page(name, headers.get("Accept", "")), headers)
            case ["files", name]:
                return self._file(unquote(name), headers.get("Range"))
        return Right(404, {}, b"not here")

    def _root(self, accept: str) -> Right:
        if "json" in self.forms and JSON_TYPE in accept:
            document = {"meta": {"api-version": "1.1"}, "projects": [{"name": name} for name in self._files]}
            return Right(200, {"Content-Type": JSON_TYPE}, json.dumps(document).encode())
        anchors = "".join(f'<a href="/simple/{name}/">{name}</a>' for name in self._files)
        return Right(200, {"Content-Type": "text/html"}, f"<!DOCTYPE html><html><body>{anchors}</body></html>".encode())

    def _unless_unchanged(self, page: Right, headers: Message) -> Right:
        """Answer a conditional request (RFC 9110, 13): validators that match have not changed."""
        extra = self.page_headers | ({"ETag": f'"{hashlib.sha256(page.body).hexdigest()}"'} if self.etags else {})
        sent = {**page.headers, **extra}
        for condition, validator in (("If-None-Match", "ETag"), ("If-Modified-Since", "Last-Modified")):
            if condition in headers and headers[condition] == extra.get(validator):
                return Right(304, extra, b"")
        return Right(page.status, sent, page.body)

    def _page(self, project: str, accept: str) -> Right:
        files = list(self._files[project].values())
        status = self.project_status.get(project)
        if "json" in self.forms and JSON_TYPE in accept:
            document = _json_page(project, files) | ({"project-status": status} if status else {})
            return Right(200, {"Content-Type": JSON_TYPE}, json.dumps(document).encode())
        return Right(200, {"Content-Type": "text/html; charset=utf-8"}, _html_page(files, status).encode())

    def _file(self, filename: str, asked: str | None) -> Right:
        for files in self._files.values():
            if filename in files:
                return self._ranged(files[filename].body, asked)
            offered = files.get(filename.removesuffix(".metadata"))
            if offered is not None and offered.metadata is not None:
                return Right(200, {"Content-Type": "text/plain"}, offered.metadata)
        return Right(404, {}, b"no such file")

    def _ranged(self, body: bytes, asked: str | None) -> Right:
        headers = {"Content-Type": "application/octet-stream"}
        match = re.fullmatch(r"bytes=(\d+)-", asked or "")
        if match is None or not self.ranges:
            return Right(200, headers, body)
        start = int(match[1])
        if start >= len(body):
            return Right(416, headers, b"")
        headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        return Right(206, headers, body[start:])


def _json_page(project: str, files: list[Offered]) -> dict[str, Any]:
    return {"meta": {"api-version": "1.1"}, "name": project, "files": [_json_file(file) for file in files]}


def _json_file(file: Offered) -> dict[str, Any]:
    optional = {
        "requires-python": file.requires_python,
        "size": file.size,
        "upload-time": file.upload_time,
        "yanked": file.yanked,
        "core-metadata": None if file.metadata is None else {"sha256": hashlib.sha256(file.metadata).hexdigest()},
    }
    hashes = {"sha256": file.sha256} if file.sha256 else {}
    known = {name: value for name, value in optional.items() if value is not None}
    return {"filename": file.filename, "url": file.url, "hashes": hashes, **known}


def _html_page(files: list[Offered], status: Mapping[str, str] | None = None) -> str:
    head = ""
    if status:
        names = {"status": "pypi:project-status", "reason": "pypi:project-status-reason"}
        told = [(names[key], html.escape(value)) for key, value in status.items()]
        head = "<head>" + "".join(f'<meta name="{name}" content="{value}">' for name, value in told) + "</head>"
    return f"<!DOCTYPE html><html>{head}<body>" + "".join(_anchor(file) for file in files) + "</body></html>"


def _anchor(file: Offered) -> str:
    attributes = {"href": file.url + (f"#sha256={file.sha256}" if file.sha256 else "")}
    if file.requires_python:
        attributes["data-requires-python"] = file.requires_python
    if file.yanked is not None:
        attributes["data-yanked"] = file.yanked
    if file.metadata is not None:
        attributes["data-core-metadata"] = f"sha256={hashlib.sha256(file.metadata).hexdigest()}"
    written = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    return f"<a {written}>{html.escape(file.filename)}</a><br>"


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


class Exchange:
    """One request and its answer, down at the socket."""

    def __init__(self, handler: "_Handler", server: IndexServer, path: str) -> None:
        self._handler = handler
        self._server = server
        self.path = path
        self.right = server.answer(path, handler.headers)

    @property
    def stopped(self) -> bool:
        return self._server.stopped.is_set()

    def send(self, status: int, headers: Mapping[str, str], body: bytes | None, stop_after: int | None = None) -> None:
        """Send an answer; of its body only the first ``stop_after`` bytes. Without body, the caller writes it."""
        self._handler.send_response(status)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        if body is not None and "Content-Length" not in headers:
            self._handler.send_header("Content-Length", str(len(body)))
        self._handler.end_headers()
        if body is not None and self._handler.command != "HEAD":
            self.write(body if stop_after is None else body[:stop_after])

    def write(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the server stops or the time is over; True when it stops."""
        if self._server.stopped.wait(60 if seconds is None else seconds):
            self.hang_up()
            return True
        return False

    def hang_up(self) -> None:
        self._handler.close_connection = True

    def reset(self) -> None:
        """Close with a TCP reset (RFC 1122, SO_LINGER 0)."""
        self._handler.wfile.flush()
        time.sleep(0.05)  # what was written reaches the reader before the reset discards it
        sock = self._handler.connection
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._handler.rfile.close()
        self._handler.wfile.close()
        sock.close()
        self.hang_up()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def do_GET(self) -> None:
        index = self.server.index
        path = urlsplit(self.path).path
        fault = index.note(Request(self.command, path, dict(self.headers.items())))
        exchange = Exchange(self, index, path)
        if fault is not None:
            fault.play(exchange)
        else:
            exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)

    do_HEAD = do_GET  # noqa: N815 - the name is the library's

    def handle(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # clients leave, and faults close the files
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature is the library's
        """Say nothing; the server keeps a list."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, index: IndexServer, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.index = index
        self._tls = tls

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the connection's own thread, so that a client that refuses us blocks nobody."""
        self.index.connections += 1
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with contextlib.suppress(OSError), self._tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)


# ---- TLS ----------------------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority that nobody knows, unless told."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def context(self, name: str = "127.0.0.1") -> ssl.SSLContext:
        """Make a server's side for ``name``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(name).configure_cert(context)
        return context

    def write_server(self, path: Path, name: str = "127.0.0.1") -> Path:
        """Write a server's key and certificates for ``name`` into one file, for servers that are not ours."""
        self._ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)
        return path

    def write(self, path: Path) -> Path:
        """Write the authority's certificate, as ``REQUESTS_CA_BUNDLE`` names one."""
        self._ca.cert_pem.write_to_path(path)
        return path
