"""The tasks a gateway serves: what each may see, what it was shown, and what went wrong for it."""

import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import structlog
from structlog.contextvars import bound_contextvars

from config.settings import IndexSettings, Target
from config.tracing import continued
from jobs.errors import ErrorKind
from worker.gateway import advice
from worker.gateway.addresses import shown
from worker.gateway.ahead import Ahead
from worker.gateway.cache import Content, FileCache, Growing, Made, Stored, Wanted
from worker.gateway.collection import Collected, Collection, CollectionRequest, Refused, place
from worker.gateway.errors import UpstreamError, unexpected
from worker.gateway.flight import run
from worker.gateway.inside import NotThisFile, differences, essentials, require_named
from worker.gateway.pages import IndexFile, View, lens
from worker.gateway.record import Incident, Progress, Project, Record, Served, Step
from worker.gateway.revalidation import Seen, seen
from worker.gateway.shelf import Shelf
from worker.gateway.startup import Rules
from worker.gateway.upstream import GONE, Upstream

_log = structlog.get_logger()


@dataclass(frozen=True)
class Place:
    """A project where the first index has it."""

    upstream: Upstream
    view: View


@dataclass(frozen=True)
class _Asked:
    """A question that an index has not answered yet."""

    index: IndexSettings
    project: str
    step: Step
    what: str
    url: str
    since: float


