"""What the command line and the page say in the same words."""

from __future__ import annotations  # the models are not needed to say a size, and cost time to import

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.models import Job


def size(size_bytes: int) -> str:
    """Return a number of bytes for people, in decimal units as package indexes show them."""
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:  # noqa: PLR2004
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"


def attempts(job: Job) -> str:
    """Return which attempt a job is at, and of how many while it has not had more by hand."""
    return f"{job.attempt} of {job.max_attempts}" if job.attempt <= job.max_attempts else str(job.attempt)
