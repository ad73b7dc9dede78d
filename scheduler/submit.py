"""From what users ask for to jobs in the queue."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from config.settings import Settings
from jobs.models import JobSpec
from jobs.store import StatusStore
from scheduler.manifest import Entry


def submit(store: StatusStore, entries: Sequence[Entry], settings: Settings, *, batch: str | None = None) -> str:
    """Queue a job for each of ``entries`` and return the batch's id.

    All or none. Submitting again under the same ``batch`` adds only what was not there. Raises ``StatusUnavailable``.
    """
    name = batch or new_batch_id()
    specs = {spec.id(name): spec for spec in (_spec(entry, settings) for entry in entries)}
    store.enqueue(name, list(specs.values()))
    return name


def new_batch_id() -> str:
    """Return a fresh batch id: sorts by time, and is easy to say."""
    return f"b-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _spec(entry: Entry, settings: Settings) -> JobSpec:
    return JobSpec(
        requirement=str(entry.requirement),
        target=settings.target,
        index=entry.index,
        require_specs=settings.require_specs if entry.require_specs is None else entry.require_specs,
        max_attempts=settings.retry.max_attempts,
    )
