"""Who is served first: priorities, and in turn the batches of one priority."""

from collections import Counter
from collections.abc import Sequence

import pytest
from redis import Redis

from config.settings import Settings, Target
from jobs.errors import ErrorKind
from jobs.models import FetchMessage, JobError, JobSpec, Priority, Timings
from jobs.store import StatusStore
from scheduler.loop import WINDOW, Broker, Loop
from scheduler.manifest import Entry, parse_requirement
from scheduler.submit import submit
from tests.support.command import eventually

LATER = 3600.0
LEASE = 5.0


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    return StatusStore(redis)


def enqueue(store: StatusStore, batch: str, count: int, priority: Priority = Priority.NORMAL) -> None:
    store.enqueue(batch, [spec(number, priority) for number in range(count)])


def spec(number: int, priority: Priority = Priority.NORMAL) -> JobSpec:
    return JobSpec(requirement=f"p-{number}", target=Target(), priority=priority)


def batches(store: StatusStore, taken: Sequence[tuple[str, int]]) -> list[str]:
    return [store.job(job).batch for job, _ in taken]


def test_a_large_batch_does_not_hold_up_a_small_one(store: StatusStore) -> None:
    enqueue(store, "large", 500)
    assert len(store.take_due(16, LATER)) == 16
    enqueue(store, "small", 3)
    assert batches(store, store.take_due(8, LATER)).count("small") == 3


def test_batches_share_evenly_whatever_their_sizes(store: StatusStore) -> None:
    for number, size in enumerate((100, 50, 30, 5)):
        enqueue(store, f"b-{number}", size)
    taken = batches(store, [job for _ in range(10) for job in store.take_due(4, LATER)])
    assert Counter(taken) == {"b-0": 12, "b-1": 12, "b-2": 11, "b-3": 5}


def test_jobs_of_a_batch_go_in_the_order_of_their_submission(store: StatusStore) -> None:
    enqueue(store, "b-1", 40)
    taken = store.take_due(30, LATER) + store.take_due(30, LATER)
    assert [store.job(job).requirement for job, _ in taken] == [f"p-{number}" for number in range(40)]


def test_a_batch_whose_jobs_wait_gets_its_turn_when_their_time_has_come(store: StatusStore) -> None:
    for batch, delay_seconds in (("retried", 0.2), ("waiting", LATER)):
        enqueue(store, batch, 1)
        claimed = store.claim(spec(0).id(batch), 1, "agent", LATER)
        assert claimed
        error = JobError(kind=ErrorKind.SERVER_ERROR, retryable=True, message="503")
        assert store.finish_for_retry(claimed[0], error, Timings(), delay_seconds)
    enqueue(store, "large", 2000)
    taken: list[str] = []

    def comes() -> bool:
        taken.extend(batches(store, store.take_due(4, LATER)))
        return "retried" in taken

    eventually(comes, seconds=10)
    assert set(taken) == {"large", "retried"}


def test_a_turn_costs_what_it_takes_not_what_there_is(redis: Redis, store: StatusStore) -> None:
    def cost() -> int:
        redis.config_resetstat()
        assert len(store.take_due(16, LATER)) == 16
        return sum(stats["calls"] for stats in redis.info("commandstats").values())

    for number in range(3):
        enqueue(store, f"b-{number}", 20)
    few = cost()
    enqueue(store, "huge", 2000)
    for number in range(200):
        enqueue(store, f"c-{number}", 2)
    assert cost() <= few + 5


def test_the_urgent_go_first_and_fill_no_place_of_others(store: StatusStore) -> None:
    published: list[Priority] = []

    def publish(messages: Sequence[FetchMessage], priority: Priority) -> bool:
        published.extend([priority] * len(messages))
        return True

    enqueue(store, "low", 100, Priority.LOW)
    loop = Loop(store, Broker(publish, waiting=published.count), LEASE, lambda: 0)
    loop.turn()
    enqueue(store, "normal", 100)
    enqueue(store, "high", 2, Priority.HIGH)
    loop.turn()
    assert published == [Priority.LOW] * WINDOW + [Priority.HIGH] * 2 + [Priority.NORMAL] * WINDOW


def test_entries_that_ask_for_the_same_are_one_job_of_the_highest_priority(store: StatusStore) -> None:
    asked = [
        Entry(parse_requirement("acme>=1,<2"), priority=Priority.LOW),
        Entry(parse_requirement("Acme<2,>=1"), priority=Priority.HIGH),
        Entry(parse_requirement("acme <2, >=1")),
        Entry(parse_requirement("other")),
    ]
    batch = submit(store, asked, Settings(nickname="x"), priority=Priority.LOW)
    assert store.batch(batch, jobs=False).total == 2
    assert len(store.take_due(5, LATER, Priority.HIGH)) == 1
    assert len(store.take_due(5, LATER, Priority.LOW)) == 1
    assert store.take_due(5, LATER) == []