@dataclass(frozen=True)
class Delivery:
    """A file for one client, and how the task learns what became of it. Close it after use."""

    task: "Task"
    project: str
    place: Place
    file: IndexFile
    content: Content
    step: Step

    @property
    def size_bytes(self) -> int:
        """The whole file's size."""
        return self.content.size_bytes

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes, and count them. Raises Refused when the index breaks off.

        Counted before they are yielded: a client that has its last byte may ask for the record at once.
        """
        try:
            for data in self.content.chunks(start, stop):
                start += len(data)
                self.task.count(self, len(data), last=start == self.size_bytes)
                yield data
        except UpstreamError as error:
            raise Refused(self.task.blame(self.place.upstream, self.project, self.step, self.file, error)) from error

    def close(self) -> None:
        """Let go of the file."""
        self.content.close()


class Task:
    """One registered task. Sees one state of the world: a page it was shown, or an error, stays as it was."""

    def __init__(
        self, target: Target, rules: Rules, upstreams: tuple[Upstream, ...], shelf: Shelf, cache: FileCache
    ) -> None:
        self.token = secrets.token_urlsafe(24)
        self.labels: Mapping[str, str | int] = {}
        """For log lines."""
        self.traceparent: str | None = None
        """To which step of a trace its requests belong."""
        self._target = target
        self._rules = rules
        self._upstreams = upstreams
        self._shelf = shelf
        self._cache = cache
        self._lock = threading.Lock()
        self._places: dict[str, Future[Place | None]] = {}
        self._incidents: dict[tuple[Step, str], Incident] = {}
        self._served: dict[str, Served] = {}
        self._pending: dict[int, _Asked] = {}
        self._told: dict[str, bytes] = {}
        """What an index said of wheels, as it was passed on."""
        self._ahead: Ahead | None = None
        self._collection: Collection | None = None
        self._sent_bytes = 0
        self._kept: dict[str, bool] = {}
        """Whether a file was in the cache before this task asked for anything of it."""
        self.used_at = time.monotonic()

    def look_ahead(self, directory: Path) -> None:
        """Have wheels brought there whose metadata the client asks for from now on, until it has chosen.

        Not what was in the cache before: of that the agent knows already what it would find out meanwhile.
        """
        self._ahead = Ahead(self._cache, directory)

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Have what is logged and traced in the block belong to this task."""
        with bound_contextvars(**self.labels), continued(self.traceparent):
            yield

    def place(self, project: str) -> Place | None:
        """Find a project; None when every index says that it does not have it. Raises Refused.

        Only 404 and 410 pass the search on to the next index (PEP 708 tells what else would be taken for it).
        """
        with self._lock:
            future = self._places.get(project)
            first = future is None
            future = future or self._places.setdefault(project, Future())
        if first:
            run(future, lambda: self._search(project))
        return future.result()

    def open(self, project: str, filename: str, *, metadata: bool = False) -> Delivery | None:
        """Open a file that this task was shown; None for any other. Raises Refused.

        A file that failed once fails again at once: the attempt is void, and a client's own retries add nothing.
        """
        place = self.place(project)
        file = place.view.files.get(filename) if place else None
        if place is None or file is None or (metadata and not file.has_metadata):
            return None
        step: Step = "metadata" if metadata else "file"
        known = self._incidents.get((step, filename))
        if known is not None:
            raise Refused(known)
        wanted = _wanted(file, metadata=metadata and file.metadata_digests is not None)
        try:
            with self._waiting(place.upstream, project, step, filename, wanted.url):
                if filename not in self._kept:
                    self._kept[filename] = self._cache.has(place.upstream, _wanted(file, metadata=False))
                content = self._metadata(place.upstream, file) if metadata else self._cache.open(place.upstream, wanted)
        except UpstreamError as error:
            raise Refused(self.blame(place.upstream, project, step, file, error)) from error
        if not metadata:
            self._count_use(place.upstream, filename, content.size_bytes)
        elif self._ahead is not None and file.is_wheel and not (self._kept[filename] or self._incidents):
            self._ahead.begin(place.upstream, project, _wanted(file, metadata=False))
        return Delivery(self, project, place, file, content, step)

    def _metadata(self, upstream: Upstream, file: IndexFile) -> Made:
        """Return what counts of metadata: the index's own, or made from the wheel where it is here or there is none.

        Some indexes repeat what another one's page says of metadata and do not have it; the wheel is what counts. What
        only the index says is compared with the wheel later. Raises UpstreamError.
        """
        here = file.is_wheel and file.sha256 is not None and self._cache.holds(file.sha256)
        if file.metadata_digests is not None and not here:
            try:
                told = _essentials(self._cache.open(upstream, _wanted(file, metadata=True)))
            except UpstreamError as error:
                if not (file.is_wheel and error.status in GONE):
                    raise
            else:
                _require_named(file, told)
                self._told[file.filename] = told
                return Made(told)
        told = _essentials(self._cache.metadata(upstream, _wanted(file, metadata=False)))
        self._told[file.filename] = told
        return Made(told)

    def bring(self, project: str, filename: str, directory: Path, stopped: threading.Event) -> None:
        """Put a file that this task was shown into ``directory``, whole and verified, unless it is ``stopped`` before.

        Raises Refused, OSError, and LookupError when it was not shown.
        """
        delivery = self.open(project, filename)
        if delivery is None or isinstance(delivery.content, Made):
            raise LookupError(f"{filename} is not on the page of {project}")
        with closing(delivery):
            self._wait_for_all(delivery, delivery.content)
            if stopped.is_set():
                return
            place(delivery.content.descriptor, directory / delivery.file.filename)
            self.count(delivery, 0, last=True)

    def _wait_for_all(self, delivery: Delivery, content: Stored | Growing) -> None:
        file, upstream = delivery.file, delivery.place.upstream
        try:
            for arrived in content.arrivals():
                self.count(delivery, arrived, last=False)
            self._require_told(file, self._cache.inside(content, _wanted(file, metadata=False)))
        except UpstreamError as error:
            raise Refused(self.blame(upstream, delivery.project, "file", file, error)) from error

    def _require_told(self, file: IndexFile, inside: bytes) -> None:
        """Raise UpstreamError when the index said something else of a wheel than the wheel does (PEP 658).

        A client that compares the two itself has both; one that has its files brought never sees the second.
        """
        told = self._told.get(file.filename)
        if told is not None and (differing := differences(told, inside)):
            raise UpstreamError(
                ErrorKind.BROKEN_WHEEL,
                f"offers metadata of it that is not the wheel's own: {', '.join(differing)}",
                url=shown(file.url),
            )

    def collect(self, request: CollectionRequest, wait_seconds: float) -> Collected:
        """Bring files into a directory, or go on waiting for it; nothing is begun once something has failed."""
        if self._ahead is not None:
            self._ahead.stop()
        with self._lock:
            if self._collection is None:
                wanted = () if self._incidents else request.files
                self._collection = Collection(self, wanted, request.directory)
        return self._collection.state(wait_seconds)

    def close(self) -> None:
        """Begin nothing further."""
        if self._ahead is not None:
            self._ahead.stop()
        with self._lock:
            if self._collection is not None:
                self._collection.stop()

    def count(self, delivery: Delivery, size_bytes: int, *, last: bool) -> None:
        """Count bytes of a wheel on their way to the client; ``last`` when they complete it."""
        if delivery.step != "file":
            return
        with self._lock:
            self._sent_bytes += size_bytes
            if last:
                self._served[delivery.file.filename] = _served(delivery)

    def _count_use(self, upstream: Upstream, filename: str, size_bytes: int) -> None:
        if self._kept[filename]:
            upstream.count_cached("file", size_bytes)
        else:
            upstream.count_missed("file")

    def blame(self, upstream: Upstream, project: str, step: Step, file: IndexFile, error: UpstreamError) -> Incident:
        """Record that an index did not deliver a file, once however often it is noticed."""
        self._shelf.forget(upstream, project)  # its page may be out of date, and the next attempt should see
        return self._incident(upstream, project, step, file.filename, error)

    def progress(self) -> Progress:
        """Count what went to the client."""
        with self._lock:
            return Progress(files=len(self._served), size_bytes=self._sent_bytes)

    def record(self) -> Record:
        """Tell everything seen so far.

        What an index still owes is an incident too: a client that has given up waiting must not look as if the
        index did not have the project.
        """
        with self._lock:
            places = dict(self._places)
            return Record(
                incidents=(*self._incidents.values(), *map(_unanswered, self._pending.values())),
                projects=tuple(_project(name, future.result()) for name, future in places.items() if _settled(future)),
                files=tuple(self._served.values()),
            )

    def seen(self) -> Seen:
        """Tell what the task was shown of the indexes, in a form that can be compared later."""
        with self._lock:
            places, sound = dict(self._places), not self._incidents
        if not sound or not all(map(_settled, places.values())):
            return Seen(projects=tuple(sorted(places)), digest=None)
        return seen({name: future.result() for name, future in places.items()})

    def _search(self, project: str) -> Place | None:
        for upstream in self._upstreams:
            try:
                with self._waiting(upstream, project, "page", project, upstream.page_url(project)):
                    page = self._shelf.page(upstream, project)
                    view = None if page is None else page.view(lens(self._target, self._rules, project))
            except UpstreamError as error:
                raise Refused(self._incident(upstream, project, "page", project, error)) from error
            if view is not None:
                return Place(upstream, view)
        return None

    @contextmanager
    def _waiting(self, upstream: Upstream, project: str, step: Step, what: str, url: str) -> Iterator[None]:
        """Note for the length of the block what an index is being asked; make mistakes of ours failures of its."""
        asked = _Asked(upstream.settings, project, step, what, url, time.monotonic())
        with self._lock:
            self._pending[id(asked)] = asked
        try:
            yield
        except UpstreamError:
            raise
        except Exception as error:
            raise unexpected(error, url) from error
        finally:
            with self._lock:
                del self._pending[id(asked)]

    def _incident(self, upstream: Upstream, project: str, step: Step, what: str, error: UpstreamError) -> Incident:
        incident = Incident(
            kind=error.kind,
            index=upstream.name,
            project=project,
            url=error.url,
            step=step,
            status=error.status,
            duration_seconds=round(error.duration_seconds, 3),
            attempts=error.attempts,
            again_in_seconds=error.again_in_seconds,
            message=advice.message(error, upstream.settings, what),
        )
        with self._lock:
            known = self._incidents.setdefault((step, what), incident)
        if known is incident:
            _log.warning("index_incident", **self.labels, **incident.model_dump(mode="json", exclude={"message"}))
        return known


