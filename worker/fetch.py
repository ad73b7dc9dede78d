"""The way of one job on an agent: environment, download, judgement, check, publication."""

import errno
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial

import structlog
from packaging.requirements import Requirement

from bundles import errors as bundle_errors
from bundles.assemble import assemble
from bundles.models import Bundle, Origin
from bundles.proofs import Proofs
from bundles.publish import Publication, publish
from bundles.store import ObjectStore
from bundles.target import environment
from config.audit import Audit
from config.secrets import Masker, secret_values
from config.settings import Settings, Target
from config.tracing import span
from jobs.errors import ErrorKind
from jobs.logs import readable
from jobs.metrics import Meter
from jobs.models import JobSpec, Progress, PublishedBundle, Timings
from worker.ahead import checking_ahead
from worker.background import patiently
from worker.build import built_wheels, require_glibc
from worker.environment import TaskDirectory, task_directory
from worker.errors import Fenced, FetchError
from worker.gateway.client import GatewayClient, Session
from worker.gateway.errors import GatewayError, GatewayLate
from worker.gateway.record import Project, Record
from worker.gateway.revalidation import Seen
from worker.heartbeat import Heartbeat
from worker.installation import prove_installation
from worker.judge import bundle_failure, judge, passed_over
from worker.pip import DeadlineExceeded, Outcome, PinnedPip, build_arguments, choose_arguments, chosen, run, tail
from worker.pip_server import PipServer

_PROGRESS_EVERY_SECONDS = 1.0
_GATEWAY = "the index gateway: "
"""What is told in place of its address."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Agent:
    """What an agent's process holds for all its fetches."""

    settings: Settings
    store: ObjectStore
    gateway: GatewayClient
    pip: PinnedPip
    meter: Meter = field(default_factory=Meter)
    """Counts what the process does."""
    audit: Audit = field(default_factory=Audit)
    """Records what it does."""

    @cached_property
    def pip_server(self) -> PipServer:
        """What runs downloads; its process starts with the first one at the latest."""
        return PipServer(self.pip)

    @cached_property
    def masker(self) -> Masker:
        """Keeps the secrets of the settings out of what is told."""
        return Masker(secret_values(self.settings))

    @cached_property
    def proofs(self) -> Proofs:
        """What this agent's processes know of wheels that they have read."""
        return Proofs(self.settings.cache.directory / "checked")


@dataclass(frozen=True)
class Fetched:
    """What a fetch published, and what the indexes had told it."""

    bundle: PublishedBundle
    seen: Seen


class Steps:
    """Leads an attempt from step to step: shows each, times it, and ends the attempt between two when it must end."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self.said: tuple[str, ...] = ()
        """The last lines of pip, without secrets, once it has ended in whatever way."""
        self._seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Enter the step ``name``; raises ``Fenced`` or ``Stopping`` instead when the attempt has to end."""
        self.heartbeat.check()
        self.heartbeat.report(Progress(step=name))
        begin = time.monotonic()
        try:
            with span(name):
                yield
        finally:
            self._seconds[name] = round(time.monotonic() - begin, 3)

    def timings(self, queued_seconds: float) -> Timings:
        """Return how long each step took that was reached, also in an attempt that failed."""
        return Timings(queued=queued_seconds, **self._seconds)


def fetch(spec: JobSpec, agent: Agent, steps: Steps) -> Fetched:
    """Fetch ``spec.requirement`` with all it needs and publish the bundle.

    Knows neither Celery nor Redis. Repeating it is harmless: the same content is the same bundle.

    Raises ``FetchError`` when there is no bundle to be had, ``Fenced`` or ``Stopping`` when the attempt has to end.
    """
    _refuse_other_machines(spec.target)
    _refuse_nothing(spec)
    with _translated(), ExitStack() as cleanup:
        with steps.step("environment"):
            task = cleanup.enter_context(task_directory(agent.settings.temporary_directory, agent.pip))
        with steps.step("download"):
            outcome, record, seen = _download(spec, agent, task, steps)
        # Where a large wheel is read or a store says nothing, an attempt that has to end does not wait for it.
        with steps.step("check"):
            bundle = patiently(partial(_check, spec, agent, task, outcome, record), steps.heartbeat.check)
            if agent.settings.verify == "install":
                _prove(bundle, agent, task, steps.heartbeat)
        with steps.step("publish"):
            fenced = steps.heartbeat.fenced_or_stopping
            publication = patiently(
                partial(publish, agent.store, bundle, task.wheels, fenced=fenced), steps.heartbeat.check
            )
    if publication.replaced:
        _log.warning("objects_replaced", objects=publication.replaced)
    return Fetched(_summary(publication), seen)


