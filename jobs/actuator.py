"""Health and metrics over HTTP, by the conventions of the platform's agent, which are Spring Boot's.

``Actuator`` knows what to answer, and nothing of HTTP's details. A process without any other HTTP serves it with
``ActuatorServer``, one with an ASGI application mounts ``asgi``.

There is nothing secret in the answers, and no token is asked for: probes and Prometheus send none.
"""

import asyncio
import json
import os
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import structlog

from jobs.metrics_text import CONTENT_TYPE

ACTUATOR = "/actuator"
"""Everybody may read this and all below."""

_KEPT_SECONDS = 1.0
_PATIENCE_SECONDS = 0.8
_MAX_HEAD_BYTES = 8 * 1024
_MAX_CONNECTIONS = 64
_THREADS = 4
_HEAD_WITHIN_SECONDS = 5.0
_SENT_WITHIN_SECONDS = 10.0
_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[\x21-\x7e]*) HTTP/1\.[01]\r\n")
_JSON = "application/json"

_T = TypeVar("_T")
_log = structlog.get_logger()


class Status(StrEnum):
    """As in Spring's documents; the worst of its components is that of the whole."""

    UP = "UP"
    UNKNOWN = "UNKNOWN"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"
    DOWN = "DOWN"


_BY_SEVERITY = list(Status)


@dataclass(frozen=True)
class Component:
    """One part of the health. Details hold no secret, and no address with one inside."""

    status: Status
    details: Mapping[str, object] = field(default_factory=dict)


def up(**details: object) -> Component:
    """Return a part that is well."""
    return Component(Status.UP, details)


def down(reason: str, **details: object) -> Component:
    """Return a part that is not."""
    return Component(Status.DOWN, {"reason": reason, **details})


Components = Mapping[str, Component]


