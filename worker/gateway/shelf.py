"""Pages by index, asker and project: each fetched once while it is fresh, however many tasks and processes ask."""

import hashlib
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import IO

import pypi_simple

from jobs.errors import ErrorKind
from worker.gateway import pages
from worker.gateway.addresses import shown
from worker.gateway.download import disk_error
from worker.gateway.errors import UpstreamError
from worker.gateway.flight import SingleFlight
from worker.gateway.links import NotSimple
from worker.gateway.pagefiles import Head, PageFiles
from worker.gateway.pages import Page
from worker.gateway.upstream import Answer, Upstream, gone

MAX_PAGE_BYTES = 64 * 2**20
MAX_ABSENCE_SECONDS = 60.0
"""An index's "I have no such project" is believed no longer than this: somebody may be publishing it right now."""
_MAX_KEPT_FILES = 400_000
_MAX_KEPT_PAGES = 2_000
"""However few files are on them: a page by itself takes about 4 KB. Others are read from the disk."""
_MAX_AGE = re.compile(r"""(?:^|[\s,])max-age\s*=\s*"?(\d{1,10})""", re.IGNORECASE)


@dataclass(frozen=True)
class _Kept:
    page: Page | None
    until: float
    """On the monotonic clock."""
    sha256: str
    """Of the body it was read from."""


@dataclass(frozen=True)
class _Known:
    """A page that was kept; None stands for a project that is not there."""

    head: Head
    page: Page | None


@dataclass(frozen=True)
class _Fetched(_Known):
    """What an index just said."""

    unchanged: bool = False
    storable: bool = True


class Shelf:
    """Keeps pages in memory and on the disk.

    A page is used without asking for as long as both ``ttl_seconds`` and the index's own ``Cache-Control`` allow.
    Then the index is asked whether it has changed (RFC 9110, 13). In memory the least recently used go first when
    there are too many of them, or too many links.
    """

    def __init__(self, ttl_seconds: float, files: PageFiles) -> None:
        self._ttl_seconds = ttl_seconds
        self._files = files
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._flights: SingleFlight[str, Page | None] = SingleFlight()

    def page(self, upstream: Upstream, project: str) -> Page | None:
        """Return a project's page, or None when the index does not have it. Raises UpstreamError."""
        key = _key(upstream, project)
        kept = self._fresh(key)
        if kept is None:
            return self._flights.do(key, lambda: self._renew(key, upstream, project))
        upstream.count_cached("page")
        return kept.page

    def forget(self, upstream: Upstream, project: str) -> None:
        """Have the page fetched anew next time: something on it turned out to be wrong."""
        key = _key(upstream, project)
        with self._lock:
            self._kept.pop(key, None)
        self._files.forget(key)

    def _fresh(self, key: str) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.until <= time.monotonic():
                return None
            self._kept.move_to_end(key)
            return kept

    def _renew(self, key: str, upstream: Upstream, project: str) -> Page | None:
        with self._files.alone(key, upstream.patience_seconds):
            head, age_seconds = self._files.head(key) or (None, 0.0)
            known = self._known(key, head, project) if head is not None else None
            # A clock that was set back makes an age negative.
            if known is not None and 0 <= age_seconds < self._lifetime(known.head):
                upstream.count_cached("page")
                return self._remember(key, known, age_seconds)
            upstream.count_missed("page")
            with self._files.spool() as body:
                fetched = upstream.retrying(lambda: _ask(upstream, project, known, body))
                self._store(key, fetched, body)
            return self._remember(key, fetched, 0)

    def _store(self, key: str, fetched: _Fetched, body: IO[bytes]) -> None:
        if fetched.unchanged:
            self._files.still_right(key)
        elif fetched.storable:
            self._files.keep(key, fetched.head, body)
        else:
            self._files.forget(key)

    def _known(self, key: str, head: Head, project: str) -> _Known | None:
        """Return a kept page, read anew only if it is not in memory; None when it is damaged."""
        if head.absent:
            return _Known(head, None)
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and kept.sha256 == head.sha256:
            return _Known(head, kept.page)
        with self._files.body(key) as body:
            try:
                return None if body is None else _Known(head, pages.read(project, head.url, head.content_type, body))
            except NotSimple:  # kept by another version of this program
                return None

    def _lifetime(self, head: Head) -> float:
        """How long an answer may be used from the moment it was given, in seconds."""
        bounds = [self._ttl_seconds]
        if head.max_age_seconds is not None:
            bounds.append(head.max_age_seconds)
        if head.absent:
            bounds.append(MAX_ABSENCE_SECONDS)
        return min(bounds)

    def _remember(self, key: str, known: _Known, age_seconds: float) -> Page | None:
        until = time.monotonic() + self._lifetime(known.head) - age_seconds
        with self._lock:
            self._kept[key] = _Kept(known.page, until, known.head.sha256)
            self._kept.move_to_end(key)
            weight = sum(_weight(kept) for kept in self._kept.values())
            while (weight > _MAX_KEPT_FILES or len(self._kept) > _MAX_KEPT_PAGES) and len(self._kept) > 1:
                weight -= _weight(self._kept.popitem(last=False)[1])
        return known.page


