"""The gateway's HTTP side: a simple repository for each task (PEP 503, 691, 658) and a control side for the agent."""

import errno
import hmac
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any

from cheroot import wsgi
from packaging.utils import canonicalize_name
from pydantic import ValidationError

from config.logging import cheroot_error_log
from jobs.errors import ErrorKind
from worker.gateway.client import CONTROL_HEADER, SessionRequest
from worker.gateway.collection import WAIT_SECONDS, CollectionRequest, Refused
from worker.gateway.negotiation import OFFERED, negotiate
from worker.gateway.pages import HTML_TYPE, JSON_TYPE
from worker.gateway.revalidation import RevalidationRequest, look_again
from worker.gateway.tasks import Delivery, Task, Tasks

_PROJECT = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_MAX_REQUEST_BYTES = 64 * 1024
_MAX_COLLECTION_BYTES = 2**20
"""Some thousand files."""
_BACKLOG = 256
_KEPT_CONNECTIONS = 256
_CLIENT_TIMEOUT_SECONDS = 120
_TRACEPARENT = "HTTP_TRACEPARENT"

_TIMEOUTS = {ErrorKind.CONNECT_TIMEOUT, ErrorKind.READ_TIMEOUT}

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Body = Iterable[bytes]


class Application:
    """The WSGI application (PEP 3333)."""

    def __init__(self, tasks: Tasks, control_token: str) -> None:
        self._tasks = tasks
        self._control_token = control_token

    def __call__(self, environ: Environ, start_response: StartResponse) -> Body:
        """Answer one request."""
        body = self._answer(environ, start_response)
        if environ["REQUEST_METHOD"] != "HEAD":
            return body
        if isinstance(body, _Stream):
            body.close()
        return ()

    def _answer(self, environ: Environ, start_response: StartResponse) -> Body:
        parts = environ["PATH_INFO"].split("/")[1:]
        try:
            if parts[0] == "control":
                if not self._may_control(environ):
                    return _text(start_response, HTTPStatus.FORBIDDEN, "the control token is missing or wrong")
                return self._control(parts[1:], environ, start_response)
            return self._index(parts, environ, start_response)
        except Refused as error:
            status = HTTPStatus.GATEWAY_TIMEOUT if error.incident.kind in _TIMEOUTS else HTTPStatus.BAD_GATEWAY
            return _text(start_response, status, str(error))

    def _may_control(self, environ: Environ) -> bool:
        given = environ.get("HTTP_" + CONTROL_HEADER.upper().replace("-", "_"), "")
        return hmac.compare_digest(given.encode(), self._control_token.encode())

    def _control(self, parts: list[str], environ: Environ, start_response: StartResponse) -> Body:
        match environ["REQUEST_METHOD"], parts:
            case "POST", ["sessions"]:
                return self._register(environ, start_response)
            case "POST", ["sessions", token, "files"] if task := self._tasks.get(token):
                return _collect(task, environ, start_response)
            case "POST", ["revalidations"]:
                return self._revalidate(environ, start_response)
            case "GET", ["sessions", token, ("progress" | "record" | "seen") as what] if task := self._tasks.get(token):
                told = {"progress": task.progress, "record": task.record, "seen": task.seen}[what]()
                return _json(start_response, told.model_dump_json())
            case "DELETE", ["sessions", token] if self._tasks.remove(token):
                return _text(start_response, HTTPStatus.OK, "")
        return _text(start_response, HTTPStatus.NOT_FOUND, "no such session")

    def _register(self, environ: Environ, start_response: StartResponse) -> Body:
        try:
            request = SessionRequest.model_validate_json(environ["wsgi.input"].read(_MAX_REQUEST_BYTES))
        except ValidationError as error:
            return _text(start_response, HTTPStatus.BAD_REQUEST, str(error))
        task = self._tasks.register(request.target, request.index, request.labels, environ.get(_TRACEPARENT))
        if task is None:
            return _text(start_response, HTTPStatus.BAD_REQUEST, f"no index is called {request.index}")
        if request.ahead is not None:
            task.look_ahead(request.ahead)
        return _text(start_response, HTTPStatus.OK, task.token)

    def _revalidate(self, environ: Environ, start_response: StartResponse) -> Body:
        try:
            request = RevalidationRequest.model_validate_json(environ["wsgi.input"].read(_MAX_REQUEST_BYTES))
        except ValidationError as error:
            return _text(start_response, HTTPStatus.BAD_REQUEST, str(error))
        task = self._tasks.register(request.target, request.index, request.labels, environ.get(_TRACEPARENT))
        if task is None:
            return _text(start_response, HTTPStatus.BAD_REQUEST, f"no index is called {request.index}")
        try:
            with task.bound():
                found = look_again(task, request.projects)
            return _json(start_response, found.model_dump_json())
        finally:
            self._tasks.remove(task.token)

    def _index(self, parts: list[str], environ: Environ, start_response: StartResponse) -> Body:
        task = self._tasks.get(parts[0])
        if task is None:
            return _text(start_response, HTTPStatus.NOT_FOUND, "no such task")
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return _text(start_response, HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD")
        with task.bound():
            match parts[1:]:
                case ["simple", name] | ["simple", name, ""] if _PROJECT.fullmatch(canonicalize_name(name)):
                    return _page(task, canonicalize_name(name), environ, start_response)
                case ["files", project, filename]:
                    return _file(task, project, filename, environ, start_response)
        return _text(start_response, HTTPStatus.NOT_FOUND, "nothing here")


def _collect(task: Task, environ: Environ, start_response: StartResponse) -> Body:
    try:
        request = CollectionRequest.model_validate_json(environ["wsgi.input"].read(_MAX_COLLECTION_BYTES))
    except ValidationError as error:
        return _text(start_response, HTTPStatus.BAD_REQUEST, str(error))
    return _json(start_response, task.collect(request, WAIT_SECONDS).model_dump_json())


def _page(task: Task, project: str, environ: Environ, start_response: StartResponse) -> Body:
    place = task.place(project)
    if place is None:
        return _text(start_response, HTTPStatus.NOT_FOUND, f"no index has {project}")
    media_type = negotiate(environ.get("HTTP_ACCEPT", ""))
    if media_type is None:
        return _text(start_response, HTTPStatus.NOT_ACCEPTABLE, f"there is {', '.join(OFFERED)}")
    if media_type == JSON_TYPE:
        # Absolute, which pip reads without joining: half of what links cost it is spent on their addresses.
        files = f"http://127.0.0.1:{environ['SERVER_PORT']}/{task.token}/files/"
        size_bytes, blocks = place.view.json_at(files)
        return _send(start_response, JSON_TYPE, blocks, size_bytes)
    html_type = HTML_TYPE if media_type == HTML_TYPE else "text/html; charset=utf-8"
    return _send(start_response, html_type, place.view.html, sum(map(len, place.view.html)))


def _file(task: Task, project: str, filename: str, environ: Environ, start_response: StartResponse) -> Body:
    wheel = filename.removesuffix(".metadata")
    delivery = task.open(project, wheel, metadata=wheel != filename)
    if delivery is None:
        return _text(start_response, HTTPStatus.NOT_FOUND, f"{filename} is not on the page of {project}")
    return _deliver(delivery, environ, start_response)


def _deliver(delivery: Delivery, environ: Environ, start_response: StartResponse) -> Body:
    size = delivery.size_bytes
    etag = f'"{delivery.file.sha256}"' if delivery.file.sha256 and delivery.step == "file" else None
    # Of another file than the client began with, only the whole is of use (RFC 9110, 13.1.5).
    wanted = environ.get("HTTP_RANGE", "") if environ.get("HTTP_IF_RANGE", etag) == etag else ""
    start, stop, status = _range(wanted, size)
    headers = [
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", str(stop - start)),
        ("Accept-Ranges", "bytes"),
    ]
    if etag is not None:
        headers.append(("ETag", etag))
    if status is HTTPStatus.PARTIAL_CONTENT:
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    start_response(_line(status), headers)
    return _Stream(delivery, start, stop)


def _range(value: str, size: int) -> tuple[int, int, HTTPStatus]:
    """Read a range (RFC 9110, 14.2); anything but a single satisfiable one is answered with the whole."""
    match = _RANGE.fullmatch(value.strip())
    if match is None or not any(match.groups()):
        return 0, size, HTTPStatus.OK
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))  # without a first byte, so many from the end
    stop = min(int(last) + 1, size) if first and last else size
    return (start, stop, HTTPStatus.PARTIAL_CONTENT) if start < stop else (0, size, HTTPStatus.OK)


