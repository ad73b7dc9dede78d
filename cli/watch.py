"""Shows a batch while it runs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from cli.output import LARGE, console
from jobs.models import Batch, Job, JobState
from jobs.store import StatusStore, StatusUnavailable
from jobs.words import size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

_LOOK_EVERY_SECONDS = 0.3
_LOOKS_FOR_THE_END = 6
"""Between two looks at everything: whoever waits for a batch waits for its end, and asking for that costs little."""
_SHOWN_JOBS = 12
_COUNTS_EVERY_SECONDS = 5.0


class _View(Protocol):
    def show(self, batch: Batch) -> None: ...


def watch(store: StatusStore, batch_id: str, *, check: Callable[[], None] = lambda: None) -> Batch:
    """Show the batch on standard error until it is finished, and return it.

    ``check`` is called at every look; what it raises ends the watching. Redis being away is waited out.
    """
    with _view() as view:
        while True:
            check()
            try:
                batch = _look(store, batch_id)
                view.show(batch)
                if batch.finished:
                    return store.batch(batch_id)
            except StatusUnavailable:
                time.sleep(_LOOK_EVERY_SECONDS)
            else:
                _pause(store, batch_id)


def _pause(store: StatusStore, batch_id: str) -> None:
    """Wait for the next look, or for the batch's end, whichever comes first."""
    step = _LOOK_EVERY_SECONDS / _LOOKS_FOR_THE_END
    for left in reversed(range(_LOOKS_FOR_THE_END)):
        time.sleep(step)
        try:
            if store.batch(batch_id, jobs=False).finished:
                return
        except StatusUnavailable:
            time.sleep(step * left)
            return


def _look(store: StatusStore, batch_id: str) -> Batch:
    batch = store.batch(batch_id, jobs=False)
    if batch.total <= LARGE:
        return store.batch(batch_id)
    running = store.jobs_in(batch_id, JobState.RUNNING, _SHOWN_JOBS)
    return batch.model_copy(update={"jobs": tuple(running)})


@contextmanager
def _view() -> Iterator[_View]:
    err = console(error=True)
    if not err.is_terminal:
        yield _Lines(err)
        return
    from rich.live import Live

    with Live(console=err, auto_refresh=True, refresh_per_second=8, transient=True) as live:
        yield _Table(live)


class _Lines:
    """For logs and pipes: a line whenever a job enters another step or state; of a large batch the counts."""

    def __init__(self, err: "Console") -> None:
        self._err = err
        self._said: dict[str, str] = {}
        self._next = time.monotonic()

    def show(self, batch: Batch) -> None:
        if batch.total <= LARGE:
            self._show_jobs(batch)
        elif time.monotonic() >= self._next or batch.finished:
            self._next = time.monotonic() + _COUNTS_EVERY_SECONDS
            self._show_counts(batch)

    def _show_counts(self, batch: Batch) -> None:
        counts = _counts(batch)
        if self._said.get(batch.id) != counts:
            self._said[batch.id] = counts
            self._err.print(f"{batch.id}: {counts}", markup=False, soft_wrap=True)

    def _show_jobs(self, batch: Batch) -> None:
        for job in batch.jobs:
            word = job.progress.step if job.progress else job.waiting or str(job.state)
            if self._said.get(job.id) != word:
                self._said[job.id] = word
                self._err.print(f"{job.requirement}: {_describe(job)}", markup=False, soft_wrap=True)


class _Table:
    """For a terminal: the running jobs with a spinner each, and the count of the others."""

    def __init__(self, live: "Live") -> None:
        self._live = live
        self._spinners: dict[str, RenderableType] = {}

    def show(self, batch: Batch) -> None:
        from rich.console import Group
        from rich.text import Text

        running = [job for job in batch.jobs if job.state is JobState.RUNNING][:_SHOWN_JOBS]
        self._live.update(
            Group(*(self._row(job) for job in running), Text(f"{batch.id}: {_counts(batch)}", style="dim"))
        )

    def _row(self, job: Job) -> "RenderableType":
        from rich.spinner import Spinner
        from rich.text import Text

        text = Text(f"{job.requirement}: {_describe(job)}")
        spinner = self._spinners.setdefault(job.id, Spinner("dots"))
        assert isinstance(spinner, Spinner)  # noqa: S101 - the line above made it
        spinner.update(text=text)
        return spinner


def _counts(batch: Batch) -> str:
    return ", ".join(f"{count} {state}" for state, count in batch.counts.items() if count)


def _describe(job: Job) -> str:
    if job.waiting:
        return job.waiting
    if job.state is JobState.QUEUED and job.error:
        return f"waits for attempt {job.attempt} of {job.max_attempts}, after {job.error.kind}: {job.error.message}"
    if not job.progress:
        return str(job.state)
    progress = job.progress
    amount = f", {progress.wheels} wheels, {size(progress.size_bytes)}" if progress.wheels else ""
    return f"{progress.step}{amount}"
