"""What an agent counts of its attempts."""

from jobs.metrics import Meter
from jobs.models import PublishedBundle, Timings

_ENDED_HERE = frozenset({"published", "unchanged", "failed", "retried"})


def count_attempt(meter: Meter, outcome: str, kind: str, timings: Timings, bundle: PublishedBundle | None) -> None:
    """Count an attempt, and have it brought to where it is shown. Does not wait, and cannot fail.

    Steps of an attempt that was broken off say nothing about how long steps take.
    """
    meter.add("vizfetch_attempts", outcome=outcome, kind=kind)
    if outcome in _ENDED_HERE:
        for step, seconds in timings.model_dump(exclude_none=True).items():
            meter.observe("vizfetch_step_duration_seconds", seconds, step=step)
    if outcome == "published" and bundle is not None:
        meter.add("vizfetch_uploaded_bytes", bundle.uploaded_bytes)
        meter.add("vizfetch_reused_bytes", max(0, bundle.size_bytes - bundle.uploaded_bytes))
    meter.hurry()
