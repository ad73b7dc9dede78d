"""Schedules: manifests in Redis that are looked at again and again.

The Redis keys stand in ``scripts.lua``. A schedule holds its jobs as they were made when it was added, so whoever runs
it needs no file and no settings. Who loses Redis loses them: the manifests are the source.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import cast

from pydantic import TypeAdapter, ValidationError
from redis import Redis

from config.tracing import traceparent
from jobs.models import Batch, JobSpec, Schedule
from jobs.scripts import Scripts
from jobs.store import PREFIX, StatusStore, UnknownJob, entries_of, translated

_SPECS: TypeAdapter[tuple[JobSpec, ...]] = TypeAdapter(tuple[JobSpec, ...])
_FIELDS = ("packages", "interval_ms", "added_ms", "batch", "batch_ms", "skipped")


class Added(StrEnum):
    """What adding a schedule did."""

    ADDED = "added"
    REPLACED = "replaced"
    UNCHANGED = "unchanged"


class Ran(StrEnum):
    """What became of a schedule that was due."""

    QUEUED = "queued"
    SKIPPED = "skipped"
    """Its batch before is not finished."""
    NOT_DUE = "not due"
    """Somebody else was first, or it was replaced or removed meanwhile."""


@dataclass(frozen=True)
class Due:
    """A schedule whose time has come, as it was found."""

    name: str
    due_ms: int
    digest: str
    specs: tuple[JobSpec, ...]
    """Empty when they cannot be read: another version of this program wrote them."""

    @property
    def batch(self) -> str:
        """The id of the batch for this time: the same for every scheduler that finds it."""
        at = datetime.fromtimestamp(self.due_ms / 1000, UTC)
        own = hashlib.sha256(f"{self.name} {self.due_ms} {self.digest}".encode()).hexdigest()[:8]
        return f"b-{at:%Y%m%d-%H%M%S}-{own}"


class Schedules:
    """The schedules on one Redis. Every method raises ``StatusUnavailable`` when Redis does not answer."""

    def __init__(self, redis: Redis, *, prefix: str = PREFIX) -> None:
        self._redis = redis
        self._prefix = prefix
        self._run = Scripts(redis, prefix)

    def add(
        self,
        name: str,
        specs: Sequence[JobSpec],
        interval_seconds: float,
        *,
        first_in_seconds: float = 0,
        batch: str | None = None,
    ) -> Added:
        """Have ``specs`` run every ``interval_seconds``, for the first time in ``first_in_seconds``. Idempotent.

        A schedule of that name is replaced; one that is the same stays as it is, with its times. ``batch`` is one that
        was submitted with the same jobs and counts as the last run.
        """
        content = _SPECS.dump_json(tuple(specs), by_alias=True).decode()
        digest = hashlib.sha256(f"{interval_seconds} {content}".encode()).hexdigest()
        times = int(interval_seconds * 1000), digest, int(first_in_seconds * 1000)
        with translated():
            return Added(self._run("schedule_add", name, content, len(specs), *times, batch or ""))

    def remove(self, name: str) -> bool:
        """Forget a schedule; False when there is none. Its last batch goes on."""
        with translated():
            return bool(self._run("schedule_remove", name))

    def all(self) -> list[Schedule]:
        """Return all schedules, the one that is due next first."""
        with translated():
            due = cast(
                "list[tuple[str, float]]", self._redis.zrange(f"{self._prefix}:schedules", 0, -1, withscores=True)
            )
            with self._redis.pipeline(transaction=False) as pipe:
                for name, _ in due:
                    pipe.hmget(f"{self._prefix}:schedule:{name}", *_FIELDS)
                found = pipe.execute()
        return [
            self._schedule(name, next_ms, dict(zip(_FIELDS, values, strict=True)))
            for (name, next_ms), values in zip(due, found, strict=True)
            if values[0] is not None  # removed meanwhile
        ]

    def due(self, limit: int = 10) -> list[Due]:
        """Return the schedules whose time has come."""
        with translated():
            flat: list[str] = self._run("schedule_due", limit)
        return [
            Due(name, int(float(due_ms)), digest, _specs(specs))
            for name, due_ms, digest, specs in zip(flat[::4], flat[1::4], flat[2::4], flat[3::4], strict=True)
        ]

    def run(self, due: Due) -> Ran:
        """Queue the batch of a schedule that is due, once however many do so at the same time, and set its next time.

        One script does both, so nothing is lost or done twice whenever a scheduler dies.
        """
        entries = entries_of(due.batch, due.specs)
        with translated():
            said = self._run("schedule_run", due.name, due.due_ms, due.digest, due.batch, entries, traceparent())
        return Ran.NOT_DUE if said is None else Ran(said)

    def _schedule(self, name: str, next_ms: float, fields: dict[str, str | None]) -> Schedule:
        return Schedule(
            name=name,
            packages=int(fields["packages"] or 0),
            interval_seconds=int(fields["interval_ms"] or 0) / 1000,
            added_at=_time(fields["added_ms"] or 0),
            next_at=_time(next_ms),
            last=self._batch(fields["batch"]),
            last_at=_time(fields["batch_ms"]) if fields["batch_ms"] else None,
            skipped=int(fields["skipped"] or 0),
        )

    def _batch(self, batch: str | None) -> Batch | None:
        try:
            return StatusStore(self._redis, prefix=self._prefix).batch(batch, jobs=False) if batch else None
        except UnknownJob:
            return None


def _time(milliseconds: float | str) -> datetime:
    return datetime.fromtimestamp(float(milliseconds) / 1000, UTC)


def _specs(text: str) -> tuple[JobSpec, ...]:
    try:
        return _SPECS.validate_json(text)
    except ValidationError:
        return ()
