"""Batches and jobs page by page, for whoever shows them: each page is one question to Redis, however many there are."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from redis import Redis

from jobs.errors import ErrorKind
from jobs.models import Document, Job, JobState
from jobs.scripts import Scripts
from jobs.store import UnknownJob, job_of, translated


class Sort(StrEnum):
    """What the jobs of a batch can be sorted by; among equals, in the order of submission."""

    SUBMITTED = "submitted"
    REQUIREMENT = "requirement"
    STATE = "state"
    UPDATED = "updated"


@dataclass(frozen=True)
class JobFilter:
    """Which jobs of a batch are wanted; what is None or empty does not count."""

    state: JobState | None = None
    kind: ErrorKind | None = None
    """Of the last attempt's error."""
    index: str | None = None
    """That the last attempt's error names."""
    text: str = ""
    """A part of the requirement, in upper or lower case."""


class BatchSummary(Document):
    """A batch without its jobs."""

    id: str
    schedule: str | None = None
    """Which schedule made it, if one did."""
    created_at: datetime
    counts: dict[JobState, int]
    unchanged: int = 0
    """How many of those published were published before, and nothing that they were made from has changed."""
    total: int
    finished: bool


@dataclass(frozen=True)
class Listed:
    """A job, and the place after it."""

    job: Job
    after: tuple[str | int, int]


@dataclass(frozen=True)
class FailureGroup:
    """The failures of a batch of one kind, with one index to blame or none."""

    kind: ErrorKind
    index: str | None
    message: str
    """Of one of them."""
    jobs: tuple[str, ...]


class Listing:
    """Reads pages from one Redis. Thread-safe; not to be carried over a fork.

    Every method raises ``StatusUnavailable`` when Redis does not answer.
    """

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._run = Scripts(redis, prefix, "listing.lua")

    def batches(self, limit: int, after: tuple[int, str] | None = None) -> list[BatchSummary]:
        """Return the next batches, newest first, after the one made at (milliseconds, id)."""
        with translated():
            flat = self._run("batches", limit, *(("", "") if after is None else after))
        return [_summary(batch, _fields(fields)) for batch, fields in zip(flat[::2], flat[1::2], strict=True)]

    def batch(self, batch: str) -> BatchSummary:
        """Return one batch; ``UnknownJob`` when there is none of this id."""
        with translated():
            fields: Any = self._redis.hgetall(f"{self._prefix}:batch:{batch}")
        if not fields:
            raise UnknownJob(batch)
        return _summary(batch, fields)

    def jobs(
        self,
        batch: str,
        limit: int,
        wanted: JobFilter | None = None,
        *,
        sort: Sort = Sort.SUBMITTED,
        descending: bool = False,
        after: tuple[str | int, int] | None = None,
    ) -> list[Listed]:
        """Return the next jobs of a batch after the place of one listed before.

        ``UnknownJob`` when there is no such batch. What changes between two pages may be missed or come twice where it
        moved; nothing else is.
        """
        which = wanted or JobFilter()
        filters = [which.state or "", which.kind or "", which.index or "", which.text.lower()]
        place = "" if after is None else json.dumps(after)
        with translated():
            flat = self._run("jobs", batch, limit, *filters, sort, int(descending), place)
        if flat is None:
            raise UnknownJob(batch)
        rows = zip(flat[::3], flat[1::3], flat[2::3], strict=True)
        return [Listed(job_of(job, _fields(fields)), _place(after)) for after, job, fields in rows]

    def failures(self, batch: str) -> list[FailureGroup]:
        """Return the failures of a batch by kind and index, the most frequent first; ``UnknownJob`` as above."""
        with translated():
            flat = self._run("failures", batch)
        if flat is None:
            raise UnknownJob(batch)
        groups: dict[tuple[str, str | None], tuple[str, list[str]]] = {}
        for text, job in sorted(zip(flat[::2], flat[1::2], strict=True), key=lambda pair: str(pair[1])):
            error = json.loads(text)
            groups.setdefault((error["kind"], error["index"]), (error["message"], []))[1].append(job)
        found = [
            FailureGroup(ErrorKind(kind), index, message, tuple(jobs))
            for (kind, index), (message, jobs) in groups.items()
        ]
        return sorted(found, key=lambda group: (-len(group.jobs), group.kind, group.index or ""))


def _fields(flat: Sequence[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _place(text: str) -> tuple[str | int, int]:
    value, position = json.loads(text)
    return value, position


def _summary(batch: str, fields: dict[str, str]) -> BatchSummary:
    counts = {state: int(fields.get(state, 0)) for state in JobState}
    return BatchSummary(
        id=batch,
        schedule=fields.get("schedule"),
        unchanged=int(fields.get("unchanged", 0)),
        created_at=datetime.fromtimestamp(int(fields["created_ms"]) / 1000, tz=UTC),
        counts=counts,
        total=sum(counts.values()),
        finished=not any(count for state, count in counts.items() if not state.final),
    )
