"""The status store: the truth about every job, in Redis.

What can be asked of a job's life is a method here; each that changes something is one script of ``scripts.lua``.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from config.settings import Target
from config.tracing import span, traceparent
from jobs.connection import said
from jobs.errors import ErrorKind
from jobs.logs import JobLog, log_of, pack
from jobs.models import (
    Batch,
    CatalogEntry,
    Claim,
    Job,
    JobError,
    JobSpec,
    JobState,
    Priority,
    Progress,
    PublishedBundle,
    Timings,
)
from jobs.scripts import Scripts

HISTORY_SECONDS = 30 * 24 * 3600
PREFIX = "vizfetch"

_REAP_AT_ONCE = 100
_UNREADABLE_SECONDS = 5.0
"""Until somebody else may try to read a job."""
_READ_AT_ONCE = 1000
_CHANGED_AT_ONCE = 1000


class StatusUnavailable(Exception):
    """Redis cannot be reached or refuses; what was asked may or may not have happened.

    Asking again is harmless: every script is idempotent or refuses the second time.
    """


class UnknownJob(KeyError):
    """No job or batch has this id, or its history has expired, or Redis has lost it: then ``lost_at`` says when."""

    lost_at: datetime | None = None


class UnreadableJob(Exception):
    """A job was submitted by a version of this program that says more than this one understands."""

    def __init__(self, job: str) -> None:
        super().__init__(
            f"Waits for a newer version of vizfetch: {job} was submitted by one, and this one cannot read it. "
            "Update the schedulers and the agents."
        )
        self.job = job


@dataclass(frozen=True)
class Order:
    """A job as whoever hands it to an agent has to know it."""

    job: str
    text: str
    waiting: str | None
    """Why no agent could have it, if somebody noted that before."""
    traceparent: str | None
    """By what the trace of whoever queued it is continued, if he sends one."""

    @property
    def spec(self) -> JobSpec:
        """What is to be fetched. Raises ``UnreadableJob``."""
        return _spec_of(self.job, self.text)


@contextmanager
def translated() -> Iterator[None]:
    """Turn what redis-py raises into ``StatusUnavailable``."""
    try:
        yield
    except RedisError as error:
        raise StatusUnavailable(f"Redis: {said(error)}") from error
    except UnicodeDecodeError as error:
        raise StatusUnavailable("Redis: a value under this prefix is not text, so it is not of vizfetch.") from error


class StatusStore:
    """Reads and changes the jobs on one Redis. Thread-safe; not to be carried over a fork.

    Every method raises ``StatusUnavailable`` when Redis does not answer.
    """

    def __init__(self, redis: Redis, *, prefix: str = PREFIX, history_seconds: float = HISTORY_SECONDS) -> None:
        self._redis = redis
        self._prefix = prefix
        self._run = Scripts(redis, prefix)
        self._history_ms = int(history_seconds * 1000)

    # The control side.

    def enqueue(self, batch: str, specs: Sequence[JobSpec]) -> int:
        """Add ``specs`` to ``batch`` as queued jobs, all or none, and return how many were new. Idempotent."""
        with translated():
            return int(self._run("enqueue", batch, entries_of(batch, specs), traceparent()))

    def take_due(self, limit: int, again_seconds: float, priority: Priority = Priority.NORMAL) -> list[tuple[str, int]]:
        """Return (job id, attempt) of up to ``limit`` jobs of a priority for which a message is to be published now.

        Batches take turns, so that a large one holds up nobody. Whoever takes them publishes them. One that is still
        queued after ``again_seconds`` is due again.
        """
        with translated():
            flat: list[str] = self._run("take", priority, limit, int(again_seconds * 1000))
        return [(job, int(attempt)) for job, attempt in _pairs(flat)]

    def defer(self, job: str, attempt: int, delay_seconds: float) -> bool:
        """Have a job that was taken come up again sooner, since no message was published; False when it moved on."""
        with translated():
            return bool(self._run("defer", job, attempt, int(delay_seconds * 1000)))

    def await_due(self, seconds: float) -> bool:
        """Wait up to ``seconds`` for a job that is due at once, and tell whether one came.

        Of several who wait, one is told. ``seconds`` are fewer than the client waits for any answer,
        or this raises as if Redis were away.
        """
        with translated():
            return self._redis.blpop([f"{self._prefix}:bell"], timeout=seconds) is not None

    def reap(self) -> list[tuple[str, JobState]]:
        """End the leases that ran out and return (job id, its new state). Idempotent.

        Each such job goes back to the queue, or fails as ``worker_lost`` after its last try.
        """
        error = JobError(
            kind=ErrorKind.WORKER_LOST,
            retryable=True,
            message="The worker of this attempt stopped renewing its lease: it was killed, froze, or lost Redis.",
        )
        with translated():
            flat: list[str] = self._run("reap", _REAP_AT_ONCE, error.as_json(), self._history_ms)
        return [(job, JobState(state)) for job, state in _pairs(flat)]

    def cancel(self, jobs: Sequence[str]) -> list[str]:
        """Cancel the queued and running ones of ``jobs``, which are of one batch, and return those.

        A running one stops at its next renewal.
        """
        error = JobError(kind=ErrorKind.CANCELLED, retryable=False, message="Cancelled on request.")
        return self._change("cancel", jobs, error.as_json(), self._history_ms)

    def retry(self, jobs: Sequence[str]) -> list[str]:
        """Queue the failed and cancelled ones of ``jobs`` again, with all their tries, and return those.

        They are of one batch.
        """
        with span("retry", {"vizfetch.jobs": len(jobs)}):
            return self._change("retry", jobs, traceparent())

    def _change(self, script: str, jobs: Sequence[str], *arguments: str | int) -> list[str]:
        changed: list[str] = []
        for start in range(0, len(jobs), _CHANGED_AT_ONCE):
            with translated():
                changed += self._run(script, json.dumps(jobs[start : start + _CHANGED_AT_ONCE]), *arguments)
        return changed

    def orders(self, jobs: Sequence[str]) -> Mapping[str, Order]:
        """Return of each job that exists what is to be known to hand it to an agent, in one round trip."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.hmget(f"{self._prefix}:job:{job}", "spec", "waiting", "traceparent")
            found = zip(jobs, pipe.execute(), strict=True)
        return {job: Order(job, text, waiting, trace) for job, (text, waiting, trace) in found if text is not None}

    def note(self, job: str, waiting: str) -> None:
        """Say why a queued job is not given to any agent; the empty text says that it is. Idempotent."""
        with translated():
            self._run("note", job, waiting)

    # The agent side.

    def claim(
        self, job: str, attempt: int, worker: str, lease_seconds: float, *, claimant: str | None = None
    ) -> tuple[Claim, float] | None:
        """Take the lease on an attempt and return it with the seconds it was in the queue.

        None when it is not to be had: the ordinary answer to a message that came twice or too late. ``claimant`` is
        random: whoever asks again under the same one, since no answer came, is given what is already his.
        Raises ``UnreadableJob``, and leaves the job to others; the attempt is not counted.
        """
        own = claimant or secrets.token_hex(8)
        with translated():
            found = self._run("claim", job, attempt, worker, int(lease_seconds * 1000), own)
        if found is None:
            return None
        batch, text, tries, queued_ms = found
        try:
            spec = _spec_of(job, text)
        except UnreadableJob as unreadable:
            error = JobError(kind=ErrorKind.INTERNAL, retryable=True, message=str(unreadable))
            with translated():
                self._run("postpone", job, attempt, error.as_json(), int(_UNREADABLE_SECONDS * 1000))
            raise
        return Claim(job=job, batch=batch, attempt=attempt, tries=int(tries), spec=spec), queued_ms / 1000

    def renew(self, claim: Claim, lease_seconds: float, progress: Progress | None = None) -> bool:
        """Extend the lease and show ``progress``; False means fenced: the attempt belongs to nobody or to another."""
        shown = progress.as_json() if progress else ""
        with translated():
            return bool(self._run("renew", claim.job, claim.attempt, int(lease_seconds * 1000), shown))

    # Ends of an attempt keep the end of ``log``, which is what pip said, for ``log()``.

    def finish_published(
        self, claim: Claim, bundle: PublishedBundle, timings: Timings, log: Sequence[str] = ()
    ) -> bool:
        """Record success; False means fenced: the bundle is in the store and the catalogue, but not by this attempt."""
        entry = _catalog_entry(bundle, claim.spec.target)
        return self._finish(claim, JobState.PUBLISHED, "", bundle.as_json(), timings.as_json(), log=log, entry=entry)

    def finish_unchanged(self, claim: Claim, bundle: PublishedBundle, timings: Timings) -> bool:
        """Record success with a bundle that is in the store and the catalogue already; False means fenced."""
        return self._finish(claim, JobState.PUBLISHED, "", bundle.as_json(), timings.as_json(), unchanged=True)

    def finish_failed(self, claim: Claim, error: JobError, timings: Timings, log: Sequence[str] = ()) -> bool:
        """Record a failure that no further attempt follows; False means fenced, and nothing changed."""
        return self._finish(claim, JobState.FAILED, error.as_json(), "", timings.as_json(), log=log)

    def finish_for_retry(
        self, claim: Claim, error: JobError, timings: Timings, delay_seconds: float, log: Sequence[str] = ()
    ) -> bool:
        """Record a failure and queue the next attempt in ``delay_seconds``; False means fenced."""
        results = (error.as_json(), "", timings.as_json())
        return self._finish(claim, JobState.QUEUED, *results, delay_seconds=delay_seconds, log=log)

    def release(self, claim: Claim) -> bool:
        """Give an attempt back that is not to be counted, since its worker stops; False means fenced."""
        with translated():
            return bool(self._run("release", claim.job, claim.attempt))

    def postpone(self, claim: Claim, error: JobError, delay_seconds: float, log: Sequence[str] = ()) -> bool:
        """Give an attempt back that could not be made, and queue the next in ``delay_seconds``; False means fenced.

        It is not counted: nothing was tried.
        """
        told = (error.as_json(), int(delay_seconds * 1000), pack(log))
        with translated():
            return bool(self._run("postpone", claim.job, claim.attempt, *told))

    def _finish(
        self,
        claim: Claim,
        state: JobState,
        *results: str,
        delay_seconds: float = 0,
        unchanged: bool = False,
        log: Sequence[str] = (),
        entry: CatalogEntry | None = None,
    ) -> bool:
        numbers = (int(delay_seconds * 1000), self._history_ms, int(unchanged))
        listed = (entry.key, entry.as_json()) if entry else ()
        with translated():
            return bool(self._run("finish", claim.job, claim.attempt, state, *results, *numbers, pack(log), *listed))

    # Everybody who asks.

    def ping(self) -> None:
        """Raise ``StatusUnavailable`` unless Redis answers."""
        with translated():
            self._redis.ping()

    def job(self, job: str) -> Job:
        """Return a job; ``UnknownJob`` when there is none of this id."""
        found = self._jobs([job])
        if not found:
            raise UnknownJob(job)
        return found[0]

    def jobs(self, jobs: Sequence[str]) -> list[Job]:
        """Return those jobs that there are."""
        return self._jobs(jobs)

    def log(self, job: str) -> JobLog:
        """Return what pip said in the last attempts of a job; ``UnknownJob`` when there is none of this id."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"{self._prefix}:job:{job}")
            pipe.hgetall(f"{self._prefix}:log:{job}")
            fields, packed = pipe.execute()
        if not fields:
            raise UnknownJob(job)
        return log_of(job, fields, packed)

    def batch(self, batch: str, *, jobs: bool = True) -> Batch:
        """Return a batch, with its jobs in the order of submission unless ``jobs`` is False."""
        with translated():
            found = cast("dict[str, str]", self._redis.hgetall(f"{self._prefix}:batch:{batch}"))
        if not found:
            raise UnknownJob(batch)
        counts = {state: int(found.get(state, 0)) for state in JobState}
        return Batch(
            id=batch,
            schedule=found.get("schedule"),
            counts=counts,
            unchanged=int(found.get("unchanged", 0)),
            jobs=tuple(self._jobs(self.members(batch))) if jobs else (),
        )

    def members(self, batch: str) -> list[str]:
        """Return the ids of a batch's jobs in the order of submission."""
        with translated():
            return cast("list[str]", self._redis.lrange(f"{self._prefix}:batch:{batch}:jobs", 0, -1))

    def jobs_in(self, batch: str, state: Literal[JobState.RUNNING, JobState.FAILED], limit: int = 0) -> list[Job]:
        """Return the jobs of a batch that run or have failed, at most ``limit`` of them unless that is 0.

        Costs what there is of them, however large the batch. In the order of their ids, which is none, but stays.
        """
        with translated():
            ids = sorted(cast("set[str]", self._redis.smembers(f"{self._prefix}:batch:{batch}:{state}")))
        return self._jobs(ids[:limit] if limit else ids)

    def batches(self, limit: int = 20) -> list[Batch]:
        """Return the newest batches without their jobs, newest first."""
        with translated():
            ids = cast("list[str]", self._redis.zrevrange(f"{self._prefix}:batches", 0, limit - 1))
        return [batch for batch in map(self._batch_or_none, ids) if batch]

    def unfinished(self) -> tuple[int, int]:
        """Return how many jobs are queued and how many are running."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.get(f"{self._prefix}:queued")
            pipe.zcard(f"{self._prefix}:leases")
            queued, running = pipe.execute()
        return int(queued or 0), int(running)

    def _batch_or_none(self, batch: str) -> Batch | None:
        try:
            return self.batch(batch, jobs=False)
        except UnknownJob:  # its history has expired, and with this its place in the list
            with translated():
                self._redis.zrem(f"{self._prefix}:batches", batch)
            return None

    def _jobs(self, ids: Sequence[str]) -> list[Job]:
        found: list[dict[str, str]] = []
        for start in range(0, len(ids), _READ_AT_ONCE):
            with translated(), self._redis.pipeline(transaction=False) as pipe:
                for job in ids[start : start + _READ_AT_ONCE]:
                    pipe.hgetall(f"{self._prefix}:job:{job}")
                found.extend(pipe.execute())
        # A job may have expired a moment before the batch that lists it.
        return [job_of(job, fields) for job, fields in zip(ids, found, strict=True) if fields]


def _catalog_entry(bundle: PublishedBundle, target: Target) -> CatalogEntry:
    return CatalogEntry(
        id=bundle.id,
        name=bundle.name,
        version=bundle.version,
        target=target,
        uri=bundle.uri,
        wheels=len(bundle.wheels),
        size_bytes=bundle.size_bytes,
        visualizations=bundle.visualizations,
        created_at=bundle.created_at or datetime.now(UTC),
    )


def entries_of(batch: str, specs: Sequence[JobSpec]) -> str:
    """Return jobs as the scripts take them."""
    return json.dumps([[spec.id(batch), spec.priority, spec.as_json()] for spec in specs])


def _spec_of(job: str, text: str) -> JobSpec:
    try:
        return JobSpec.model_validate_json(text)
    except ValidationError as error:
        raise UnreadableJob(job) from error


def _pairs(flat: Sequence[str]) -> Iterator[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)


def job_of(job: str, fields: Mapping[str, str]) -> Job:
    """Return a job from the fields of its hash."""
    # Not as a JobSpec: of ten thousand jobs, two fields of each are wanted, and they were checked when they came in.
    spec = json.loads(fields["spec"])
    documents: dict[str, Any] = {
        name: model.model_validate_json(fields[name])
        for name, model in (
            ("error", JobError),
            ("bundle", PublishedBundle),
            ("timings", Timings),
            ("progress", Progress),
        )
        if name in fields
    }
    return Job(
        id=job,
        batch=fields["batch"],
        requirement=spec["requirement"],
        state=JobState(fields["state"]),
        attempt=int(fields["attempt"]),
        max_attempts=spec["maxAttempts"],
        worker=fields.get("worker"),
        waiting=fields.get("waiting") if fields["state"] == JobState.QUEUED else None,
        updated_at=datetime.fromtimestamp(int(fields["updated_ms"]) / 1000, tz=UTC),
        **documents,
    )
