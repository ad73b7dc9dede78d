"""The words for a job's state and its priority, apart from the models: who only names them need not import those."""

from enum import StrEnum


class JobState(StrEnum):
    """``queued → running → published | failed | cancelled``, with ``running → queued`` for a retry."""

    QUEUED = "queued"
    RUNNING = "running"
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing more will happen unless somebody asks for it."""
        return self not in {JobState.QUEUED, JobState.RUNNING}


class Priority(StrEnum):
    """Who is served first; jobs of the same priority are served in turn, batch by batch."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
