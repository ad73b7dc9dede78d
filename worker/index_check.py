"""Whether an index can be used, and if not, which step fails and what to do about it.

Two things are asked at once, under the rules of every fetch: the index's root, and the page of a project that is most
likely not there. The page decides, since pages are what a fetch asks for: an index that knows no such project has
accepted the credentials. Many indexes refuse their root; one that shows a page for people there, and knows no project,
is another web site.

Some indexes have no root at all, and any web server says of a wrong path that there is nothing. Where both the root and
the page are missing, one more round is asked for projects that are most likely there: the visualizations that everybody
can have, and pip, which every mirror of the public index has. When those are missing as well, there is no sign of an
index. One that has no root and only other projects is used with ``skipValidateConnectivity``, as the advice says.
"""

import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import pypi_simple
import requests
import urllib3.exceptions
from packaging.utils import canonicalize_name

from config.settings import IndexSettings
from jobs.errors import ErrorKind
from worker.background import caused_by, later
from worker.findings import Finding, Verdict, holds, wrong
from worker.gateway.addresses import origin, shown
from worker.gateway.errors import UpstreamError
from worker.gateway.pages import HTML_TYPE, JSON_TYPE
from worker.gateway.shelf import fetch
from worker.gateway.startup import Retries
from worker.gateway.transport import TrustError
from worker.gateway.upstream import Answer, Upstream, gone

PROJECT = "vizfetch-connectivity-check"
"""The name that is asked for. It need not exist, and should not."""

KNOWN_PROJECTS = ("moderne-visualizations-misc", "pip")
"""What is asked for where neither the root nor ``PROJECT`` is there."""

_ASK_AGAIN_SECONDS = 0.5
_ENDING_SECONDS = 0.1
_PASSING = {ErrorKind.CONNECTION, ErrorKind.SERVER_ERROR, ErrorKind.TRUNCATED}
_BEHIND_A_PROXY = {HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}
_PROXY_VARIABLES = ("https_proxy", "http_proxy", "all_proxy")

_ANCHOR = re.compile(rb"""<a\b[^>]*?\bhref\s*=\s*["']?([^"'\s>]+)[^>]*>\s*([^<]*)""", re.IGNORECASE)
_INTERACTIVE = re.compile(rb"<(?:form|input|script)\b", re.IGNORECASE)

_PUBLIC = (
    "This is the default public index: moderne.agent.visualization.useOnlyConfigured=true does without it, and "
    "moderne.agent.pypi[{index}].url with its proxy.host and proxy.port names it or another."
)

_KNOWN = " nor ".join(KNOWN_PROJECTS)

_T = TypeVar("_T")


