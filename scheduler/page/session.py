"""Who has logged in on the page: a cookie that holds when it ends, sealed with a key made from the API token.

The cookie does not hold the token, and every scheduler with the same token takes it. With another token, all end.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import Response

NAME = "vizfetch_session"
LASTS_SECONDS = 12 * 3600
CALLER = "session"
"""How a caller is called who has logged in."""

_VERSION = "1"
_DIGITS = 12
_CLOCK = time.time


@dataclass(frozen=True)
class Session:
    """The cookie of those who have logged in, which is a ``Credential``."""

    ambient: ClassVar[bool] = True
    token: str = field(repr=False)
    clock: Callable[[], float] = _CLOCK

    @cached_property
    def _key(self) -> bytes:
        # Costly, since whoever gets hold of a cookie can try tokens until one makes the same seal.
        return hashlib.scrypt(self.token.encode(), salt=b"vizfetch session 1", n=2**14, r=8, p=1)

    def value(self) -> str:
        """Return what the cookie of a session that begins now holds."""
        until = str(int(self.clock()) + LASTS_SECONDS)
        return f"{_VERSION}.{until}.{self._seal(until)}"

    def shown(self, headers: Headers) -> bool:
        """Tell whether there is a cookie that holds now; one that has ended is as good as none."""
        return self.caller(headers) is not None

    def caller(self, headers: Headers) -> str | None:
        """Return ``session`` if the cookie is one of ours that has not ended."""
        given = cookie_parser(headers.get("cookie", "")).get(NAME, "")
        version, _, rest = given.partition(".")
        until, _, seal = rest.partition(".")
        plausible = version == _VERSION and until.isascii() and until.isdigit() and len(until) <= _DIGITS
        if not plausible or not hmac.compare_digest(seal.encode(), self._seal(until).encode()):
            return None
        return CALLER if int(until) > self.clock() else None

    def begin(self, answer: Response, *, secure: bool) -> None:
        """Have a browser keep the cookie; ``secure`` where it reached us over TLS."""
        answer.set_cookie(
            NAME, self.value(), max_age=LASTS_SECONDS, path="/", secure=secure, httponly=True, samesite="strict"
        )

    def _seal(self, until: str) -> str:
        return hmac.new(self._key, f"{_VERSION}.{until}".encode(), hashlib.sha256).hexdigest()


def end(answer: Response, *, secure: bool) -> None:
    """Have a browser forget the cookie."""
    answer.delete_cookie(NAME, path="/", secure=secure, httponly=True, samesite="strict")


def over_tls(headers: Headers, scheme: str) -> bool:
    """Tell whether the browser reached us over TLS: by a proxy in front, as its own ``Origin`` says, or directly."""
    return scheme == "https" or headers.get("origin", "").startswith("https://")