def _key(upstream: Upstream, project: str) -> str:
    """Tell pages apart by index and by who is asking: others may be shown another page at the same address."""
    return hashlib.sha256(f"{upstream.asker()} {project}".encode()).hexdigest()


def _weight(kept: _Kept) -> int:
    return 1 if kept.page is None else 1 + len(kept.page.files)


def fetch(upstream: Upstream, project: str) -> Page | None:
    """Ask an index once for a project's page. Raises UpstreamError."""
    return _ask(upstream, project, None, BytesIO()).page


def _ask(upstream: Upstream, project: str, known: _Known | None, body: IO[bytes]) -> _Fetched:
    """Ask an index once, with ``known`` for what has changed since then; ``body`` takes the answer's.

    Raises UpstreamError.
    """
    conditions = known.head.conditions if known else {}
    headers = {"Accept": pypi_simple.ACCEPT_JSON_PREFERRED, **conditions}
    answer = upstream.open(upstream.page_url(project), headers)
    try:
        if known is not None and answer.unchanged:
            return _Fetched(known.head, known.page, unchanged=True)
        if gone(answer):
            return _Fetched(Head(absent=True, max_age_seconds=_max_age(answer.headers)), None)
        sha256 = _take(answer, body)
        return _Fetched(_head(answer, sha256), _read(project, answer, body), storable=_storable(answer.headers))
    finally:
        answer.close()


def _head(answer: Answer, sha256: str) -> Head:
    return Head(
        url=answer.url,
        content_type=answer.headers.get("Content-Type", ""),
        etag=answer.headers.get("ETag"),
        last_modified=answer.headers.get("Last-Modified"),
        max_age_seconds=_max_age(answer.headers),
        sha256=sha256,
    )


def _max_age(headers: Mapping[str, str]) -> float | None:
    """Return how long an answer may be used, by its ``Cache-Control`` (RFC 9111, 5.2.2)."""
    control = headers.get("Cache-Control", "").lower()
    if "no-cache" in control or "no-store" in control:
        return 0
    found = _MAX_AGE.search(control)
    if found is None:
        return None
    age = headers.get("Age", "")
    return max(0, int(found[1]) - (float(age) if age.isdecimal() else 0))


def _storable(headers: Mapping[str, str]) -> bool:
    return "no-store" not in headers.get("Cache-Control", "").lower()


def _read(project: str, answer: Answer, body: IO[bytes]) -> Page:
    body.seek(0)
    try:
        return pages.read(project, answer.url, answer.headers.get("Content-Type", ""), body)
    except NotSimple as error:
        refusal = _not_simple(answer, error)
    raise refusal  # without what led to it: a task keeps its errors, and their frames hold what was read


def _take(answer: Answer, body: IO[bytes]) -> str:
    """Take in a page, decoded, up to a bound, and return its sha256: it may unpack to much more than announced."""
    if (answer.size_bytes or 0) > MAX_PAGE_BYTES:
        raise _not_simple(answer, _too_large())
    digest = hashlib.sha256()
    body.seek(0)
    body.truncate()
    for chunk in answer.chunks():
        digest.update(chunk)
        _write(body, chunk, answer.url)
        if body.tell() > MAX_PAGE_BYTES:
            raise _not_simple(answer, _too_large())
    return digest.hexdigest()


def _write(body: IO[bytes], chunk: bytes, url: str) -> None:
    """Write a piece of a page to the end, so that a full disk is noticed here and not where the page is read."""
    try:
        body.write(chunk)
        body.flush()
    except OSError as error:
        raise disk_error(error, url) from error


def _too_large() -> NotSimple:
    return NotSimple(f"it is larger than {MAX_PAGE_BYTES // 2**20} MiB")


def _not_simple(answer: Answer, error: NotSimple) -> UpstreamError:
    return UpstreamError(
        ErrorKind.AUTHENTICATION if error.login else ErrorKind.SERVER_ERROR,
        f"answered with something that is not a page of a package index: {error}",
        url=shown(answer.url),
        status=answer.status,
        worth_retrying=False,
    )
