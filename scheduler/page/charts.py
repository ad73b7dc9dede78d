"""The geometry of the pictures: bars cut into parts. The templates draw them as SVG."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobs.models import JobState, Timings

WIDTH = 1000
"""Of every bar, in its own units."""
STEPS = tuple(Timings.model_fields)
_ORDER = (JobState.PUBLISHED, JobState.FAILED, JobState.CANCELLED, JobState.RUNNING, JobState.QUEUED)


@dataclass(frozen=True)
class Part:
    """A part of a bar."""

    name: str
    value: float
    start: float
    width: float


def progress(counts: Mapping[JobState, int]) -> tuple[Part, ...]:
    """Return the bar of a batch: what has ended, then what runs, then what waits."""
    return bar(((state, counts.get(state, 0)) for state in _ORDER), sum(counts.values()))


def steps(timings: Timings, longest_seconds: float) -> tuple[Part, ...]:
    """Return the bar of an attempt, to the scale of the longest beside it."""
    return bar(((step, getattr(timings, step) or 0.0) for step in STEPS), longest_seconds)


def total_seconds(timings: Timings) -> float:
    """Return how long an attempt took, with the time before it."""
    return sum(getattr(timings, step) or 0.0 for step in STEPS)


def longest_seconds(all_timings: Sequence[Timings]) -> float:
    """Return the scale for several attempts beside each other."""
    return max(map(total_seconds, all_timings), default=0.0)


def bar(values: Iterable[tuple[str, float]], whole: float) -> tuple[Part, ...]:
    """Return the parts of a bar in their order, also those of no width: so they can grow."""
    parts, start = [], 0.0
    for name, value in values:
        width = value / whole * WIDTH if whole else 0.0
        parts.append(Part(str(name), value, round(start, 2), round(width, 2)))
        start += width
    return tuple(parts)
