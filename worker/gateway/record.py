"""What the gateway saw while it served one task: the authority on what went wrong."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict

from jobs.errors import ErrorKind

Step = Literal["page", "file", "metadata"]


class Entry(BaseModel):
    """The base of everything in a record: closed and immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Availability(StrEnum):
    """What an index has of one version, seen from the target environment."""

    OFFERED = "offered"
    OTHER_PLATFORM = "wheel for another platform"
    SOURCE_ONLY = "source only"
    OTHER_PYTHON = "needs another Python"
    TOO_NEW = "younger than moderne.agent.visualization.minPackageAge"
    AGE_UNKNOWN = "of unknown age, which moderne.agent.visualization.minPackageAgeUnknown=refuse excludes"
    QUARANTINED = "quarantined by the index"


class Incident(Entry):
    """Something an index did not deliver, after the gateway's own retries."""

    kind: ErrorKind
    index: str
    """The index's name as users know it: ``pypi[0]`` or ``public``."""
    project: str
    """Normalised (PEP 503)."""
    url: str
    """Without credentials, query and fragment."""
    step: Step
    status: int | None
    """The HTTP status that ended it, if there was one."""
    duration_seconds: float
    """From the first attempt to the end of the last, pauses included."""
    attempts: int
    """How often it was asked for; 0 when the index was known to be down and was not asked."""
    again_in_seconds: float | None = None
    """When it makes sense to ask again, if the index said so, or if it is known to be down."""
    message: str
    """For people: what happened, where, and which setting to look at."""


class Project(Entry):
    """A project the task asked for, with the index that serves it."""

    name: str
    index: str | None
    """None when every index asked answered 404 or 410."""
    versions: Mapping[str, Availability]
    """By normalised version (PEP 440); of the index that serves it only."""
    status: str | None = None
    """What the index says of the project (PEP 792), with its reason: ``archived``, ``quarantined: malware``."""


class Served(Entry):
    """A wheel or a source distribution whose last byte, verified, went out to the client."""

    filename: str
    project: str
    """Normalised (PEP 503)."""
    version: str
    """Normalised (PEP 440)."""
    is_wheel: bool
    index: str
    sha256: str | None
    """As the index's page promised it; None when it promised none."""
    size_bytes: int
    yanked: str | None
    """The reason, possibly empty, when the file is yanked (PEP 592); None when it is not."""


class Progress(Entry):
    """How far a task is: wheels that went to the client whole, and bytes of wheels sent so far."""

    files: int
    size_bytes: int


class Record(Entry):
    """Everything worth telling about one task.

    A project whose search was stopped by an incident is in ``incidents`` only.
    """

    incidents: tuple[Incident, ...] = ()
    projects: tuple[Project, ...] = ()
    files: tuple[Served, ...] = ()