class _Stream:
    """A file's bytes for cheroot, which closes it whatever happens."""

    def __init__(self, delivery: Delivery, start: int, stop: int) -> None:
        self._delivery = delivery
        self._bounds = start, stop

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._delivery.chunks(*self._bounds)
        except Refused as error:
            # Ends the connection before the announced length. pip takes a complete wrong body for an
            # attack, and a missing end for what it is.
            raise ConnectionAbortedError(errno.ECONNABORTED, str(error)) from error

    def close(self) -> None:
        self._delivery.close()


def _send(start_response: StartResponse, content_type: str, body: Body, size_bytes: int) -> Body:
    headers = [("Content-Type", content_type), ("Content-Length", str(size_bytes)), ("Vary", "Accept")]
    # A task is shown one page only; a client's own cache would carry it to the next task.
    start_response(_line(HTTPStatus.OK), [*headers, ("Cache-Control", "no-store")])
    return body


def _json(start_response: StartResponse, document: str) -> Body:
    body = document.encode()
    return _send(start_response, "application/json", (body,), len(body))


def _text(start_response: StartResponse, status: HTTPStatus, message: str) -> Body:
    body = message.encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start_response(_line(status), headers)
    return (body,)


def _line(status: HTTPStatus) -> str:
    return f"{status.value} {status.phrase}"


class Server(wsgi.Server):
    """cheroot on a socket that is already bound."""

    keep_alive_conn_limit = _KEPT_CONNECTIONS
    # Anybody on the machine can connect; without a bound, what they send is taken in whole before a token is asked for.
    max_request_header_size = _MAX_REQUEST_BYTES
    max_request_body_size = _MAX_COLLECTION_BYTES

    def __init__(self, listener: socket.socket, application: Application, threads: int) -> None:
        super().__init__(
            listener.getsockname(),
            application,
            numthreads=threads,
            server_name="127.0.0.1",
            request_queue_size=_BACKLOG,
            timeout=_CLIENT_TIMEOUT_SECONDS,
        )
        self._listener = listener

    def error_log(self, msg: str = "", level: int = 20, traceback: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature is cheroot's
        """Log as everything else does."""
        cheroot_error_log(msg, level, traceback)

    def bind(self, family: int, type: int, proto: int = 0) -> socket.socket:  # noqa: A002, ARG002 - the signature is cheroot's
        """Take the socket that the parent bound, so that a restarted gateway keeps its port."""
        # Accepted sockets inherit it. Without, each answer of two writes waits 40 ms for an acknowledgement.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = self._listener
        return self._listener
