"""Progress as server-sent events (the HTML standard's ``text/event-stream``)."""

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from jobs.models import Job, JobState
from jobs.store import StatusUnavailable, UnknownJob
from scheduler.api.errors import RETRY_AFTER_SECONDS, Refused
from scheduler.api.models import BatchId
from scheduler.api.resources import Given, Resources

router = APIRouter(prefix="/batches", tags=["batches"])

LISTENERS = 64
"""At once, on one scheduler."""
_LOOK_EVERY_SECONDS = 0.5
_HEARTBEAT_SECONDS = 10.0
_RETRY_MS = 2000
_RUNNING_SHOWN = 20
_LONGEST_SECONDS = 3600.0
"""Then the listener comes again by itself: so nobody who lost the right to listen listens for ever."""


class Seats:
    """How many listen, and no more than may."""

    def __init__(self, limit: int) -> None:
        self._free = threading.BoundedSemaphore(limit)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a seat; raises ``Refused`` when there is none."""
        if not self._free.acquire(blocking=False):
            headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
            detail = f"{LISTENERS} listen already; ask for the batch itself from time to time."
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too-many-listeners", detail, headers)
        try:
            yield
        finally:
            self._free.release()


@router.get(
    "/{batch}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "`progress` events, at last one called `done`."},
        204: {"description": "The batch is finished, and the listener knows."},
    },
)
async def listen(
    batch: BatchId,
    given: Given,
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=100)] = None,
) -> Response:
    """Follow a batch until it is finished.

    The data of an event is what `GET /batches/{batch}` returns, and `running`: jobs with how far they have come.
    """
    first = await run_in_threadpool(_look, given, batch)
    if first.finished and first.id == last_event_id:
        return Response(status_code=HTTPStatus.NO_CONTENT)  # which tells a browser to come no more
    return _Listening(request.app.state.seats, _events(given, batch, last_event_id))


class _Listening(StreamingResponse):
    """Streams events on one of the seats, for as long as the client is there."""

    def __init__(self, seats: Seats, events: AsyncIterator[str]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._seats = seats

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; raises ``Refused`` when no seat is free."""
        with self._seats.taken():
            await super().__call__(scope, receive, send)


class _Look:
    """What a listener is told of a batch at one moment; its id tells whether that is anything new."""

    def __init__(self, content: dict[str, Any], *, finished: bool) -> None:
        self.finished = finished
        self._data = json.dumps(content)
        self.id = hashlib.sha256(self._data.encode()).hexdigest()[:16]

    def event(self) -> str:
        """Return it as an event."""
        return f"id: {self.id}\nevent: {'done' if self.finished else 'progress'}\ndata: {self._data}\n\n"


def _look(given: Resources, batch: str) -> _Look:
    summary = given.listing.batch(batch)
    running = given.status.jobs_in(batch, JobState.RUNNING, _RUNNING_SHOWN) if summary.counts[JobState.RUNNING] else []
    content = summary.as_document() | {"running": [_progress(job) for job in running]}
    return _Look(content, finished=summary.finished)


def _progress(job: Job) -> dict[str, Any]:
    told = None if job.progress is None else job.progress.as_document()
    return {"id": job.id, "requirement": job.requirement, "worker": job.worker, "progress": told}


async def _events(given: Resources, batch: str, known: str | None) -> AsyncIterator[str]:
    yield f"retry: {_RETRY_MS}\n\n"
    begun = spoken = time.monotonic()
    while not given.stopping.is_set() and time.monotonic() - begun < _LONGEST_SECONDS:
        event = ""
        try:
            look = await run_in_threadpool(_look, given, batch)
        except StatusUnavailable:
            pass  # waited out: the heartbeat goes on
        except UnknownJob:
            return
        else:
            if look.id != known or look.finished:
                event, known = look.event(), look.id
            if look.finished:
                yield event
                return
        if not event and time.monotonic() - spoken > _HEARTBEAT_SECONDS:
            event = ": still here\n\n"
        if event:
            yield event
            spoken = time.monotonic()
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
