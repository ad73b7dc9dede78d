"""One index: its connections, credentials, proxy, timeouts and retries. Everything asked of it goes through here."""

import base64
import email.utils
import hashlib
import http.client
import http.cookiejar
import importlib.metadata
import itertools
import random
import re
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

import requests
import structlog
import urllib3.exceptions

from config.settings import IndexSettings
from config.tracing import Span, request_span
from jobs.errors import ErrorKind
from jobs.metrics import Meter
from jobs.traffic import Outcome, Traffic
from worker.gateway.addresses import locality, origin, shown
from worker.gateway.errors import UpstreamError
from worker.gateway.startup import Retries
from worker.gateway.transport import Adapter, first_byte_limit, hurry, tls_context

MAX_REDIRECTS = 5
CHUNK_BYTES = 64 * 1024
_SMALL_BODY_BYTES = 64 * 1024
_DRAIN_SECONDS = 1.0
"""For the rest of a body that nobody wants; longer than that, a new connection is the better choice."""
_LEASE_MARGIN_SECONDS = 10
"""How much longer than its timeouts allow a request may count as being on its way."""
_LONGEST_WISH_SECONDS = 86_400.0
"""A server that asks to be left alone for longer has a wrong clock."""
_WISH_SPREAD_SECONDS = 2.0
_FULL_PAUSE_SECONDS = (0.02, 0.1)
_DOWN = {
    ErrorKind.CONNECT_TIMEOUT,
    ErrorKind.READ_TIMEOUT,
    ErrorKind.CONNECTION,
    ErrorKind.PROXY,
    ErrorKind.TRUNCATED,
    ErrorKind.SERVER_ERROR,
    ErrorKind.RATE_LIMITED,
}
"""What an index that is down looks like, if it is worth retrying."""
_LENGTH = re.compile(r"[0-9]{1,18}")
"""More digits are no length, and too many of them no number."""
_REDIRECTS = {301, 302, 303, 307, 308}
GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
"""What says that an index does not have something, and nothing else."""

_STATUS_KINDS = {
    HTTPStatus.UNAUTHORIZED: ErrorKind.AUTHENTICATION,
    HTTPStatus.FORBIDDEN: ErrorKind.FORBIDDEN,
    HTTPStatus.PROXY_AUTHENTICATION_REQUIRED: ErrorKind.PROXY,
    HTTPStatus.TOO_MANY_REQUESTS: ErrorKind.RATE_LIMITED,
    HTTPStatus.UNAVAILABLE_FOR_LEGAL_REASONS: ErrorKind.FORBIDDEN,
}

_log = structlog.get_logger()
_T = TypeVar("_T")


