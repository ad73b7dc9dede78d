"""A batch with its jobs, and a job by itself."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.errors import ErrorKind
from jobs.listing import JobFilter, Sort
from jobs.models import JobState
from scheduler.api.batches import job_place
from scheduler.api.cursors import PAGE, Cursor, text_of
from scheduler.api.models import BatchId, JobId
from scheduler.api.resources import Given
from scheduler.page import charts
from scheduler.page.views import PageRoute, page

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_LARGEST_FIRST = 10**7


@dataclass(frozen=True)
class Table:
    """Which jobs are shown, as the address of the page says it."""

    state: JobState | None
    kind: ErrorKind | None
    index: str | None
    text: str
    sort: Sort
    descending: bool
    first: int
    """Which of those chosen comes first, from 1."""

    def values(self, **changes: object) -> dict[str, object]:
        """Return the query for this table with other values, from its beginning."""
        kept = {
            "state": self.state,
            "kind": self.kind,
            "index": self.index,
            "text": self.text,
            "sort": None if self.sort is Sort.SUBMITTED else self.sort,
            "descending": "true" if self.descending else None,
        }
        return kept | changes

    @property
    def filtered(self) -> bool:
        """Whether not all jobs are wanted."""
        return bool(self.state or self.kind or self.index or self.text)

    def sorted_by(self, sort: str) -> dict[str, object]:
        """Return the query for the table sorted by a column, the other way round if it is already."""
        turned = self.sort == sort and not self.descending
        return self.values(sort=sort, descending="true" if turned else None)


@router.get("/batches/{batch}")
def show_batch(
    request: Request,
    batch: BatchId,
    given: Given,
    state: JobState | Annotated[str, Query(max_length=0)] = "",
    kind: ErrorKind | Annotated[str, Query(max_length=0)] = "",
    index: Annotated[str, Query(max_length=100)] = "",
    text: Annotated[str, Query(max_length=100)] = "",
    sort: Sort = Sort.SUBMITTED,
    descending: bool = False,  # noqa: FBT001, FBT002 - a part of the query
    first: Annotated[int, Query(ge=1, le=_LARGEST_FIRST)] = 1,
    cursor: Cursor = None,
) -> Response:
    """Show a batch and a page of its jobs."""
    table = Table(
        JobState(state) if state else None,
        ErrorKind(kind) if kind else None,
        index or None,
        text,
        sort,
        descending,
        first if cursor else 1,
    )
    summary = given.listing.batch(batch)
    wanted = JobFilter(table.state, table.kind, table.index, table.text)
    after = None if cursor is None else job_place(cursor, sort)
    found = given.listing.jobs(batch, PAGE + 1, wanted, sort=sort, descending=descending, after=after)
    jobs, more = [each.job for each in found[:PAGE]], len(found) > PAGE
    following = text_of(sort, *found[PAGE - 1].after) if more else None
    failures = given.listing.failures(batch) if summary.counts[JobState.FAILED] else []
    return page(
        request,
        "batch.html",
        batch=summary,
        jobs=jobs,
        table=table,
        following=following,
        failures=failures,
        longest=charts.longest_seconds([job.timings for job in jobs]),
        now=datetime.now(UTC),
    )


@router.get("/jobs/{job}")
def show_job(request: Request, job: JobId, given: Given) -> Response:
    """Show a job with its log."""
    found = given.status.job(job)
    return page(request, "job.html", job=found, log=given.status.log(job), now=datetime.now(UTC))
