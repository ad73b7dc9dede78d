"""What users see: tables and messages for people, JSON for machines.

Results go to standard output, everything else to standard error, so that a result can be piped.
"""

from __future__ import annotations  # models are imported when a command runs: the others start faster

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from jobs.states import JobState
from jobs.words import attempts, size

if TYPE_CHECKING:  # rich costs time to import, and many commands print a line at most
    from rich.console import Console

    from jobs.models import Batch, Job

LARGE = 200
"""More jobs than this are not shown to people one by one."""
SPEAKER = "vizfetch: "
"""What every message for people begins with."""

_PIPE_WIDTH = 200
_STYLES = {
    JobState.QUEUED: "dim",
    JobState.RUNNING: "cyan",
    JobState.PUBLISHED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
}


def console(*, error: bool = False) -> Console:
    """Return a console; colours appear on a terminal only, and never where ``NO_COLOR`` is set."""
    from rich.console import Console

    out = Console(stderr=error, highlight=False, emoji=False)
    if not out.is_terminal:
        # What goes to a file or a pipe is for a program or for later: no terminal's width should cut it.
        out.width = _PIPE_WIDTH
    return out


def print_json(document: Any) -> None:  # noqa: ANN401 - any JSON document
    """Print one JSON document on standard output."""
    json.dump(document, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def print_error(message: str) -> None:
    """Print a message for people on standard error."""
    sys.stderr.write(f"{SPEAKER}{message}\n")


def print_batch(batch: Batch) -> None:
    """Print a batch: its jobs as a table, and below it the reason of each failure in full."""
    from rich.text import Text

    jobs, left = (batch.jobs, 0) if batch.total <= LARGE else _telling(batch)
    rows = [
        (
            Text(job.requirement),
            Text(job.state, style=_STYLES[job.state]),
            attempts(job),
            *_bundle_cells(job),
        )
        for job in jobs
    ]
    heads = ("package", "state", "attempt", "version", "wheels", "size", "new", "visualizations")
    print_table(heads, rows, title=f"batch {batch.id}{_origin(batch)}")
    _print_reasons(jobs)
    if left:
        counts = ", ".join(f"{count} {state}" for state, count in batch.counts.items() if count)
        console().print(f"{counts}; {left} of them are not shown here: --json shows all", markup=False)


def _origin(batch: Batch) -> str:
    return f" of the schedule {batch.schedule}" if batch.schedule else ""


def _telling(batch: Batch) -> tuple[Sequence[Job], int]:
    """Return the jobs of a large batch that people want to see, and how many others there are."""
    shown = [job for job in batch.jobs if job.state in {JobState.RUNNING, JobState.FAILED}][:LARGE]
    return shown, batch.total - len(shown)


def print_batches(batches: Iterable[Batch]) -> None:
    """Print a line for each batch."""
    rows = [
        (batch.id, *(str(batch.counts.get(state, 0)) for state in JobState), batch.schedule or "") for batch in batches
    ]
    print_table(("batch", *JobState, "schedule"), rows)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table whose cells are text or rich's own; numbers are the caller's to format."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        # The first column names the row: it is broken rather than cut when the terminal is narrow.
        table.add_column(head, overflow="fold", no_wrap=number > 0)
    for row in rows:
        # What comes from packages and indexes is text, never markup.
        table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    console().print(table)


def _bundle_cells(job: Job) -> tuple[str, str, str, str, str]:
    if not job.bundle:
        return ("", "", "", "", "")
    bundle = job.bundle
    version = f"{bundle.version} (unchanged)" if bundle.unchanged else bundle.version
    sizes = size(bundle.size_bytes), size(bundle.uploaded_bytes)
    return (version, str(len(bundle.wheels)), *sizes, str(bundle.visualizations))


def _print_reasons(jobs: Iterable[Job]) -> None:
    out = console()
    for job in jobs:
        if job.error and job.state is not JobState.PUBLISHED:
            out.print(f"{job.requirement}  {job.error.kind}", style=_STYLES[job.state], markup=False)
            out.print(f"  {job.error.message}", markup=False, soft_wrap=True)
        if job.waiting:
            out.print(f"{job.requirement}  {job.waiting}", style=_STYLES[job.state], markup=False, soft_wrap=True)
