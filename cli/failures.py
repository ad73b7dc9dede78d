"""The failures of a batch by their reasons, and which of them are worth a retry."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cli.output import console, print_table
from jobs.errors import ErrorKind
from jobs.models import Batch, Job

_SHOWN_PACKAGES = 5


@dataclass(frozen=True)
class Failures:
    """The jobs that failed with one kind of error, with one index to blame or none."""

    kind: ErrorKind
    index: str | None
    jobs: tuple[Job, ...]

    @property
    def worth_retry(self) -> bool:
        """Whether ``retry`` may help without anybody changing anything."""
        return self.kind.retryable

    def as_document(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "kind": self.kind,
            "index": self.index,
            "worthRetry": self.worth_retry,
            "count": len(self.jobs),
            "message": _message(self.jobs[0]),
            "jobs": [job.id for job in self.jobs],
        }


def grouped(jobs: Iterable[Job]) -> list[Failures]:
    """Return the failures among ``jobs`` by kind and index, the most frequent first."""
    found: dict[tuple[ErrorKind, str | None], list[Job]] = {}
    for job in jobs:
        if job.error:
            found.setdefault((job.error.kind, job.error.index), []).append(job)
    groups = [Failures(kind, index, tuple(members)) for (kind, index), members in found.items()]
    return sorted(groups, key=lambda group: (-len(group.jobs), group.kind, group.index or ""))


def print_failures(batch: Batch, groups: Iterable[Failures]) -> None:
    """Print the groups as a table, and below it an example of each and what to do."""
    groups = list(groups)
    if not groups:
        console().print(f"batch {batch.id}: no job has failed", markup=False)
        return
    rows = [(group.kind, group.index or "", len(group.jobs), "yes" if group.worth_retry else "no") for group in groups]
    print_table(("kind", "index", "jobs", "worth a retry"), rows, title=f"batch {batch.id}: failures")
    for group in groups:
        _print_group(batch, group)


def _print_group(batch: Batch, group: Failures) -> None:
    out = console()
    names = [job.requirement for job in group.jobs[:_SHOWN_PACKAGES]]
    more = f" and {len(group.jobs) - len(names)} more" if len(group.jobs) > len(names) else ""
    out.print(f"{group.kind}: {', '.join(names)}{more}", markup=False, soft_wrap=True)
    out.print(f"  {_message(group.jobs[0])}", markup=False, soft_wrap=True)
    if group.worth_retry:
        out.print(f"  vizfetch retry {batch.id} --kind {group.kind}", markup=False, soft_wrap=True)


def _message(job: Job) -> str:
    return job.error.message if job.error else ""