def _refuse_other_machines(target: Target) -> None:
    """Raise ``FetchError`` when markers (PEP 508) would be evaluated for another environment than ``target``."""
    running, machine = f"{sys.version_info.major}.{sys.version_info.minor}", platform.machine()
    if target.python != running:
        raise FetchError(
            ErrorKind.PYTHON_INCOMPATIBLE,
            f"The job's target has Python {target.python}, but this agent runs {running} and can serve no other.",
        )
    if target.architecture != machine:
        raise FetchError(
            ErrorKind.NO_COMPATIBLE_WHEEL,
            f"The job's target is {target.architecture}, but this agent is {machine} and can serve no other.",
        )


def _refuse_nothing(spec: JobSpec) -> None:
    """Raise ``FetchError`` when the target does not need the requirement: pip would fetch nothing, and be content."""
    marker = Requirement(spec.requirement).marker
    if marker is not None and not marker.evaluate({**environment(spec.target), "extra": ""}):
        raise FetchError(
            ErrorKind.INVALID_REQUIREMENT,
            f"`{spec.requirement}` asks for nothing on the target: `{marker}` is not true of Python "
            f"{spec.target.python} on Linux, {spec.target.architecture}. Leave the part after the semicolon out.",
        )


def _download(spec: JobSpec, agent: Agent, task: TaskDirectory, steps: Steps) -> tuple[Outcome, Record, Seen]:
    # A build runs what strangers wrote: until it has ended, nothing is read that it could change afterwards.
    choosing = agent.settings.sdists == "never"
    with (
        agent.gateway.session(spec.target, spec.index, task.ahead if choosing else None) as session,
        checking_ahead((task.ahead, task.wheels), agent.proofs) if choosing else nullcontext(),
    ):
        # https://pip.pypa.io/en/stable/reference/requirements-file-format/: options stand on lines of their own.
        task.requirements.write_text(f"--index-url {session.index_url}\n{_line(spec)}\n", encoding="utf-8")
        arguments, run_pip = _command(spec, agent, task)
        deadline = time.monotonic() + agent.settings.fetch_timeout_seconds
        watch = _Watch(session, steps.heartbeat)
        try:
            outcome = run_pip(
                task.python,
                arguments,
                scratch=task.scratch,
                log=task.log,
                timeout_seconds=agent.settings.fetch_timeout_seconds,
                check=watch.look,
            )
        finally:
            steps.said = _said(task, session, agent.masker)
        if outcome.exit_code == 0 and choosing:
            _collect(session, task, deadline, watch.look)
        record, seen = session.record(), session.seen()
    judge(Requirement(spec.requirement), outcome, record)
    return outcome, record, seen


def _line(spec: JobSpec) -> str:
    """Return the requirement as pip reads it in a file: without its marker, which is true of the target.

    pip takes ` -` and ` #` within a marker's text for an option and a comment.
    """
    requirement = Requirement(spec.requirement)
    requirement.marker = None
    return str(requirement)


def _collect(session: Session, task: TaskDirectory, deadline: float, check: Callable[[], None]) -> None:
    """Have the gateway bring what pip chose; what an index did not deliver is in its record."""
    files = chosen(task.report, session.index_url)
    while not (state := session.collect(files, task.wheels)).done:
        check()
        if time.monotonic() > deadline:
            raise DeadlineExceeded
    if state.errno in {errno.ENOSPC, errno.EDQUOT}:
        raise OSError(state.errno, state.problem)
    if state.problem is not None:
        raise GatewayError(state.problem)