class Tasks:
    """The registered tasks. One whose client vanished without a word is forgotten after ``idle_seconds``."""

    def __init__(
        self,
        upstreams: tuple[Upstream, ...],
        shelf: Shelf,
        cache: FileCache,
        idle_seconds: float,
        rules: Rules | None = None,
    ) -> None:
        self._upstreams = upstreams
        self._rules = rules or Rules()
        self._shelf = shelf
        self._cache = cache
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._tasks: dict[str, Task] = {}

    def register(
        self,
        target: Target,
        index: str | None,
        labels: Mapping[str, str | int] = MappingProxyType({}),
        traceparent: str | None = None,
    ) -> Task | None:
        """Add a task that sees all indexes, or only ``index``; None when there is no such index."""
        upstreams = tuple(upstream for upstream in self._upstreams if index in {None, upstream.name})
        if index is not None and not upstreams:
            return None
        task = Task(target, self._rules, upstreams, self._shelf, self._cache)
        task.labels, task.traceparent = labels, traceparent
        with self._lock:
            self._forget_idle()
            self._tasks[task.token] = task
        return task

    def get(self, token: str) -> Task | None:
        """Find a task by its token."""
        with self._lock:
            task = self._tasks.get(token)
            if task is not None:
                task.used_at = time.monotonic()
            return task

    def remove(self, token: str) -> bool:
        """Forget a task; False when it is not known."""
        with self._lock:
            task = self._tasks.pop(token, None)
        if task is not None:
            task.close()
        return task is not None

    def _forget_idle(self) -> None:
        oldest = time.monotonic() - self._idle_seconds
        for token in [token for token, task in self._tasks.items() if task.used_at < oldest]:
            self._tasks.pop(token).close()


