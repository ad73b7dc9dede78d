"""Single jobs."""

from typing import Annotated

from fastapi import APIRouter, Query

from jobs.logs import JobLog
from jobs.models import Job
from scheduler.api.audit import recorded
from scheduler.api.models import Changed, JobId, Nothing
from scheduler.api.resources import CallerGiven, Given

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get("/{job}")
def read_job(job: JobId, given: Given) -> Job:
    """Return a job."""
    return given.status.job(job)


@router.get("/{job}/log")
def read_log(job: JobId, given: Given, attempt: Annotated[int | None, Query(ge=1)] = None) -> JobLog:
    """Return the last lines of pip in the last attempts of a job, or in one of them. Text, never markup."""
    return given.status.log(job).only(attempt)


@router.post("/{job}/retry")
def retry_job(job: JobId, _asked: Nothing, given: Given, caller: CallerGiven) -> Changed:
    """Queue a failed or cancelled job again, with all its attempts."""
    batch = given.status.job(job).batch
    with recorded(given.audit, caller, "job_retry", batch=batch, job=job):
        return Changed(batch=batch, jobs=tuple(given.status.retry([job])))


@router.post("/{job}/cancel")
def cancel_job(job: JobId, _asked: Nothing, given: Given, caller: CallerGiven) -> Changed:
    """Stop a queued or running job."""
    batch = given.status.job(job).batch
    with recorded(given.audit, caller, "job_cancel", batch=batch, job=job):
        return Changed(batch=batch, jobs=tuple(given.status.cancel([job])))
