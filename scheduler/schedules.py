"""From manifests with ``refresh`` to schedules, and from schedules that are due to batches."""

import re
from collections.abc import Callable
from pathlib import Path

import structlog

from config.settings import Settings
from config.tracing import span
from jobs.models import Priority
from jobs.schedules import Added, Ran, Schedules
from scheduler.manifest import Asked, InvalidManifest
from scheduler.submit import specs_of

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

_log = structlog.get_logger()


def add_schedule(
    schedules: Schedules,
    name: str,
    asked: Asked,
    settings: Settings,
    *,
    priority: Priority = Priority.NORMAL,
    batch: str | None = None,
) -> Added:
    """Have what ``asked`` repeats run at its interval: at once and from then on, or next time if ``batch`` is a run.

    Its jobs are made with ``settings`` now. Idempotent; replaces a schedule of that name. Raises ``InvalidManifest``
    when the name is none or nothing is to be repeated, and ``StatusUnavailable``.
    """
    if not _NAME.fullmatch(name):
        raise InvalidManifest(
            [f"{name[:80]!r} is no name of a schedule: up to 64 letters, digits, dots, dashes and underscores"]
        )
    if asked.refresh_seconds is None:
        raise InvalidManifest(["there is no `refresh` in it, such as `refresh: 1h`: that is how often it is looked at"])
    specs = specs_of(asked.repeated, settings, priority)
    first_in_seconds = asked.refresh_seconds if batch else 0
    return schedules.add(name, specs, asked.refresh_seconds, first_in_seconds=first_in_seconds, batch=batch)


def name_for(file: Path) -> str:
    """Return the name that a schedule gets from its manifest's: what a name may not hold becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem).lstrip("._-")[:64] or "manifest"


def run_due(schedules: Schedules, queued: Callable[[str, str, int], None] = lambda _name, _batch, _jobs: None) -> None:
    """Queue a batch for each schedule that is due, and tell ``queued`` its name, the batch and how many jobs it has.

    Any number of schedulers may do so. Raises ``StatusUnavailable``.
    """
    for due in schedules.due():
        with span("schedule_run", {"vizfetch.batch": due.batch, "vizfetch.jobs": len(due.specs)}):
            ran = schedules.run(due)
        if not due.specs and ran is Ran.SKIPPED:
            _log.error("schedule_unreadable", schedule=due.name, reason="another version of vizfetch wrote it")
        elif ran is Ran.SKIPPED:
            _log.warning("schedule_skipped", schedule=due.name, reason="its batch before is not finished")
        elif ran is Ran.QUEUED:
            _log.info("schedule_run", schedule=due.name, batch=due.batch, jobs=len(due.specs))
            queued(due.name, due.batch, len(due.specs))
