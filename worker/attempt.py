"""One attempt from claim to end: whatever happens in between, the job's state says it."""

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import structlog

from config.audit import service
from config.settings import RetrySettings, Settings
from config.tracing import Span, span
from jobs.errors import ErrorKind
from jobs.models import Claim, FetchMessage, JobError, PublishedBundle, Timings
from jobs.queue import queue_for, queues_of
from jobs.store import StatusStore, StatusUnavailable, UnreadableJob
from worker.errors import Fenced, FetchError, Stopping
from worker.fetch import Agent, Fetched, Steps, fetch
from worker.heartbeat import LeaseKeeper
from worker.measures import count_attempt
from worker.memory import Recollections

_ASK_AGAIN_SECONDS = 0.5
_MAX_SPREAD_SECONDS = 30.0
_T = TypeVar("_T")

_log = structlog.get_logger()


@dataclass(frozen=True)
class Lines:
    """The ways of one process to Redis; leases are kept over a line of their own, which nothing else can hold up."""

    status: StatusStore
    leases: LeaseKeeper
    recollections: Recollections


def run_attempt(message: FetchMessage, agent: Agent, lines: Lines, *, stopping: Callable[[], bool]) -> None:
    """Claim the attempt that ``message`` hints at, run it, and record how it ended.

    A message that came twice or too late ends here in silence. What a fetch can run into is never raised: an error of
    which nothing was known is recorded as ``internal``.
    """
    settings = agent.settings
    try:
        claimed = _claimed(message, settings, lines, stopping)
    except UnreadableJob as error:
        _log.error("job_unreadable", job=message.job, reason=str(error))
        return
    if claimed is None:
        _log.debug("message_dropped", job=message.job, attempt=message.attempt)
        return
    claim, queued_seconds = claimed
    about: dict[str, str | int] = {"job": claim.job, "batch": claim.batch, "attempt": claim.attempt}
    values = {f"vizfetch.{name}": value for name, value in about.items()}
    with structlog.contextvars.bound_contextvars(**about), span("attempt", values) as traced:
        traced.set({"vizfetch.requirement": claim.spec.requirement})
        if queue_for(claim.spec) not in queues_of(settings.target, settings.indexes):
            _log.error("job_not_for_this_agent", requirement=claim.spec.requirement, index=claim.spec.index)
            _until_answered(lambda: lines.status.release(claim), stopping)
            return
        _log.info("attempt_started", requirement=claim.spec.requirement)
        record = _recorder(claim, agent)
        record("started")
        with lines.leases.keep(claim, stopping=stopping) as heartbeat:
            attempt = _Attempt(claim, queued_seconds, agent, lines, Steps(heartbeat))
            end = attempt.run()
            # Still under the heartbeat: the lease must not run out while Redis cannot be told the result.
            recorded = _until_answered(end.record, stopping)
            if recorded is False:
                _log.warning("attempt_fenced")
        outcome = {True: end.outcome, False: "fenced", None: "unrecorded"}[recorded]
        record(outcome, kind=end.kind or None, bundle=end.bundle and end.bundle.id)
        count_attempt(agent.meter, outcome, end.kind, attempt.timings(), end.bundle)
        _trace(traced, outcome, end)


def _claimed(
    message: FetchMessage, settings: Settings, lines: Lines, stopping: Callable[[], bool]
) -> tuple[Claim, float] | None:
    """Claim the attempt, however often it takes until Redis answers: a claim that was made must not be forgotten.

    Its lease would run out, and the attempt would count although nothing was tried.
    """
    claimant = secrets.token_hex(8)

    def claim() -> tuple[Claim, float] | None:
        return lines.status.claim(
            message.job, message.attempt, settings.nickname, settings.lease_seconds, claimant=claimant
        )

    return _until_answered(claim, stopping)


def _recorder(claim: Claim, agent: Agent) -> Callable[..., None]:
    """Return what writes the audit record of this attempt."""
    actor = service(agent.settings, "agent")

    def record(outcome: str, **what: object) -> None:
        about = {"batch": claim.batch, "job": claim.job, "attempt": claim.attempt}
        agent.audit.record(actor, "fetch", outcome, **about, requirement=claim.spec.requirement, **what)

    return record


@dataclass(frozen=True)
class _End:
    """How an attempt ended: in a word, and the call that records it, which is False when the attempt was fenced."""

    outcome: str
    record: Callable[[], bool]
    kind: str = ""
    bundle: PublishedBundle | None = None


def _trace(traced: Span, outcome: str, end: _End) -> None:
    traced.set({"vizfetch.outcome": outcome, "vizfetch.bundle": end.bundle.id if end.bundle else None})
    if end.kind:
        traced.fail(end.kind)


