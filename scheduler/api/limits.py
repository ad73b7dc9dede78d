"""How much one client may ask: so often, so much at once, and for so long."""

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import ClassVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from scheduler.api.errors import Refused, problem, unexpected

MAX_BODY_BYTES = 8 * 2**20
BODY_WITHIN_SECONDS = 30.0
_CLIENTS = 10_000


@dataclass(frozen=True)
class Bucket:
    """How often: ``burst`` at once, then ``per_second``."""

    burst: float
    per_second: float


REQUESTS = Bucket(burst=400, per_second=100)
"""Of one client address; those who were let in and all others there have one each."""


class Buckets:
    """A bucket of tokens for each client. The oldest is forgotten when there are too many."""

    def __init__(self, bucket: Bucket, clock: Callable[[], float]) -> None:
        self._bucket = bucket
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}

    def wait_seconds(self, client: str) -> int:
        """Return after how many seconds the client may come again; 0 when it may now."""
        missing = 1 - self._level(client)
        return math.ceil(missing / self._bucket.per_second) if missing > 0 else 0

    def take(self, client: str) -> None:
        """Count one for the client."""
        level = self._level(client) - 1
        self._levels.pop(client, None)
        self._levels[client] = (max(0.0, level), self._clock())
        if len(self._levels) > _CLIENTS:
            del self._levels[next(iter(self._levels))]

    def _level(self, client: str) -> float:
        level, since = self._levels.get(client, (self._bucket.burst, self._clock()))
        return min(self._bucket.burst, level + (self._clock() - since) * self._bucket.per_second)


class Limits:
    """An ASGI application around another that keeps each client within its limits.

    It stands behind the ``Guard``: so many requests as somebody without a token may send, from the address of a proxy,
    nothing is taken from those who have it.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float], bucket: Bucket = REQUESTS) -> None:
        self._app = app
        self._buckets = Buckets(bucket, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on with a body that ends at the limit."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = _client(scope)
        if wait := self._buckets.wait_seconds(client):
            detail = "Too many requests came from this address."
            headers = {"Retry-After": str(wait)}
            await problem(HTTPStatus.TOO_MANY_REQUESTS, "too-many-requests", detail, headers=headers)(
                scope, receive, send
            )
            return
        self._buckets.take(client)
        if announced_bytes(scope) > MAX_BODY_BYTES:
            refused = too_large(MAX_BODY_BYTES)
            await problem(refused.status_code, refused.kind, refused.detail)(scope, receive, send)
            return
        await self._app(scope, _Body(receive), send)


def _client(scope: Scope) -> str:
    address = str(scope["client"][0]) if scope.get("client") else "unknown"
    return f"{address} let in" if "caller" in scope.get("state", {}) else address


class _Body:
    """Receives a request's body, no more and no longer than is allowed."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._bytes = 0
        self._whole = False
        self._until: float | None = None

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()
        loop = asyncio.get_running_loop()
        if self._until is None:
            self._until = loop.time() + BODY_WITHIN_SECONDS
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            detail = f"The body did not come within {BODY_WITHIN_SECONDS:.0f} s."
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "request-timeout", detail, {"Connection": "close"}) from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > MAX_BODY_BYTES:
            raise too_large(MAX_BODY_BYTES)
        return message


def too_large(most_bytes: int) -> Refused:
    """Return what refuses a body of more."""
    mebibytes, rest = divmod(most_bytes, 2**20)
    detail = f"A body may have {most_bytes // 2**10} KiB." if rest else f"A body may have {mebibytes} MiB."
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", detail, {"Connection": "close"})


def announced_bytes(scope: Scope) -> int:
    """Return how large a request says that its body is; 0 when it does not say."""
    length = Headers(scope=scope).get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() else 0


class Envelope:
    """The outermost ASGI application: headers that every answer has, and an answer also for a defect."""

    HEADERS: ClassVar[Mapping[str, str]] = {
        "Cache-Control": "no-store",
        "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
    """Where an answer has its own value, that holds."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                headers = MutableHeaders(scope=message)
                for name, value in self.HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, with_headers)
        except Exception as error:  # noqa: BLE001 - the last resort before the server, which would log values
            if not begun:  # else the application has said in the log what happened
                await unexpected(error)(scope, receive, with_headers)
