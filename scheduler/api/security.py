"""Who may call: the token, and what protects a service that asks for none from pages in its user's browser.

* Bound to another address than loopback, the service asks for a bearer token (RFC 6750), or does not start.
* Bound to loopback without a token, the ``Host`` that was asked for has to be loopback as well. A page of another site
  whose name was made to lead to 127.0.0.1 (DNS rebinding) is so refused.
* A browser that says it comes from another site (``Sec-Fetch-Site``, else ``Origin``) changes nothing, and what changes
  something has a content type that forms cannot send. Whoever is known by a cookie, which browsers send by themselves,
  changes something only where the browser says that it comes from this site.

Everything is closed but what ``Access`` names as open.
"""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from typing import ClassVar, Protocol

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from scheduler.api.errors import Refused, problem
from scheduler.api.limits import Bucket, Buckets

LOOPBACK = "loopback"
"""How a caller is called who was asked for no token."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_WRONG_TOKENS = Bucket(burst=20, per_second=1 / 3)
"""Of one client address."""


@dataclass(frozen=True)
class Caller:
    """Who calls, as far as is known; for the records of what was changed."""

    name: str
    """``loopback``, or which credential was shown."""
    address: str
    traceparent: str = ""
    """By what the caller's trace is continued, if it has one (W3C Trace Context)."""


@dataclass(frozen=True)
class Refusal:
    """Why a request is not answered."""

    status: HTTPStatus
    kind: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)


class Credential(Protocol):
    """A way to show who one is."""

    ambient: ClassVar[bool]
    """Whether browsers show it by themselves, whatever page makes them ask."""

    def shown(self, headers: Headers) -> bool:
        """Tell whether the request tries this way."""

    def caller(self, headers: Headers) -> str | None:
        """Return the caller's name, or None when what is shown is wrong. Compares in constant time."""


@dataclass(frozen=True)
class BearerToken:
    """The token of the settings, in the ``Authorization`` header."""

    ambient: ClassVar[bool] = False
    token: str = field(repr=False)

    def shown(self, headers: Headers) -> bool:
        """Tell whether there is a token. What else stands in ``Authorization`` may be for a proxy, and is no guess."""
        return headers.get("authorization", "").partition(" ")[0].lower() == "bearer"

    def caller(self, headers: Headers) -> str | None:
        """Return ``token`` if it is the right one."""
        given = headers["authorization"].partition(" ")[2]
        return "token" if secrets.compare_digest(given.strip().encode("latin-1"), self.token.encode()) else None


@dataclass(frozen=True)
class Access:
    """Who is let in."""

    credentials: tuple[Credential, ...] = ()
    """None: whoever reaches the service, which must then be bound to loopback."""
    open_paths: frozenset[str] = frozenset()
    """What everybody may read."""
    open_folders: tuple[str, ...] = ()
    """The same, with all below; each with a slash at its end."""

    def is_open(self, path: str) -> bool:
        """Tell whether everybody may ask for a path."""
        return path in self.open_paths or path.startswith(self.open_folders)


class Door:
    """Tells who calls.

    Whoever shows the right token is let in, whatever else came from the same address, which is that of all callers
    behind a proxy. So the limit of wrong ones holds back whoever goes on by mistake; against guessing, tokens are long.
    """

    def __init__(self, access: Access, clock: Callable[[], float], refused: Callable[[str], None]) -> None:
        """``refused`` is told the address of each wrong token; it must not wait."""
        self.access = access
        self._wrong = Buckets(_WRONG_TOKENS, clock)
        self._refused = refused

    def caller(self, headers: Headers, address: str) -> "tuple[Caller, Credential | None] | Refusal":
        """Return who calls and by which credential, or why nobody is let in."""
        if not self.access.credentials:
            return Caller(LOOPBACK, address, headers.get("traceparent", "")), None
        shown = [credential for credential in self.access.credentials if credential.shown(headers)]
        for credential in shown:
            if name := credential.caller(headers):
                return Caller(name, address, headers.get("traceparent", "")), credential
        if shown:
            return self._wrong_token(address)
        detail = "A token is needed: Authorization: Bearer TOKEN"
        return Refusal(HTTPStatus.UNAUTHORIZED, "unauthorized", detail, {"WWW-Authenticate": "Bearer"})

    def _wrong_token(self, address: str) -> Refusal:
        self._refused(address)
        if wait := self._wrong.wait_seconds(address):
            detail = "The token is not the right one, and too many wrong ones came from this address."
            return Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too-many-wrong-tokens", detail, {"Retry-After": str(wait)})
        self._wrong.take(address)
        headers = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
        return Refusal(HTTPStatus.UNAUTHORIZED, "unauthorized", "The token is not the right one.", headers)


class Guard:
    """An ASGI application around another that lets only those in who may.

    It puts the ``Caller`` into the request's state.
    """

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._foreign(scope, headers) or self._unknown(scope, headers)
        if refused:
            answer = problem(refused.status, refused.kind, refused.detail, headers=refused.headers)
            await answer(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _foreign(self, scope: Scope, headers: Headers) -> "Refusal | None":
        host = headers.get("host", "")
        if not self._door.access.credentials and not is_loopback(_name(host)):
            detail = "Without a token only the names of loopback are answered, such as localhost."
            return Refusal(HTTPStatus.MISDIRECTED_REQUEST, "foreign-host", detail)
        if scope["method"] in _SAFE or _same_site(headers, host):
            return None
        return Refusal(HTTPStatus.FORBIDDEN, "foreign-origin", "Pages of other sites may change nothing here.")

    def _unknown(self, scope: Scope, headers: Headers) -> "Refusal | None":
        found = self._door.caller(headers, client_address(scope))
        if isinstance(found, Refusal):
            return None if self._door.access.is_open(scope["path"]) else found
        caller, credential = found
        if credential and credential.ambient and scope["method"] not in _SAFE and not _tells_site(headers):
            detail = "With a cookie, only a browser that says which site it comes from may change something."
            return Refusal(HTTPStatus.FORBIDDEN, "foreign-origin", detail)
        scope.setdefault("state", {})["caller"] = caller
        return None


def json_only(request: Request) -> None:
    """Refuse a POST that a form of another site could send; a dependency of all endpoints.

    Of the methods that change something, it is the only one that other sites can use without asking first (CORS).
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.method == "POST" and kind != "application/json":
        detail = "What changes something is sent as application/json."
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)


def client_address(scope: Scope) -> str:
    """Return the address that the connection comes from. Headers of proxies are not believed."""
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def is_loopback(host: str) -> bool:
    """Tell whether a name or address is one of this machine's own loopback interface."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _name(host: str) -> str:
    """Return a ``Host`` header without its port, an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _same_site(headers: Headers, host: str) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2] == host


def _tells_site(headers: Headers) -> bool:
    """Tell whether a browser says where a request comes from; ``_same_site`` has found that it is from here."""
    return headers.get("sec-fetch-site") == "same-origin" or "origin" in headers