class Answer:
    """An index's answer with its headers read and its body still to come. Close it after use."""

    def __init__(
        self, response: requests.Response, url: str, received: Callable[[int], None], traced: Span | None = None
    ) -> None:
        """``received`` is told how many bytes came, at the end; ``traced`` ends with the answer."""
        self._response = response
        self._received = received
        self._traced = traced or Span()
        self._error: UpstreamError | None = None
        self._decoded = True
        self.turn: _Turn | None = None
        self.url = url
        """Where the answer came from, after redirects."""
        self.status = response.status_code
        self.headers = response.headers

    @property
    def size_bytes(self) -> int | None:
        """The body's length as announced; None when unknown or when the body is encoded on the way."""
        length = self.headers.get("Content-Length", "")
        return int(length) if _LENGTH.fullmatch(length) and not self.encoded else None

    @property
    def encoded(self) -> bool:
        """Whether the body is compressed on the way, so that its length and ranges count other bytes."""
        return self._decoded and self.headers.get("Content-Encoding", "identity").lower() != "identity"

    def leave_encoded(self) -> None:
        """Take the body as it comes.

        Some servers say of a ``.tar.gz`` that it is a tar archive with the encoding gzip, instead of what it is.
        """
        self._decoded = False

    @property
    def unchanged(self) -> bool:
        """Whether the index says that what was kept of it is still right."""
        return self.status == HTTPStatus.NOT_MODIFIED

    def chunks(self) -> Iterator[bytes]:
        """Yield the body, decoded. Raises UpstreamError when it breaks, ends early or takes too long."""
        try:
            with _translated(self.url, in_body=True):
                if self._decoded:
                    yield from self._response.iter_content(CHUNK_BYTES)
                else:
                    yield from self._response.raw.stream(CHUNK_BYTES, decode_content=False)
        except UpstreamError as error:
            self._error = error
            raise

    def close(self) -> None:
        """Give the connection back when the rest of the body is small, else drop it. Never raises."""
        try:
            if (self.size_bytes or 0) <= _SMALL_BODY_BYTES and "Content-Length" in self.headers:
                hurry(self._response.raw, _DRAIN_SECONDS)
                self._response.raw.drain_conn()
        finally:
            size_bytes = self._response.raw.tell()
            self._received(size_bytes)
            self._response.close()
            self._end_trace(size_bytes)
            if self.turn is not None:
                self.turn.end(self._error)

    def _end_trace(self, size_bytes: int) -> None:
        self._traced.set({"http.response.status_code": self.status, "http.response.body.size": size_bytes})
        if self._error is not None:
            self._traced.fail(self._error.kind)
        elif self.status >= HTTPStatus.BAD_REQUEST and self.status not in GONE:
            self._traced.fail(str(self.status))
        self._traced.end()


@dataclass
class _Turn:
    """A request's place among those that are on their way to an index."""

    traffic: Traffic
    index: str
    longest_own_wish_seconds: float
    quiet: Callable[[], bool]
    slot: str = field(default_factory=lambda: secrets.token_hex(8))
    ended: bool = False

    def end(self, error: UpstreamError | None) -> None:
        """Leave the place and tell what the request showed of the index, once."""
        if self.ended:
            return
        self.ended = True
        if error is None:
            self.traffic.leave(self.index, self.slot, Outcome.ANSWERED)
        elif self.quiet():
            self.traffic.leave(self.index, self.slot, Outcome.UNKNOWN)
        elif error.kind in _DOWN and error.worth_retrying:
            wish = error.retry_after_seconds
            self.traffic.leave(
                self.index,
                self.slot,
                Outcome.FAILED,
                what=f"{error.kind} {error.reason}",
                wish_seconds=wish,
                at_once=wish is not None and wish > self.longest_own_wish_seconds,
            )
        else:  # it answered, if not as it should
            outcome = Outcome.ANSWERED if error.status is not None else Outcome.UNKNOWN
            self.traffic.leave(self.index, self.slot, outcome)


