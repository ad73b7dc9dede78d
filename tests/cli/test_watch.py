"""Whoever waits for a batch learns of its end soon, and asks a Redis that is away no more often than before."""

from dataclasses import dataclass, field

import pytest
from redis import Redis

from cli import watch
from config.settings import Target
from jobs.models import Batch, JobSpec
from jobs.store import StatusStore, StatusUnavailable

BATCH = "b-1"


@dataclass
class Slept:
    """Passes the time at once."""

    seconds: list[float] = field(default_factory=list)

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Slept:
    slept = Slept()
    monkeypatch.setattr("cli.watch.time.sleep", slept)
    return slept


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    store = StatusStore(redis)
    store.enqueue(BATCH, [JobSpec(requirement="acme", target=Target(), max_attempts=1)])
    return store


def test_a_batch_that_goes_on_is_looked_at_after_the_usual_time(store: StatusStore, slept: Slept) -> None:
    watch._pause(store, BATCH)  # noqa: SLF001
    assert sum(slept.seconds) == pytest.approx(0.3)


def test_the_end_is_seen_before_that(store: StatusStore, slept: Slept) -> None:
    assert store.cancel(store.members(BATCH))
    watch._pause(store, BATCH)  # noqa: SLF001
    assert slept.seconds == [pytest.approx(0.05)]


def test_a_redis_that_is_away_is_asked_once(store: StatusStore, slept: Slept, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def away(batch: str, **_: bool) -> Batch:
        asked.append(batch)
        raise StatusUnavailable

    monkeypatch.setattr(store, "batch", away)
    watch._pause(store, BATCH)  # noqa: SLF001
    assert asked == [BATCH]
    assert sum(slept.seconds) == pytest.approx(0.3)
