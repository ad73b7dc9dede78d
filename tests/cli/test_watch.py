"""Whoever waits for a batch learns of its end soon, and asks a Redis that is away no more often than before."""

import time
from dataclasses import dataclass, field

import pytest
from redis import Redis

from cli import watch
from config.settings import Target
from jobs.models import Batch, JobSpec
from jobs.store import StatusStore, StatusUnavailable

BATCH = "b-1"


@dataclass
class Clock:
    """What the module knows of time; passes at once."""

    slept: list[float] = field(default_factory=list)
    monotonic = staticmethod(time.monotonic)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watch, "time", clock)
    return clock


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    store = StatusStore(redis)
    store.enqueue(BATCH, [JobSpec(requirement="acme", target=Target(), max_attempts=1)])
    return store


def test_a_batch_that_goes_on_is_looked_at_after_the_usual_time(store: StatusStore, clock: Clock) -> None:
    watch._pause(store, BATCH)  # noqa: SLF001
    assert sum(clock.slept) == pytest.approx(0.3)


def test_the_end_is_seen_before_that(store: StatusStore, clock: Clock) -> None:
    assert store.cancel(store.members(BATCH))
    watch._pause(store, BATCH)  # noqa: SLF001
    assert clock.slept == [pytest.approx(0.05)]


class _Enough(Exception):
    pass


@pytest.mark.parametrize("from_the_start", [False, True])
def test_a_redis_that_is_away_is_asked_no_more_often_than_one_looks(
    store: StatusStore, clock: Clock, monkeypatch: pytest.MonkeyPatch, *, from_the_start: bool
) -> None:
    asked: list[str] = []

    def away(batch: str, **_: bool) -> Batch:
        asked.append(batch)
        raise StatusUnavailable

    monkeypatch.setattr(store, "batch", away)
    if not from_the_start:
        watch._pause(store, BATCH)  # noqa: SLF001
        assert asked == [BATCH]
        assert sum(clock.slept) == pytest.approx(0.3)
        return

    def check() -> None:
        if len(asked) == 10:
            raise _Enough

    with pytest.raises(_Enough):
        watch.watch(store, BATCH, check=check)
    assert sum(clock.slept) == pytest.approx(3.0)
