"""What goes in and out of the API beside the documents of ``jobs.models`` and ``bundles.models``."""

from datetime import datetime
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, ConfigDict, Field

from bundles.models import Bundle
from config import kinds
from jobs.agents import AgentDocument
from jobs.errors import ErrorKind
from jobs.listing import BatchSummary
from jobs.models import CatalogEntry, Document, Job, Priority

PREFIX = "/api/v1"

MAX_JOBS = 20_000
"""In one submission."""
_MAX_LINE = 1000

BatchId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", examples=["b-20260728-101500-c0ffee"])]
JobId = Annotated[str, Path(pattern=r"^j-[0-9a-f]{20}$")]
Requirement = Annotated[
    str, Field(max_length=_MAX_LINE, description="PEP 508, without a URL.", examples=["acme-charts>=1,<2"])
]


class Input(Document):
    """The base of what is sent: closed, and of exactly the types that are told."""

    model_config = ConfigDict(strict=True, use_attribute_docstrings=True)


class TargetInput(Input):
    """Where the bundle is to be installed, as far as it differs from the settings."""

    python: Annotated[str, AfterValidator(kinds.python_version), Field(examples=["3.11"])] | None = None
    glibc: Annotated[str, AfterValidator(kinds.glibc_version), Field(examples=["2.35"])] | None = None
    architecture: Annotated[str, AfterValidator(kinds.architecture), Field(examples=["x86_64"])] | None = None


class EntryInput(Input):
    """One package that is asked for, as in a manifest."""

    package: Requirement
    index: Annotated[int, Field(ge=0, le=9999)] | None = None
    """The number of the only index to ask."""
    require_specs: bool | None = None
    priority: Annotated[Priority, Field(strict=False)] | None = None
    target: TargetInput = TargetInput()


class Submission(Input):
    """What is to be fetched, in one or several of the three forms."""

    entries: Annotated[tuple[Requirement | EntryInput, ...], Field(strict=False, max_length=MAX_JOBS)] = ()
    """Requirements, with what is special about each."""
    requirements: str | None = None
    """The text of a requirements list."""
    manifest: str | None = None
    """The text of a YAML manifest, without `refresh`: that is for a schedule."""
    anew: bool = False
    """Fetch also what was published before and has not changed."""
    priority: Annotated[Priority, Field(strict=False)] = Priority.NORMAL
    """For the entries that have none of their own."""


class ScheduleInput(Input):
    """A manifest that is to be looked at again and again."""

    manifest: str
    """The text of a YAML manifest with `refresh`."""
    priority: Annotated[Priority, Field(strict=False)] = Priority.NORMAL
    """For the entries that have none of their own."""


Ids = Annotated[
    tuple[Annotated[str, Field(pattern=r"^j-[0-9a-f]{20}$")], ...], Field(strict=False, max_length=MAX_JOBS)
]


class Cancellation(Input):
    """Which jobs of a batch to stop."""

    jobs: Ids | None = None
    """Only these; all that are queued or running when absent."""


class Retry(Cancellation):
    """Which jobs of a batch to queue again."""

    jobs: Ids | None = None
    """Only these; all that have failed or were cancelled when absent."""
    kinds: Annotated[tuple[Annotated[ErrorKind, Field(strict=False)], ...], Field(strict=False, max_length=50)] = ()
    """Only those that failed so."""


class Nothing(Input):
    """An empty object."""


class Changed(Document):
    """The jobs that were changed."""

    batch: str
    jobs: tuple[str, ...]


class BatchPage(Document):
    """Batches, newest first."""

    batches: tuple[BatchSummary, ...]
    next: str | None
    """The cursor of the next page, if there is one."""


class JobPage(Document):
    """Jobs of a batch."""

    jobs: tuple[Job, ...]
    next: str | None


class FailureSummary(Document):
    """Failures of one kind."""

    kind: ErrorKind
    index: str | None
    worth_retry: bool
    """Whether a retry may help without anybody changing anything."""
    count: int
    message: str
    """Of one of them."""
    jobs: tuple[str, ...]


class Failures(Document):
    """Why jobs of a batch failed, the most frequent reason first."""

    batch: str
    failures: tuple[FailureSummary, ...]


class BundleSummary(CatalogEntry):
    """A published bundle."""

    href: str
    """Where the API tells more."""


class BundlePage(Document):
    """Published bundles, by name, then newest version first."""

    bundles: tuple[BundleSummary, ...]
    next: str | None


class FileLink(Document):
    """One file of a bundle."""

    path: str
    """In a portable folder."""
    href: str
    sha256: str
    size_bytes: int


class BundleDetail(Document):
    """A published bundle with all that can be read of it."""

    uri: str
    """In the store."""
    size_bytes: int
    """All wheels together."""
    bundle: Bundle
    files: tuple[FileLink, ...]


class ScheduleSummary(Document):
    """A manifest that is looked at again and again."""

    name: str
    packages: int
    interval_seconds: float
    added_at: datetime
    next_at: datetime
    """When its time comes; in the past when it is just being run."""
    last: str | None
    """The id of its newest batch, which may have been forgotten."""
    last_at: datetime | None
    skipped: int
    """How many runs since then were left out, since that batch was not finished."""


class ScheduleList(Document):
    """All schedules, the one that is due next first."""

    schedules: tuple[ScheduleSummary, ...]


class AgentList(Document):
    """The agents that live."""

    agents: tuple[AgentDocument, ...]
    warnings: tuple[str, ...]
    """What does not fit together."""