def _unanswered(asked: _Asked) -> Incident:
    error = UpstreamError(ErrorKind.CONNECT_TIMEOUT, "has not answered yet", url=shown(asked.url))
    return Incident(
        kind=error.kind,
        index=asked.index.name,
        project=asked.project,
        url=error.url,
        step=asked.step,
        status=None,
        duration_seconds=round(time.monotonic() - asked.since, 3),
        attempts=1,
        message=advice.message(error, asked.index, asked.what),
    )


def _served(delivery: Delivery) -> Served:
    file = delivery.file
    return Served(
        filename=file.filename,
        project=delivery.project,
        version=file.version,
        is_wheel=file.is_wheel,
        index=delivery.place.upstream.name,
        sha256=file.sha256,
        size_bytes=delivery.size_bytes,
        yanked=file.yanked,
    )


def _wanted(file: IndexFile, *, metadata: bool) -> Wanted:
    if not metadata:
        digest = None if file.sha256 else file.other_digest
        return Wanted(file.url, file.sha256, file.size_bytes, filename=file.filename, other_digest=digest)
    return Wanted(_metadata_url(file.url), (file.metadata or {}).get("sha256"), None, is_metadata=True)


def _essentials(content: Content) -> bytes:
    """Read metadata, close it, and return what counts of it. Raises UpstreamError."""
    with closing(content):
        return essentials(b"".join(content.chunks(0, content.size_bytes)))


def _require_named(file: IndexFile, told: bytes) -> None:
    """Raise UpstreamError when an index gives metadata of another project or version than the file's name says.

    pip would pass over the file, and take an older one.
    """
    try:
        require_named(told, file.filename)
    except NotThisFile as error:
        reason = f"offers metadata of it that is not what its name says: {error}"
        raise UpstreamError(ErrorKind.BROKEN_WHEEL, reason, url=shown(_metadata_url(file.url))) from error


def _metadata_url(url: str) -> str:
    """Put ``.metadata`` behind the path (PEP 658), before a query."""
    path, mark, query = url.partition("?")
    return f"{path}.metadata{mark}{query}"


def _settled(future: "Future[Place | None]") -> bool:
    return future.done() and future.exception() is None


def _project(name: str, place: Place | None) -> Project:
    if place is None:
        return Project(name=name, index=None, versions={})
    view, status = place.view, place.view.status
    told = None if status is None else f"{status.marker}: {status.reason}" if status.reason else status.marker
    return Project(name=name, index=place.upstream.name, versions=view.versions, status=told)
