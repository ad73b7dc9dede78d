"""What passes between the control side and the agents, and what users see of it as JSON.

Every model is closed and immutable. In JSON the names are camelCase, as in the platform's own documents.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from config.settings import Target
from jobs.errors import ErrorKind
from jobs.states import JobState as JobState  # noqa: PLC0414 - they belong to the models, for whoever reads those
from jobs.states import Priority as Priority  # noqa: PLC0414 - the same


class Document(BaseModel):
    """The base of all documents: closed, immutable, camelCase in JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)

    def as_json(self) -> str:
        """Return the document on one line, under its JSON names."""
        return self.model_dump_json(by_alias=True)

    def as_document(self) -> dict[str, Any]:
        """Return the document as plain JSON values under its JSON names."""
        return self.model_dump(mode="json", by_alias=True)


class JobSpec(Document):
    """What is to be fetched: fixed when a job is submitted."""

    version: Literal[1] = 1
    requirement: str
    target: Target
    index: str | None = None
    """The only index to ask, by name (``pypi[1]``); all in their order when absent."""
    index_url: str | None = None
    """Its address as whoever submitted the job has it configured: only agents with the same one take the job."""
    require_specs: bool = True
    max_attempts: int = Field(default=5, ge=1)
    priority: Priority = Priority.NORMAL
    anew: bool = False
    """Fetch it even if nothing has changed since an equal job was published."""

    def id(self, batch: str) -> str:
        """Return the job's id in ``batch``: the same content has the same id, so submitting twice is harmless."""
        content = self.model_dump(mode="json", exclude={"max_attempts", "priority", "anew"})
        text = json.dumps([batch, content], sort_keys=True)
        return f"j-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


class FetchMessage(Document):
    """The content of a Celery message: a hint that this attempt of this job may be claimed."""

    version: Literal[1] = 1
    job: str
    attempt: int


class Claim(Document):
    """A worker's right to one attempt, for as long as it renews its lease."""

    job: str
    batch: str
    attempt: int
    """Counts from 1, also over retries by hand; the fencing token of everything the attempt writes."""
    tries: int
    """How many attempts count against ``spec.max_attempts``, this one included."""
    spec: JobSpec


class Progress(Document):
    """How far a running attempt has come."""

    step: str
    wheels: int = 0
    size_bytes: int = 0


class JobError(Document):
    """Why the last attempt ended without a bundle."""

    kind: ErrorKind
    retryable: bool
    index: str | None = None
    message: str


class PublishedBundle(Document):
    """What a job published, as far as its status tells."""

    id: str
    name: str
    version: str
    uri: str
    wheels: tuple[str, ...]
    size_bytes: int
    uploaded_bytes: int
    visualizations: int
    unchanged: bool = False
    """It was published before, and nothing that it was made from has changed: nothing was fetched."""
    created_at: datetime | None = Field(default=None, exclude=True)
    """When it was first published; for the catalogue, not part of the JSON contract of jobs."""


class Recollection(Document):
    """A published bundle with what it was made from, so that an equal job need not make it again."""

    version: Literal[1] = 1
    projects: tuple[str, ...]
    """Those whose pages were asked for."""
    digest: str
    """Of what the indexes said of them."""
    bundle: PublishedBundle


class CatalogEntry(Document):
    """One published bundle as the catalogue knows it."""

    schema_version: Literal[1] = 1
    id: str
    name: str
    version: str
    target: Target
    uri: str
    wheels: int
    size_bytes: int
    visualizations: int
    created_at: datetime

    @property
    def key(self) -> str:
        """What it is known by: the same place in the store has the same key."""
        return f"{self.name}/{self.version}/{self.id}"


class Timings(Document):
    """Seconds that each step of the last attempt took; absent while it has not been reached."""

    queued: float | None = None
    environment: float | None = None
    download: float | None = None
    check: float | None = None
    publish: float | None = None


class Job(Document):
    """A job as users see it."""

    id: str
    batch: str
    requirement: str
    state: JobState
    attempt: int
    max_attempts: int
    error: JobError | None = None
    bundle: PublishedBundle | None = None
    timings: Timings = Timings()
    worker: str | None = None
    waiting: str | None = None
    """Why a queued job is not given to any agent."""
    updated_at: datetime
    progress: Progress | None = Field(default=None, exclude=True)
    """Only for the eyes of somebody who watches; not part of the JSON contract."""


class Batch(Document):
    """Jobs submitted together."""

    id: str
    schedule: str | None = None
    """The name of the schedule that it is a run of."""
    counts: Mapping[JobState, int]
    unchanged: int = 0
    """How many of the published were published before, with nothing changed since."""
    jobs: tuple[Job, ...] = ()

    @property
    def total(self) -> int:
        """How many jobs it has, also when ``jobs`` holds only some of them."""
        return sum(self.counts.values())

    @property
    def finished(self) -> bool:
        """Whether every job is in a final state."""
        return not any(count for state, count in self.counts.items() if not state.final)

    @property
    def succeeded(self) -> bool:
        """Whether every job is published."""
        return self.total == self.counts.get(JobState.PUBLISHED, 0)


class Schedule(Document):
    """A manifest that is looked at again and again."""

    name: str
    packages: int
    interval_seconds: float
    added_at: datetime
    next_at: datetime
    last: Batch | None = None
    """Its last run, without the jobs; None before the first, and when its history has expired."""
    last_at: datetime | None = None
    skipped: int = 0
    """How often in a row it was due and not run, because the run before was not finished."""
