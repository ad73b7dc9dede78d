"""Pages in memory, by index and project: each fetched once while it is fresh, however many tasks ask."""

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

import pypi_simple

from jobs.errors import ErrorKind
from worker.gateway import pages
from worker.gateway.addresses import shown
from worker.gateway.errors import UpstreamError
from worker.gateway.flight import SingleFlight
from worker.gateway.pages import NotSimple, Page
from worker.gateway.upstream import Answer, Upstream, gone

MAX_PAGE_BYTES = 64 * 2**20
MAX_ABSENCE_SECONDS = 60.0
"""An index's "I have no such project" is believed no longer than this: somebody may be publishing it right now."""
_MAX_KEPT_FILES = 400_000

_Key = tuple[str, str]


@dataclass(frozen=True)
class _Kept:
    page: Page | None
    until: float


class Shelf:
    """Keeps pages for ``ttl_seconds``, the least recently used out first when there are too many links."""

    def __init__(self, ttl_seconds: float) -> None:
        self._ttl_seconds = ttl_seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._flights: SingleFlight[_Key, Page | None] = SingleFlight()

    def page(self, upstream: Upstream, project: str) -> Page | None:
        """Return a project's page, or None when the index does not have it. Raises UpstreamError."""
        key = (upstream.name, project)
        kept = self._fresh(key)
        return kept.page if kept else self._flights.do(key, lambda: self._fetch(upstream, project))

    def forget(self, upstream: Upstream, project: str) -> None:
        """Have the page fetched anew next time: something on it turned out to be wrong."""
        with self._lock:
            self._kept.pop((upstream.name, project), None)

    def _fresh(self, key: _Key) -> _Kept | None:
        with self._lock:
            kept = self._kept.get(key)
            if kept is None or kept.until <= time.monotonic():
                return None
            self._kept.move_to_end(key)
            return kept

    def _fetch(self, upstream: Upstream, project: str) -> Page | None:
        page = upstream.retrying(lambda: fetch(upstream, project))
        ttl = min(self._ttl_seconds, MAX_ABSENCE_SECONDS) if page is None else self._ttl_seconds
        with self._lock:
            self._kept[upstream.name, project] = _Kept(page, time.monotonic() + ttl)
            self._make_room()
        return page

    def _make_room(self) -> None:
        weight = sum(_weight(kept) for kept in self._kept.values())
        while weight > _MAX_KEPT_FILES and len(self._kept) > 1:
            weight -= _weight(self._kept.popitem(last=False)[1])


def _weight(kept: _Kept) -> int:
    return 1 if kept.page is None else 1 + len(kept.page.files)


def fetch(upstream: Upstream, project: str) -> Page | None:
    """Ask an index once for a project's page. Raises UpstreamError."""
    answer = upstream.open(upstream.page_url(project), {"Accept": pypi_simple.ACCEPT_JSON_PREFERRED})
    try:
        return None if gone(answer) else _read(project, answer)
    finally:
        answer.close()


def _read(project: str, answer: Answer) -> Page:
    try:
        return pages.read(project, answer.url, answer.headers.get("Content-Type", ""), _bounded(answer))
    except NotSimple as error:
        raise UpstreamError(
            ErrorKind.AUTHENTICATION if error.login else ErrorKind.SERVER_ERROR,
            f"answered with something that is not a page of a package index: {error}",
            url=shown(answer.url),
            status=answer.status,
            worth_retrying=False,
        ) from error


def _bounded(answer: Answer) -> bytes:
    """Read a page's body, decoded, up to a bound: what comes unpacked may be much larger than announced."""
    body = bytearray()
    for chunk in answer.chunks():
        body += chunk
        if len(body) > MAX_PAGE_BYTES:
            raise NotSimple(f"it is larger than {MAX_PAGE_BYTES // 2**20} MiB")
    return bytes(body)
