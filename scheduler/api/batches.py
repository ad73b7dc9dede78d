"""Batches: submitting, looking, retrying, cancelling."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from jobs.errors import ErrorKind
from jobs.listing import BatchSummary, JobFilter, Sort
from jobs.models import JobState
from jobs.store import UnknownJob
from scheduler.api.audit import recorded
from scheduler.api.cursors import PAGE, Cursor, Limit, invalid_cursor, parts, text_of
from scheduler.api.models import (
    MAX_JOBS,
    PREFIX,
    BatchId,
    BatchPage,
    Cancellation,
    Changed,
    EntryInput,
    Failures,
    FailureSummary,
    JobPage,
    Retry,
    Submission,
)
from scheduler.api.resources import CallerGiven, Given, Resources
from scheduler.manifest import Entry, InvalidManifest, from_text, parse_requirement
from scheduler.submit import new_batch_id, submit

router = APIRouter(prefix="/batches", tags=["batches"])

_Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,200}$",
        description="Sent again with the same content within a day, it names the same batch.",
    ),
]


@router.post(
    "", status_code=HTTPStatus.CREATED, responses={200: {"description": "Submitted before.", "model": BatchSummary}}
)
def submit_batch(
    asked: Submission, given: Given, caller: CallerGiven, response: Response, idempotency_key: _Key = None
) -> BatchSummary:
    """Queue a batch of packages. All or none: what is wrong is told with its place, and all of it at once."""
    entries = _entries(asked)
    fresh = new_batch_id()
    batch = fresh
    if idempotency_key is not None:
        batch = given.submissions.batch_for(idempotency_key, asked.as_json().encode(), fresh)
    with recorded(given.audit, caller, "batch_submit", batch=batch, entries=len(entries)):
        submit(given.status, entries, given.settings, batch=batch, priority=asked.priority, anew=asked.anew)
    if batch != fresh:
        response.status_code = HTTPStatus.OK
    response.headers["Location"] = f"{PREFIX}/batches/{batch}"
    return given.listing.batch(batch)


@router.get("")
def list_batches(given: Given, limit: Limit = PAGE, cursor: Cursor = None) -> BatchPage:
    """Return batches, newest first."""
    after = None if cursor is None else _batch_place(cursor)
    found = given.listing.batches(limit, after)
    return BatchPage(batches=tuple(found), next=_after(found[-1]) if len(found) == limit else None)


@router.get("/{batch}")
def read_batch(batch: BatchId, given: Given) -> BatchSummary:
    """Return a batch without its jobs."""
    return given.listing.batch(batch)


@router.get("/{batch}/jobs")
def list_jobs(
    batch: BatchId,
    given: Given,
    state: JobState | None = None,
    kind: Annotated[ErrorKind | None, Query(description="Of the last attempt's error.")] = None,
    index: Annotated[str | None, Query(max_length=100, description="That the last attempt's error names.")] = None,
    text: Annotated[str, Query(max_length=100, description="A part of the requirement.")] = "",
    sort: Sort = Sort.SUBMITTED,
    descending: bool = False,  # noqa: FBT001, FBT002 - a part of the query
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> JobPage:
    """Return jobs of a batch, filtered and sorted."""
    after = None if cursor is None else job_place(cursor, sort)
    wanted = JobFilter(state, kind, index, text)
    found = given.listing.jobs(batch, limit, wanted, sort=sort, descending=descending, after=after)
    following = text_of(sort, *found[-1].after) if len(found) == limit else None
    return JobPage(jobs=tuple(each.job for each in found), next=following)


@router.get("/{batch}/failures")
def list_failures(batch: BatchId, given: Given) -> Failures:
    """Return why jobs failed: by kind and index, with one message of each."""
    groups = (
        FailureSummary(
            kind=group.kind,
            index=group.index,
            worth_retry=group.kind.retryable,
            count=len(group.jobs),
            message=group.message,
            jobs=group.jobs,
        )
        for group in given.listing.failures(batch)
    )
    return Failures(batch=batch, failures=tuple(groups))


@router.post("/{batch}/retry")
def retry_batch(batch: BatchId, asked: Retry, given: Given, caller: CallerGiven) -> Changed:
    """Queue failed and cancelled jobs again, with all their attempts."""
    chosen = _chosen(given, batch, asked.jobs)
    if asked.kinds:
        failed = {job for group in given.listing.failures(batch) if group.kind in asked.kinds for job in group.jobs}
        chosen = [job for job in chosen if job in failed]
    with recorded(given.audit, caller, "batch_retry", batch=batch, jobs=len(chosen)):
        return Changed(batch=batch, jobs=tuple(given.status.retry(chosen)))


@router.post("/{batch}/cancel")
def cancel_batch(batch: BatchId, asked: Cancellation, given: Given, caller: CallerGiven) -> Changed:
    """Stop queued and running jobs."""
    chosen = _chosen(given, batch, asked.jobs)
    with recorded(given.audit, caller, "batch_cancel", batch=batch, jobs=len(chosen)):
        return Changed(batch=batch, jobs=tuple(given.status.cancel(chosen)))


def _chosen(given: Resources, batch: str, jobs: Sequence[str] | None) -> list[str]:
    given.listing.batch(batch)  # raises when there is none
    members = given.status.members(batch)
    if jobs is None:
        return members
    for foreign in sorted(set(jobs) - set(members)):
        raise UnknownJob(foreign)
    return list(dict.fromkeys(jobs))


def _entries(asked: Submission) -> list[Entry]:
    """Return what is asked for in all forms; raises ``InvalidManifest`` with all that is wrong."""
    entries: list[Entry] = []
    problems: list[str] = []
    sources: list[Callable[[], Sequence[Entry]]] = [partial(_from_entries, asked.entries)]
    if asked.requirements is not None:
        sources.append(partial(_from_list, asked.requirements))
    if asked.manifest is not None:
        sources.append(partial(_from_manifest, asked.manifest))
    for source in sources:
        try:
            entries.extend(source())
        except InvalidManifest as error:
            problems.extend(error.problems)
    if not entries and not problems:
        problems.append("no package is named: give entries, requirements or a manifest")
    if len(entries) > MAX_JOBS:
        problems.append(f"{len(entries)} packages are named, and a batch may have {MAX_JOBS}")
    if problems:
        raise InvalidManifest(problems)
    return entries


def _from_list(text: str) -> Sequence[Entry]:
    return from_text(text, "requirements").entries


def _from_manifest(text: str) -> Sequence[Entry]:
    asked = from_text(text, "manifest", manifest=True)
    if asked.refresh_seconds is not None:
        raise InvalidManifest(["manifest: refresh: a batch runs once; make it a schedule (PUT /api/v1/schedules/NAME)"])
    return asked.entries


def _from_entries(asked: Iterable[str | EntryInput]) -> list[Entry]:
    entries, problems = [], []
    for number, each in enumerate(asked):
        try:
            entries.append(_entry(EntryInput(package=each) if isinstance(each, str) else each))
        except ValueError as error:
            problems.append(f"entries[{number}] {error}")
    if problems:
        raise InvalidManifest(problems)
    return entries


def _entry(asked: EntryInput) -> Entry:
    return Entry(
        requirement=parse_requirement(asked.package),
        index=None if asked.index is None else f"pypi[{asked.index}]",
        require_specs=asked.require_specs,
        priority=asked.priority,
        target=asked.target.model_dump(exclude_none=True),
    )


def _after(batch: BatchSummary) -> str:
    return text_of(round(batch.created_at.timestamp() * 1000), batch.id)


def _batch_place(text: str) -> tuple[int, str]:
    milliseconds, batch = parts(text, int, str)
    return int(milliseconds), str(batch)


def job_place(text: str, sort: Sort) -> tuple[str | int, int]:
    """Return the place that the cursor of a page of jobs means; raises ``Refused`` when it is of another sorting."""
    kind: type[str | int] = int if sort in {Sort.SUBMITTED, Sort.UPDATED} else str
    sorted_by, value, position = parts(text, str, kind, int)
    if sorted_by != sort:
        raise invalid_cursor()
    return value, int(position)