def unused_proxies(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the variables by which other programs find a proxy, which is not asked here."""
    return tuple(name for name, value in sorted(environment.items()) if name.lower() in _PROXY_VARIABLES and value)


def look_at_index(
    index: IndexSettings, *, ca_bundle: Path | None = None, unused_proxies: tuple[str, ...] = ()
) -> Finding:
    """Ask an index for its root and for a project's page, and tell how that went.

    What may pass in a moment is asked for once more. ``unused_proxies`` are variables to point at when the index
    cannot be reached.
    """
    failure = _Failure(index, unused_proxies)
    try:
        upstream = Upstream(index, ca_bundle=ca_bundle, retries=Retries())
    except TrustError as error:
        variables = "REQUESTS_CA_BUNDLE or SSL_CERT_FILE"
        return wrong(failure.subject, str(error), f"Name a file of certificates (PEM) in {variables}.", step="TLS")
    page = later(lambda: _asked(lambda: fetch(upstream, PROJECT)))
    root = later(lambda: _asked(lambda: _look_at_root(upstream, index)))
    try:
        return _judge(failure, page.result(), root.result, lambda: _has_known_project(upstream))
    finally:
        upstream.close()
        # Where the page said enough, the root may still be asked for. It ends now, unless its name is looked up.
        wait([root], _ENDING_SECONDS)


def _asked(ask: Callable[[], _T]) -> _T | UpstreamError:
    """Return the answer, or the error that stands in its place."""
    try:
        return ask()
    except UpstreamError as error:
        if error.kind not in _PASSING or not error.worth_retrying:
            return error
    time.sleep(_ASK_AGAIN_SECONDS)
    try:
        return ask()
    except UpstreamError as error:
        return error


def _has_known_project(upstream: Upstream) -> bool:
    def has(project: str) -> bool:
        page = _asked(lambda: fetch(upstream, project))
        return page is not None and not isinstance(page, UpstreamError)

    asked = [later(partial(has, project)) for project in KNOWN_PROJECTS]
    answers = [each.result() for each in asked]  # of all of them: none is left behind half asked
    return any(answers)


# ---- the root


@dataclass(frozen=True)
class _Root:
    """What the index shows at its root."""

    there: bool
    odd: str = ""
    """Why it is not a list of projects."""


def _look_at_root(upstream: Upstream, index: IndexSettings) -> _Root:
    """Read the beginning: a list of all projects may be tens of megabytes."""
    answer = upstream.open(f"{shown(index.url).rstrip('/')}/", {"Accept": pypi_simple.ACCEPT_JSON_PREFERRED})
    try:
        if gone(answer):
            return _Root(there=False)
        return _Root(there=True, odd=_odd(answer, next(answer.chunks(), b"")))
    finally:
        answer.close()


def _odd(answer: Answer, start: bytes) -> str:
    """Say why this cannot be the beginning of a list of projects (PEP 503, PEP 691); empty when it can."""
    media_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type == JSON_TYPE:
        return ""
    if media_type.endswith("json"):
        return "" if b'"projects"' in start or b'"api-version"' in start else "JSON, but not a list of projects"
    if media_type not in {HTML_TYPE, "text/html", "application/xhtml+xml"}:
        return f"{media_type or 'of no type'}, neither HTML nor JSON"
    anchors = _ANCHOR.findall(start)
    if any(_names_a_project(href, text) for href, text in anchors):
        return ""
    return "a page for people" if anchors or _INTERACTIVE.search(start) else ""


def _names_a_project(href: bytes, text: bytes) -> bool:
    target = unquote(urlsplit(href.decode("utf-8", "replace")).path).rstrip("/").rpartition("/")[2]
    name = text.decode("utf-8", "replace").strip().rstrip("/")
    return bool(name) and canonicalize_name(target) == canonicalize_name(name)


# ---- the judgement


def _judge(
    failure: "_Failure", page: object, root: Callable[[], _Root | UpstreamError], has_known_project: Callable[[], bool]
) -> Finding:
    """Judge by the page, and by the root where that says more."""
    index = failure.index
    if isinstance(page, UpstreamError):
        if page.status == HTTPStatus.FORBIDDEN and _is_list(root()):
            # As file stores do that must not tell whether there is something.
            found = f"{failure.where} answers, but with 403 for a project that it does not have"
            return holds(failure.subject, f"{found}; then no index after it is asked")
        return failure.because(page)
    there = root()
    if page is None and isinstance(there, _Root) and there.odd:
        return failure.not_an_index(there.odd)
    if page is None and isinstance(there, _Root) and not there.there and not has_known_project():
        return failure.nothing_there()
    through = f" through the proxy {index.proxy.host}:{index.proxy.port}" if index.proxy else ""
    unlisted = "" if _is_list(there) else "; it has no list of projects, which not every index has"
    return holds(failure.subject, f"{failure.where} answers{through}{unlisted}")


def _is_list(root: _Root | UpstreamError) -> bool:
    return isinstance(root, _Root) and root.there and not root.odd


class _Failure:
    """Says which step failed, and what to do, in the names of the index's own settings."""

    def __init__(self, index: IndexSettings, unused_proxies: tuple[str, ...]) -> None:
        self.index = index
        self.subject = f"index {index.name}"
        self.where = shown(index.url)
        self._unused_proxies = unused_proxies

    def because(self, error: UpstreamError) -> Finding:
        """Return the finding for an error."""
        return self._here(error) if origin(error.url) == origin(self.index.url) else self._beyond(error)

    def _here(self, error: UpstreamError) -> Finding:
        refused = error.status is not None
        match error.kind:
            case ErrorKind.AUTHENTICATION:
                step, advice = "credentials", self._credentials()
            case ErrorKind.FORBIDDEN if refused:
                step, advice = "credentials", self._permission()
            case ErrorKind.TLS:
                step, advice = "TLS", self._tls(error.reason)
            case ErrorKind.PROXY:
                step, advice = "proxy", self._proxy(error.reason)
            case ErrorKind.CONNECTION if caused_by(error, urllib3.exceptions.NameResolutionError):
                step, advice = "name", f"Check the host name in {self._name('url')}. {self._no_proxy()}"
            case ErrorKind.CONNECTION:
                step, advice = "connection", f"Check {self._name('url')}. {self._no_proxy()}"
            case ErrorKind.CONNECT_TIMEOUT:
                connecting = caused_by(error, requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError)
                step, advice = "connection" if connecting else "answer", self._slow_start()
            case ErrorKind.READ_TIMEOUT:
                step, advice = "answer", f"{self._name('readTimeout')} is the limit for one answer."
            case ErrorKind.SERVER_ERROR if error.status == HTTPStatus.OK:
                step, advice = "index", self._root_advice()
            case _:
                step, advice = "answer", self._answer(error.status)
        return self._finding(step, self._found(error), advice)

    def _beyond(self, error: UpstreamError) -> Finding:
        """Return the finding for an error at another place, to which the index leads."""
        name = self._name("url")
        if error.kind in {ErrorKind.AUTHENTICATION, ErrorKind.FORBIDDEN} and error.status is not None:
            advice = f"Credentials are sent to the host of {name} only: write the address where the index really is."
            step = "credentials"
        else:
            advice = f"Check that it can be reached from here, or write in {name} where the index really is."
            unknown = caused_by(error, urllib3.exceptions.NameResolutionError)
            step = "name" if unknown else "TLS" if error.kind is ErrorKind.TLS else "redirect"
        reason = re.sub(r"\[Errno -?\d+\] ", "", error.reason)
        return self._finding(step, f"{self.where} leads to {error.url}, where the look ended: {reason}", advice)

    def not_an_index(self, odd: str) -> Finding:
        """Return the finding that there is another kind of web site."""
        found = f"{self.where} is not a package index: what it shows is {odd}"
        return self._finding("index", found, self._root_advice())

    def nothing_there(self) -> Finding:
        """Return the finding that there is no sign of an index at this path."""
        found = f"{self.where} is not a package index: it has neither a list of projects nor {_KNOWN}"
        switch = f"{self._name('skipValidateConnectivity')}=true"
        return self._finding(
            "index", found, f"{self._root_advice()} If it is, and has neither, {switch} does without this look."
        )

    def _finding(self, step: str, found: str, advice: str) -> Finding:
        verdict = Verdict.WRONG if step == "credentials" else Verdict.UNREACHABLE
        told = advice.strip() if self.index.name.startswith("pypi[") else _PUBLIC
        return Finding(self.subject, verdict, found, told, step)

    def _found(self, error: UpstreamError) -> str:
        """Tell what happened: where an answer came from that page, else at the index."""
        if error.status is not None:
            return f"{error.url} {error.reason}"
        reason = re.sub(r"\[Errno -?\d+\] ", "", error.reason)
        return f"{self.where}: {reason}"

    def _name(self, leaf: str) -> str:
        return self.index.setting(leaf)

    def _credentials(self) -> str:
        if self.index.bearer_token is not None:
            return f"Check {self._name('bearerToken')}: the index does not accept the token."
        if self.index.username is not None:
            return f"Check {self._name('username')} and {self._name('password')}: the index does not accept them."
        both = f"{self._name('username')} and {self._name('password')}"
        return f"The index asks for credentials: set {both}, or {self._name('bearerToken')}."

    def _permission(self) -> str:
        """Say what to do about 403, which some indexes answer to a wrong password as well."""
        if self.index.bearer_token is not None:
            names = self._name("bearerToken")
        elif self.index.username is not None:
            names = f"{self._name('username')} and {self._name('password')}"
        else:
            return self._credentials()
        return f"Check {names}, and that they are allowed to read the index."

    def _tls(self, reason: str) -> str:
        if "WRONG_VERSION_NUMBER" in reason or "record layer" in reason:
            return f"If the index speaks no TLS, write http:// in {self._name('url')}."
        if "ostname mismatch" in reason or "not valid for" in reason:
            return f"Write the name that the certificate is for in {self._name('url')}."
        return (
            "Have the index's authority trusted: install it in the system's store, or name its file in "
            f"REQUESTS_CA_BUNDLE. For a self-signed certificate, {self._name('skipSsl')}=true turns verification off."
        )

    def _proxy(self, reason: str) -> str:
        if "407" in reason:
            return "The proxy asks for a login, which cannot be given: let it pass this machine without one."
        names = f"{self._name('proxy.host')} and {self._name('proxy.port')}"
        return f"Check {names}, and that the proxy lets the index's host through."

    def _no_proxy(self) -> str:
        if self.index.proxy is not None:
            return ""
        names = f"{self._name('proxy.host')} and {self._name('proxy.port')}"
        if self._unused_proxies:
            are = "is" if len(self._unused_proxies) == 1 else "are"
            return f"{' and '.join(self._unused_proxies)} {are} not used here: a proxy is named by {names}."
        return f"If the way there is through a proxy, set {names}."

    def _slow_start(self) -> str:
        return f"{self._name('connectTimeout')} is the limit. Check {self._name('url')}. {self._no_proxy()}"

    def _root_advice(self) -> str:
        return f"{self._name('url')} must be the root of a simple repository, such as https://pypi.example.com/simple."

    def _answer(self, status: int | None) -> str:
        proxy = self.index.proxy
        if proxy is not None and status in _BEHIND_A_PROXY:
            return f"The answer may be that of the proxy {proxy.host}:{proxy.port}: check that it reaches the index."
        return f"Check {self._name('url')}, and the index itself."