def _said(task: TaskDirectory, session: Session, masker: Masker) -> tuple[str, ...]:
    """Return pip's last lines for whoever wants to know; none when pip did not begin."""
    try:
        lines = readable(tail(task.log))
    except FileNotFoundError:
        return ()
    return tuple(masker(line.replace(session.index_url, _GATEWAY)) for line in lines)


def _command(spec: JobSpec, agent: Agent, task: TaskDirectory) -> tuple[list[str], Callable[..., Outcome]]:
    """Return pip's arguments and what runs it: a build runs what strangers wrote, in an interpreter of its own."""
    silence_seconds = agent.settings.fetch_timeout_seconds
    if agent.settings.sdists == "never":
        arguments = choose_arguments(spec.target, task.requirements, task.report, silence_seconds=silence_seconds)
        return arguments, agent.pip_server.run
    require_glibc(spec.target)
    return build_arguments(task.requirements, task.wheels, silence_seconds=silence_seconds), run


class _Watch:
    """What happens several times a second while pip runs."""

    def __init__(self, session: Session, heartbeat: Heartbeat) -> None:
        self._session = session
        self._heartbeat = heartbeat
        self._next = time.monotonic() + _PROGRESS_EVERY_SECONDS

    def look(self) -> None:
        self._heartbeat.check()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _PROGRESS_EVERY_SECONDS
            with suppress(GatewayLate):  # it is only shown
                seen = self._session.progress()
                self._heartbeat.report(Progress(step="download", wheels=seen.files, size_bytes=seen.size_bytes))


def _check(spec: JobSpec, agent: Agent, task: TaskDirectory, outcome: Outcome, record: Record) -> Bundle:
    bundle = assemble(
        Requirement(spec.requirement),
        task.wheels,
        spec.target,
        {**_origins(record), **built_wheels(task.wheels, record, spec.target)},
        require_specs=spec.require_specs,
        pip_version=agent.pip.version,
        proofs=agent.proofs,
    )
    chosen = {wheel.name for wheel in bundle.wheels}
    told = [warning for project in record.projects if project.name in chosen for warning in _status_warnings(project)]
    return bundle.model_copy(update={"warnings": (*told, *passed_over(outcome, chosen), *bundle.warnings)})


def _status_warnings(project: Project) -> Iterator[str]:
    """Say what the index says of a project, unless that is what holds of every other (PEP 792)."""
    if project.status and project.status.partition(":")[0] != "active":
        yield f"{project.index} says of {project.name}: {project.status}"


def _prove(bundle: Bundle, agent: Agent, task: TaskDirectory, heartbeat: Heartbeat) -> None:
    prove_installation(
        bundle,
        task,
        agent.settings.cache.directory / "installed",
        timeout_seconds=agent.settings.fetch_timeout_seconds,
        check=heartbeat.check,
    )


def _origins(record: Record) -> Mapping[str, Origin]:
    return {
        file.filename: Origin(filename=file.filename, index=file.index, sha256=file.sha256, yanked=file.yanked)
        for file in record.files
    }


def _summary(publication: Publication) -> PublishedBundle:
    bundle = publication.bundle
    return PublishedBundle(
        id=bundle.id,
        name=bundle.name,
        version=bundle.version,
        uri=publication.uri,
        wheels=tuple(wheel.filename for wheel in bundle.wheels),
        size_bytes=bundle.size_bytes,
        uploaded_bytes=publication.uploaded_bytes,
        visualizations=len(bundle.visualizations),
        created_at=bundle.created_at,
    )


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what the floors below and the machine raise into a kind of failure."""
    try:
        yield
    except bundle_errors.Fenced as error:
        raise Fenced from error
    except bundle_errors.BundleError as error:
        raise bundle_failure(error) from error
    except DeadlineExceeded as error:
        raise FetchError(
            ErrorKind.DEADLINE, "The download took longer than moderne.agent.visualization.fetchTimeout allows."
        ) from error
    except GatewayError as error:
        raise FetchError(
            ErrorKind.INTERNAL, f"The agent's index gateway failed during the download: {error}"
        ) from error
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise FetchError(
                ErrorKind.DISK_FULL, "The agent's disk is full: free space in temporaryDirectory and cache.directory."
            ) from error
        raise