@dataclass(frozen=True)
class Answer:
    """An answer without the details of its transport."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Actuator:
    """What a process says of itself. Each of the four takes a second at most."""

    health: Callable[[], Components]
    liveness: Callable[[], Components]
    readiness: Callable[[], Components]
    metrics: Callable[[], bytes]

    def answer(self, method: str, path: str) -> Answer:
        """Answer a request. Never raises: what nobody foresaw is logged and answered with 500."""
        if method not in {"GET", "HEAD"}:
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "Only GET and HEAD.", {"Allow": "GET, HEAD"})
        try:
            return self._answer(path.rstrip("/"))
        except Exception:  # noqa: BLE001 - a probe must get an answer, and the log has the rest
            _log.exception("actuator_broke", path=path)
            return _text(HTTPStatus.INTERNAL_SERVER_ERROR, "The log of this process has the details.")

    def _answer(self, path: str) -> Answer:
        match path:
            case "/actuator":
                return _document(HTTPStatus.OK, _LINKS)
            case "/actuator/health":
                return _health(self.health())
            case "/actuator/health/liveness" | "/actuator/liveness":
                return _health(self.liveness())
            case "/actuator/health/readiness" | "/actuator/readiness":
                return _health(self.readiness())
            case "/actuator/prometheus":
                return Answer(HTTPStatus.OK, CONTENT_TYPE, self.metrics())
        return _text(HTTPStatus.NOT_FOUND, "There is /actuator/health and /actuator/prometheus.")


_LINKS = {
    "_links": {
        name: {"href": path}
        for name, path in (
            ("self", "/actuator"),
            ("health", "/actuator/health"),
            ("liveness", "/actuator/health/liveness"),
            ("readiness", "/actuator/health/readiness"),
            ("prometheus", "/actuator/prometheus"),
        )
    }
}


def _health(components: Components) -> Answer:
    worst = max((part.status for part in components.values()), key=_BY_SEVERITY.index, default=Status.UP)
    bad = worst in {Status.DOWN, Status.OUT_OF_SERVICE}
    parts = {
        name: {"status": part.status} | ({"details": dict(part.details)} if part.details else {})
        for name, part in components.items()
    }
    told = {"status": worst} | ({"components": parts} if parts else {})
    return _document(HTTPStatus.SERVICE_UNAVAILABLE if bad else HTTPStatus.OK, told)


def _document(status: HTTPStatus, document: Mapping[str, object]) -> Answer:
    return Answer(status, _JSON, json.dumps(document).encode())


def _text(status: HTTPStatus, text: str, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text.encode(), headers or {})


class Remembered(Generic[_T]):
    """What a question that may hang was answered: asked once a second at most, and never twice at once."""

    def __init__(self, ask: Callable[[], _T]) -> None:
        """``ask`` runs in a thread of its own; what it raises counts as no answer."""
        self._ask = ask
        self._lock = threading.Lock()
        self._answered = threading.Event()
        self._asking = False
        self._at = float("-inf")
        self._now: _T | None = None
        self._last: _T | None = None

    def now(self) -> _T | None:
        """Return the answer, not older than a second; None when there is none within a second."""
        self.look()
        self._answered.wait(_PATIENCE_SECONDS)
        with self._lock:
            return self._now if self._answered.is_set() else None

    def last(self) -> _T | None:
        """Return the last answer that there was, however old."""
        with self._lock:
            return self._last

    def look(self) -> None:
        """Ask, unless that was done within the last second, or is being done. Does not wait."""
        with self._lock:
            if self._asking or time.monotonic() - self._at < _KEPT_SECONDS:
                return
            self._asking = True
            self._answered.clear()
        threading.Thread(target=self._find_out, name="actuator-look", daemon=True).start()

    def _find_out(self) -> None:
        answer: _T | None = None
        try:
            answer = self._ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no answer, and the health says so
            _log.debug("actuator_look_failed", reason=f"{type(error).__name__}: {error}")
        with self._lock:
            self._now = answer
            self._last = answer if answer is not None else self._last
            self._at = time.monotonic()
            self._asking = False
            self._answered.set()


class ActuatorServer:
    """Serves an actuator from one thread until the block is left, and closes the socket. With None it does nothing.

    Made for probes and for whoever else finds the port: one request for each connection, a few thousand bytes at most,
    a few dozen connections at once, and a few seconds for each.
    """

    def __init__(self, listener: socket.socket | None, actuator: Actuator) -> None:
        self._listener = listener
        self._actuator = actuator
        self._open = 0
        self._owner_pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started = threading.Event()
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="actuator")
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="actuator", daemon=True)

    def __enter__(self) -> Self:
        if self._listener is not None:
            self._thread.start()
            self._started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._owner_pid:  # a forked child leaves the block too
            return
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._executor.shutdown(wait=False, cancel_futures=True)
        if self._listener is not None:
            self._listener.close()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._meet, sock=self._listener, limit=_MAX_HEAD_BYTES)
        self._started.set()
        async with server:
            await self._stop.wait()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= _MAX_CONNECTIONS:
            writer.transport.abort()
            return
        self._open += 1
        try:
            await self._converse(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._open -= 1
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, answer = await self._read(reader)
        writer.write(_head(answer) + (b"" if method == "HEAD" else answer.body))
        async with asyncio.timeout(_SENT_WITHIN_SECONDS):
            await writer.drain()
            # A child that was forked meanwhile has the connection too: closing alone would not end it.
            writer.write_eof()
            await reader.read(_MAX_HEAD_BYTES)

    async def _read(self, reader: asyncio.StreamReader) -> tuple[str, Answer]:
        try:
            async with asyncio.timeout(_HEAD_WITHIN_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return "", _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "Too many headers.")
        found = _REQUEST.match(head)
        if found is None:
            return "", _text(HTTPStatus.BAD_REQUEST, "This is not an HTTP/1.1 request.")
        method, path = found[1].decode(), found[2].decode().partition("?")[0]
        loop = asyncio.get_running_loop()
        return method, await loop.run_in_executor(self._executor, self._actuator.answer, method, path)


def _head(answer: Answer) -> bytes:
    lines = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        *(f"{name}: {value}" for name, value in _headers(answer).items()),
        "Connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def _headers(answer: Answer) -> dict[str, str]:
    return {
        "Content-Type": answer.content_type,
        "Content-Length": str(len(answer.body)),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **answer.headers,
    }


_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Scope]]
_Send = Callable[[_Scope], Awaitable[None]]


def asgi(actuator: Actuator) -> Callable[[_Scope, _Receive, _Send], Awaitable[None]]:
    """Return an ASGI application for what begins with ``/actuator``, wherever it is mounted."""

    async def application(scope: _Scope, _receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        path = ACTUATOR + str(scope["path"]).rpartition(ACTUATOR)[2]
        answer = await asyncio.to_thread(actuator.answer, str(scope["method"]), path)
        headers = [(name.lower().encode(), value.encode()) for name, value in _headers(answer).items()]
        await send({"type": "http.response.start", "status": int(answer.status), "headers": headers})
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    return application