@dataclass(frozen=True)
class _Attempt:
    claim: Claim
    queued_seconds: float
    agent: Agent
    lines: Lines
    steps: Steps

    @property
    def status(self) -> StatusStore:
        return self.lines.status

    def run(self) -> _End:
        """Run the fetch; what becomes of it is still to be recorded."""
        try:
            known = self.lines.recollections.recall(self.claim.spec, self.steps.heartbeat.check)
            if known is not None:
                _log.info("attempt_unchanged", bundle=known.id, uri=known.uri)
                return _End(
                    "unchanged",
                    lambda: self.status.finish_unchanged(self.claim, known, self.timings()),
                    bundle=known,
                )
            fetched = fetch(self.claim.spec, self.agent, self.steps)
        except Fenced:
            return _End("fenced", lambda: False)
        except Stopping:
            _log.info("attempt_released")
            return _End("released", lambda: self.status.release(self.claim))
        except FetchError as error:
            return self._failure(error)
        except Exception:  # noqa: BLE001 - nothing may escape without the job's state saying so; the log has the rest
            _log.exception("attempt_broke")
            return self._failure(FetchError(ErrorKind.INTERNAL, "An unknown error; the agent's log has the details."))
        return self._published(fetched)

    def _published(self, fetched: Fetched) -> _End:
        bundle = fetched.bundle
        _log.info("attempt_published", bundle=bundle.id, uri=bundle.uri, uploaded_bytes=bundle.uploaded_bytes)

        def record() -> bool:
            done = self.status.finish_published(self.claim, bundle, self.timings(), self.steps.said)
            self.lines.recollections.remember(self.claim.spec, fetched)
            return done

        return _End("published", record, bundle=bundle)

    def _failure(self, error: FetchError) -> _End:
        kind = error.kind
        told = JobError(kind=kind, retryable=kind.retryable, index=error.index, message=error.message)
        if not error.tried and kind.retryable:
            return self._postponed(error, told)
        if not self._worth_another(kind):
            _log.error("job_failed", kind=kind, message=error.message)
            return _End(
                "failed", lambda: self.status.finish_failed(self.claim, told, self.timings(), self.steps.said), kind
            )
        backoff = backoff_seconds(self.agent.settings.retry, self.claim.tries)
        delay_seconds = max(backoff, error.again_in_seconds or 0)
        _log.warning("attempt_failed", kind=kind, message=error.message, retry_in_seconds=round(delay_seconds, 1))
        return _End(
            "retried",
            lambda: self.status.finish_for_retry(self.claim, told, self.timings(), delay_seconds, self.steps.said),
            kind,
        )

    def _postponed(self, error: FetchError, told: JobError) -> _End:
        """Come back when the index may be asked again; spread, since all who wait would come at once."""
        delay_seconds = spread(error.again_in_seconds or 0)
        _log.warning("attempt_postponed", kind=error.kind, message=error.message, seconds=round(delay_seconds, 1))
        return _End(
            "postponed", lambda: self.status.postpone(self.claim, told, delay_seconds, self.steps.said), error.kind
        )

    def _worth_another(self, kind: ErrorKind) -> bool:
        allowed = self.claim.spec.max_attempts
        return kind.retryable and self.claim.tries < min(allowed, kind.attempts or allowed)

    def timings(self) -> Timings:
        """Return how long the steps took so far."""
        return self.steps.timings(self.queued_seconds)


def backoff_seconds(retry: RetrySettings, tries: int) -> float:
    """Return how long to wait after ``tries`` failures: full jitter up to a bound that doubles each time."""
    bound = min(retry.max_backoff_seconds, retry.min_backoff_seconds * 2**tries)
    return random.uniform(retry.min_backoff_seconds, max(bound, retry.min_backoff_seconds))  # noqa: S311


def _until_answered(ask: Callable[[], _T], stopping: Callable[[], bool]) -> _T | None:
    """Call ``ask`` until Redis answers: a result is not thrown away because a connection was lost.

    None from a worker that stops before: it does not wait, the lease runs out, and the attempt is run again elsewhere.
    """
    while True:
        try:
            return ask()
        except StatusUnavailable as error:
            _log.warning("status_unavailable", reason=str(error))
            if stopping():
                return None
            time.sleep(_ASK_AGAIN_SECONDS)


def spread(wait_seconds: float) -> float:
    """Return a time a little longer than ``wait_seconds``: all who were told to wait would come in the same instant."""
    return wait_seconds + random.uniform(0, min(wait_seconds, _MAX_SPREAD_SECONDS))  # noqa: S311 - spreads load, guards nothing