class Upstream:
    """One index. Safe to use from any number of threads."""

    def __init__(
        self,
        settings: IndexSettings,
        *,
        ca_bundle: Path | None = None,
        retries: Retries,
        traffic: Traffic | None = None,
        meter: Meter | None = None,
    ) -> None:
        """Without ``traffic``, everything is asked at once, however the index fares."""
        self.meter = meter or Meter()
        self.settings = settings
        self._traffic = traffic
        self.name = settings.name
        self._retries = retries
        self._base = shown(settings.url).rstrip("/")
        self._origin = origin(settings.url)
        self._authorization = _authorization(settings)
        self._http = self._session(tls_context(skip_ssl=settings.skip_ssl, ca_bundle=ca_bundle))
        if settings.skip_ssl:
            # Announced once by our own log; urllib3 would repeat it for every request.
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            _log.warning("index_without_tls_verification", index=self.name)

    @property
    def patience_seconds(self) -> float:
        """How long one thing asked of it may take at most, with all retries and their pauses."""
        once = self.settings.connect_timeout_seconds + self.settings.read_timeout_seconds
        return self._retries.attempts * (once + self._retries.max_retry_after_seconds)

    def page_url(self, project: str) -> str:
        """Return the address of a project's page; ``project`` is normalised (PEP 503)."""
        return f"{self._base}/{project}/"

    def asker(self) -> str:
        """Return what tells answers for these credentials from answers for others. A secret.

        The way counts too: what came unverified or through one proxy is not what would come otherwise.
        """
        proxy = self.settings.proxy
        way = f"{proxy.host}:{proxy.port}" if proxy else "direct"
        trust = "unverified" if self.settings.skip_ssl else "verified"
        return f"{self._base} {way} {trust} {self._authorization or ''}"

    def open(self, url: str, headers: Mapping[str, str], quiet: Callable[[], bool] = lambda: False) -> Answer:
        """Ask once, following redirects.

        Only answers with a 2xx, 404 or 410 status come back, 416 to a range and 304 to a condition. Raises
        UpstreamError for everything else, also without asking when the index is known to be down. Waits while
        the index has as many requests as it may have. The caller closes the answer. A failure at a moment when
        ``quiet`` says true counts for nothing: nobody takes the index to be down because of it, and so it is not
        sent to find out whether an index that was down is no longer.
        """
        turn = self._turn(url, quiet)
        try:
            answer = self._follow(url, headers)
        except UpstreamError as error:
            if turn is not None:
                turn.end(error)
            raise
        except BaseException:
            if turn is not None:
                turn.end(_unknown(url))
            raise
        answer.turn = turn
        return answer

    def _turn(self, url: str, quiet: Callable[[], bool]) -> "_Turn | None":
        if self._traffic is None:
            return None
        turn = _Turn(self._traffic, traffic_name(self.settings), self._retries.max_retry_after_seconds, quiet)
        once = self.settings.connect_timeout_seconds + self.settings.read_timeout_seconds
        while True:
            permit = self._traffic.enter(
                turn.index,
                turn.slot,
                limit=self.settings.max_connections,
                lease_seconds=once + _LEASE_MARGIN_SECONDS,
                may_probe=not quiet(),
            )
            if permit.state == "go":
                return turn
            if permit.state == "down":
                raise _down(url, permit.what, permit.wait_seconds)
            time.sleep(random.uniform(*_FULL_PAUSE_SECONDS))  # noqa: S311 - spreads load, guards nothing

    def _follow(self, url: str, headers: Mapping[str, str]) -> Answer:
        own = True
        for _ in range(MAX_REDIRECTS + 1):
            # Credentials that were once left behind stay behind, wherever the way leads.
            own = own and origin(url) == self._origin
            answer = self._ask(url, headers, own=own)
            if answer.status not in _REDIRECTS or "Location" not in answer.headers:
                return _usable(answer, headers)
            answer.close()
            url = _location(url, answer.headers["Location"])
        raise UpstreamError(
            ErrorKind.SERVER_ERROR, f"redirected more than {MAX_REDIRECTS} times", url=shown(url), worth_retrying=False
        )

    def retrying(self, attempt: Callable[[], _T], goes_on: Callable[[], bool] = lambda: True) -> _T:
        """Run ``attempt`` within the retry budget, and while it ``goes_on``, and return what it returns.

        Raises the last UpstreamError, with the number of attempts and the time they took.
        """
        started = time.monotonic()
        before: UpstreamError | None = None
        for number in itertools.count(1):
            try:
                return attempt()
            except UpstreamError as error:
                if not error.asked:
                    if before is None:
                        raise
                    # It went down under our own eyes: what happened says more than that nobody asks now.
                    before.attempts, before.again_in_seconds = number - 1, error.again_in_seconds
                    before.duration_seconds = time.monotonic() - started
                    raise before from error
                before = error
                pause = self._pause(error, number) if goes_on() else None
                if pause is None:
                    error.attempts = number
                    error.duration_seconds = time.monotonic() - started
                    raise
                _log.info("index_retry", index=self.name, kind=error.kind, url=error.url, request=number)
                time.sleep(pause)
        raise AssertionError("itertools.count does not end")

    def close(self) -> None:
        """Close all connections, for good. Requests that are on their way end with an UpstreamError."""
        self._http.close()

    def _session(self, context: ssl.SSLContext) -> requests.Session:
        session = _Session()
        session.trust_env = False  # netrc would replace our credentials, REQUESTS_CA_BUNDLE our TLS rules
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        session.headers["User-Agent"] = f"vizfetch/{importlib.metadata.version('vizfetch')}"
        adapter = Adapter(context, self.settings.read_timeout_seconds, self._refuse_local)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        if self.settings.proxy is not None:
            proxy = f"http://{self.settings.proxy.host}:{self.settings.proxy.port}"
            session.proxies = {"http": proxy, "https": proxy}
        return session

    def _ask(self, url: str, headers: Mapping[str, str], *, own: bool) -> Answer:
        self._check(url)
        sent = dict(headers)
        if own and self._authorization is not None:
            sent["Authorization"] = self._authorization
        traced = request_span(
            "GET", {"http.request.method": "GET", "url.full": shown(url), "vizfetch.index": self.name}
        )
        with self._measured(traced), _translated(url, in_body=False):
            response = self._http.get(
                url,
                headers=sent,
                # Else a user name and password in a link would take the place of the header.
                auth=_as_it_is,
                timeout=first_byte_limit(self.settings.connect_timeout_seconds),
                verify=not self.settings.skip_ssl,
                allow_redirects=False,
                stream=True,
            )
        self.meter.add("vizfetch_index_requests", index=self.name, status=str(response.status_code))
        return Answer(response, url, self._count_bytes, traced)

    @contextmanager
    def _measured(self, traced: Span) -> Iterator[None]:
        """Count a request that gets no answer, which ends its span, and measure how long one takes that does."""
        begin = time.monotonic()
        try:
            yield
        except UpstreamError as error:
            self.meter.add("vizfetch_index_requests", index=self.name, status=error.kind)
            traced.fail(error.kind)
            traced.end()
            raise
        self.meter.observe("vizfetch_index_answer_seconds", time.monotonic() - begin, index=self.name)

    def count_cached(self, what: str, size_bytes: int = 0) -> None:
        """Count that a ``page`` or ``file`` need not be asked for."""
        self.meter.add("vizfetch_cache_requests", what=what, result="hit")
        if size_bytes:
            self.meter.add("vizfetch_cache_saved_bytes", size_bytes)

    def count_missed(self, what: str) -> None:
        """Count that one has to be."""
        self.meter.add("vizfetch_cache_requests", what=what, result="miss")

    def _count_bytes(self, size_bytes: int) -> None:
        self.meter.add("vizfetch_index_downloaded_bytes", size_bytes, index=self.name)

    def _check(self, url: str) -> None:
        """Refuse to be led to other schemes, from TLS to none, or to this machine."""
        target = origin(url)
        if target is None:
            raise _refused(url, "is not an HTTP address that can be trusted")
        if self._origin and self._origin[0] == "https" and target[0] == "http" and not self.settings.skip_ssl:
            raise _refused(url, "would be fetched without TLS although the index has it")
        self._refuse_local(target[1], url)

    def _refuse_local(self, host: str, url: str | None = None) -> None:
        """Refuse this machine and its link, where services trust their neighbours, unless the index is there."""
        near = locality(host)
        own_host = self._origin[1] if self._origin else ""
        # An index on this machine may lead to this machine, but not to what answers on its link.
        if near is not None and near != locality(own_host) and not self._own_address(host):
            raise _refused(url or self._base, "leads to this machine, where the index is not")

    def _own_address(self, host: str) -> bool:
        """Tell whether the index's own name stands for this address, as in a hosts file."""
        return False if self._origin is None else host in _addresses(self._origin)

    def _pause(self, error: UpstreamError, number: int) -> float | None:
        """Return how long to wait before the next attempt; None when there is none."""
        budget = self._retries
        if not error.worth_retrying or number >= budget.attempts:
            return None
        wish = error.retry_after_seconds
        if wish is not None:
            if wish > budget.max_retry_after_seconds:
                return None
            # All who were told the same would come back in the same instant.
            return wish + random.uniform(0, min(wish, _WISH_SPREAD_SECONDS))  # noqa: S311 - the same
        delay: float = min(budget.base_delay_seconds * 2 ** (number - 1), budget.max_delay_seconds)
        return delay * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing


