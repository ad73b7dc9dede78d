"""From what users ask for to jobs in the queue."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from config.settings import Settings, Target
from config.tracing import span
from jobs.models import JobSpec, Priority
from jobs.store import StatusStore
from scheduler.manifest import Entry

_ORDER = list(Priority)


def submit(
    store: StatusStore,
    entries: Sequence[Entry],
    settings: Settings,
    *,
    batch: str | None = None,
    priority: Priority = Priority.NORMAL,
    anew: bool = False,
) -> str:
    """Queue a job for each of ``entries`` and return the batch's id.

    All or none. Submitting again under the same ``batch`` adds only what was not there. With ``anew``, also what was
    published before and has not changed is fetched. Raises ``StatusUnavailable``.
    """
    name = batch or new_batch_id()
    specs = specs_of(entries, settings, priority, anew=anew)
    with span("submit", {"vizfetch.batch": name, "vizfetch.jobs": len(specs)}):
        store.enqueue(name, specs)
    return name


def specs_of(
    entries: Sequence[Entry], settings: Settings, priority: Priority = Priority.NORMAL, *, anew: bool = False
) -> list[JobSpec]:
    """Return the jobs that ``entries`` ask for.

    Those that ask for the same are one job, of the highest priority that one of them has; ``priority`` is for those
    that have none.
    """
    specs: dict[str, JobSpec] = {}
    for spec in (_spec(entry, settings, priority, anew=anew) for entry in entries):
        known = specs.setdefault(spec.id(""), spec)
        if _ORDER.index(spec.priority) < _ORDER.index(known.priority):
            specs[spec.id("")] = spec
    return list(specs.values())


def new_batch_id() -> str:
    """Return a fresh batch id: sorts by time, and is easy to say."""
    return f"b-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _spec(entry: Entry, settings: Settings, priority: Priority, *, anew: bool) -> JobSpec:
    return JobSpec(
        requirement=str(entry.requirement),
        target=Target.model_validate({**settings.target.model_dump(), **entry.target}),
        index=entry.index,
        index_url=next((index.url for index in settings.indexes if index.name == entry.index), None),
        require_specs=settings.require_specs if entry.require_specs is None else entry.require_specs,
        max_attempts=settings.retry.max_attempts,
        priority=entry.priority or priority,
        anew=anew,
    )