class _Session(requests.Session):
    """Leaves redirects alone. requests prepares the next step of one that it is told not to follow.

    For that it reads the whole body, of whatever size, and raises errors of its own for what is not a URL.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Say of every answer that it does not redirect."""


def traffic_name(settings: IndexSettings) -> str:
    """Name the index for all workers, whatever its number is in their settings. Holds no secret."""
    proxy = settings.proxy
    way = "" if proxy is None else f"{proxy.host}:{proxy.port}"
    base = shown(settings.url).rstrip("/")
    return hashlib.sha256(f"{base} {way}".encode()).hexdigest()[:16]


def _authorization(settings: IndexSettings) -> str | None:
    """Make the header for the index's own origin."""
    if settings.bearer_token is not None:
        return f"Bearer {settings.bearer_token.get_secret_value()}"
    if settings.username is None:
        return None
    password = settings.password.get_secret_value() if settings.password else ""
    pair = f"{settings.username}:{password}".encode()  # UTF-8, as RFC 7617 recommends
    return "Basic " + base64.b64encode(pair).decode("ascii")


def _usable(answer: Answer, headers: Mapping[str, str]) -> Answer:
    """Let answers pass that a caller can act upon; turn the others into errors."""
    status = answer.status
    ranged = "Range" in headers
    if answer.unchanged and not _CONDITIONS.isdisjoint(headers):
        return answer
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES or status in GONE:
        return answer
    if ranged and status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return answer
    kind = _STATUS_KINDS.get(HTTPStatus(status) if status in _KNOWN else HTTPStatus.OK, ErrorKind.SERVER_ERROR)
    answer.close()
    raise UpstreamError(
        kind,
        f"answered {status} {_phrase(status)}".rstrip(),
        url=shown(answer.url),
        status=status,
        retry_after_seconds=_retry_after(answer.headers.get("Retry-After")),
        worth_retrying=_worth_retrying(status),
    )


_CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})
_KNOWN = frozenset(int(status) for status in HTTPStatus)


def gone(answer: Answer) -> bool:
    """Tell whether the index says that it does not have this: 404 or 410, nothing else."""
    return answer.status in GONE


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in _KNOWN else ""


def _worth_retrying(status: int) -> bool:
    """Tell whether the same request may fare better a moment later."""
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in {
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_EARLY,
        HTTPStatus.TOO_MANY_REQUESTS,
    }


def _retry_after(value: str | None) -> float | None:
    """Read ``Retry-After``, seconds or a date (RFC 9110, 10.2.3); None when there is none that makes sense."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return min(float(value), _LONGEST_WISH_SECONDS)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    aware = until if until.tzinfo else until.replace(tzinfo=UTC)
    return min(max(0.0, (aware - datetime.now(UTC)).total_seconds()), _LONGEST_WISH_SECONDS)


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _location(url: str, value: str) -> str:
    """Return where a redirect leads."""
    try:
        # http.client reads headers as Latin-1, servers write UTF-8.
        return urljoin(url, value.encode("latin-1").decode("utf-8"))
    except ValueError:
        raise UpstreamError(
            ErrorKind.SERVER_ERROR, "redirected to something that is not a URL", url=shown(url), worth_retrying=False
        ) from None


def _down(url: str, what: str, wait_seconds: float) -> UpstreamError:
    """Say that an index was not asked, with what was seen of it before."""
    kind, _, reason = what.partition(" ")
    return UpstreamError(
        ErrorKind(kind) if kind in {each.value for each in ErrorKind} else ErrorKind.SERVER_ERROR,
        f"was not asked, since the index is down; before, it {reason or 'failed several times'}",
        url=shown(url),
        again_in_seconds=wait_seconds,
        worth_retrying=False,
        asked=False,
    )


def _unknown(url: str) -> UpstreamError:
    return UpstreamError(ErrorKind.INTERNAL, "met a mistake of the gateway", url=shown(url), worth_retrying=False)


def _refused(url: str, reason: str) -> UpstreamError:
    return UpstreamError(ErrorKind.FORBIDDEN, f"not followed: it {reason}", url=shown(url), worth_retrying=False)


def _addresses(of: tuple[str, str, int]) -> set[str]:
    """Resolve a host to its addresses; none when it has no name here."""
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(of[1], of[2], type=socket.SOCK_STREAM)}
    except OSError:
        return set()


@contextmanager
def _translated(url: str, *, in_body: bool) -> Iterator[None]:
    """Turn the errors of requests, urllib3, http.client and ssl into ours."""
    try:
        yield
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
        kind, reason = _read_body_error(error) if in_body else _read_error(error)
        raise UpstreamError(kind, reason, url=shown(url), worth_retrying=_again(kind, error)) from error
    except ValueError as error:
        if not in_body:
            raise
        # urllib3 takes a negative size of a chunk for one, and stumbles over it.
        raise UpstreamError(ErrorKind.TRUNCATED, f"the body broke off: {error}", url=shown(url)) from error


def _again(kind: ErrorKind, error: BaseException) -> bool | None:
    """Tell what the kind alone does not: a proxy that asks for a login will do so again."""
    return False if kind is ErrorKind.PROXY and "407" in _deepest(error) else None


def _read_error(error: BaseException) -> tuple[ErrorKind, str]:
    """Tell what went wrong before the answer's headers were complete."""
    causes = _causes(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return ErrorKind.PROXY, f"the proxy failed: {_deepest(error)}"
    if any(isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) for cause in causes):
        return ErrorKind.CONNECTION, "the connection was closed during the TLS handshake"
    if isinstance(error, requests.exceptions.SSLError) or any(isinstance(cause, ssl.SSLError) for cause in causes):
        return ErrorKind.TLS, f"TLS failed: {_deepest(error)}"
    if isinstance(error, requests.exceptions.Timeout) or any(isinstance(cause, TimeoutError) for cause in causes):
        return ErrorKind.CONNECT_TIMEOUT, "no connection and first byte in time"
    if any(isinstance(cause, urllib3.exceptions.NameResolutionError) for cause in causes):
        return ErrorKind.CONNECTION, "the host name is not known"
    return ErrorKind.CONNECTION, f"the connection failed: {_deepest(error)}"


def _read_body_error(error: BaseException) -> tuple[ErrorKind, str]:
    """Tell what went wrong in the middle of the body."""
    causes = _causes(error)
    if any(isinstance(cause, TimeoutError | urllib3.exceptions.ReadTimeoutError) for cause in causes):
        return ErrorKind.READ_TIMEOUT, "the body did not arrive in time"
    if any(isinstance(cause, urllib3.exceptions.DecodeError) for cause in causes):
        return ErrorKind.SERVER_ERROR, "the body's compression is broken"
    return ErrorKind.TRUNCATED, f"the body broke off: {_deepest(error)}"


def _causes(error: BaseException) -> tuple[BaseException, ...]:
    """Walk from an error to everything it wraps, by cause, context, reason and arguments."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop()
        if isinstance(item, BaseException) and not any(item is known for known in found):
            found.append(item)
            waiting += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return tuple(found)


def _deepest(error: BaseException) -> str:
    """Return the innermost error's text, which names the matter itself."""
    causes = _causes(error)
    plain = tuple(cause for cause in causes if isinstance(cause, OSError | http.client.HTTPException))
    text = str((plain or causes)[-1])
    return text.partition(" (_ssl.c")[0]
