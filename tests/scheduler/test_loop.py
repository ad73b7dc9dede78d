import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from config.settings import Target
from jobs.errors import ErrorKind
from jobs.models import Claim, FetchMessage, JobError, JobSpec, JobState, Priority
from jobs.store import StatusStore, StatusUnavailable
from scheduler.loop import BUSY_TURN_SECONDS, TURN_SECONDS, WINDOW, Broker, Loop

BATCH = "b-1"
LEASE = 5.0


@dataclass
class Clock:
    now: float = 0

    def __call__(self) -> float:
        return self.now


@dataclass
class Messages:
    """Takes what the loop publishes, and says how much of it still waits."""

    published: list[FetchMessage] = field(default_factory=list)
    priorities: list[Priority] = field(default_factory=list)
    waiting: int = 0

    def broker(self) -> Broker:
        return Broker(publish=self.publish, waiting=lambda _priority: self.waiting)

    def publish(self, messages: Sequence[FetchMessage], priority: Priority) -> bool:
        self.published += messages
        self.priorities += [priority] * len(messages)
        return True


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    return StatusStore(redis)


def specs(count: int) -> list[JobSpec]:
    return [JobSpec(requirement=f"package-{number}", target=Target(), max_attempts=3) for number in range(count)]


def lost_job(store: StatusStore) -> str:
    """Leave a job behind whose worker is gone."""
    store.enqueue(BATCH, specs(1))
    job = specs(1)[0].id(BATCH)
    assert store.claim(job, 1, "agent", 0.01)
    time.sleep(0.05)
    return job


def test_what_is_due_is_published_once(store: StatusStore) -> None:
    messages = Messages()
    loop = Loop(store, messages.broker(), LEASE, Clock())
    store.enqueue(BATCH, specs(3))
    loop.turn()
    loop.turn()
    assert {message.job for message in messages.published} == {spec.id(BATCH) for spec in specs(3)}
    assert len(messages.published) == 3


def test_two_loops_publish_once(store: StatusStore) -> None:
    messages = Messages()
    store.enqueue(BATCH, specs(5))
    for loop in [Loop(store, messages.broker(), LEASE, Clock()) for _ in range(2)]:
        loop.turn()
    assert len(messages.published) == 5


def test_the_queue_is_kept_short(store: StatusStore) -> None:
    messages = Messages(waiting=WINDOW - 2)
    store.enqueue(BATCH, specs(10))
    loop = Loop(store, messages.broker(), LEASE, Clock())
    loop.turn()
    assert len(messages.published) == 2
    messages.waiting = WINDOW
    loop.turn()
    assert len(messages.published) == 2


def test_a_lost_worker_s_job_is_published_again_under_the_next_attempt(store: StatusStore) -> None:
    clock, messages = Clock(), Messages()
    loop = Loop(store, messages.broker(), LEASE, clock)
    job = lost_job(store)
    clock.now = LEASE
    loop.turn()
    assert messages.published == [FetchMessage(job=job, attempt=2)]


def test_no_lease_is_ended_right_after_the_start(store: StatusStore) -> None:
    clock, messages = Clock(), Messages()
    loop = Loop(store, messages.broker(), LEASE, clock)
    job = lost_job(store)
    clock.now = LEASE - 0.1
    loop.turn()
    assert store.job(job).state is JobState.RUNNING


def test_no_lease_is_ended_right_after_redis_was_away(store: StatusStore) -> None:
    clock, messages = Clock(), Messages()
    away = True

    def waiting(_priority: Priority) -> int:
        if away:
            raise StatusUnavailable from RedisConnectionError()
        return 0

    loop = Loop(store, Broker(publish=messages.publish, waiting=waiting), LEASE, clock)
    clock.now = 10 * LEASE
    store.enqueue("b-0", specs(1))
    loop.turn()
    away = False
    job = lost_job(store)
    loop.turn()
    assert store.job(job).state is JobState.RUNNING
    clock.now += LEASE
    loop.turn()
    assert store.job(job).state is JobState.QUEUED


class _Stop(threading.Event):
    """Notes how long it is waited for, and is set by the first wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(timeout)
        self.set()
        return True


class _Listening(StatusStore):
    """Notes how long is listened, and hears what it is told to, after a time."""

    def __init__(self, redis: Redis, heard: bool | Exception, after_seconds: float = 0) -> None:  # noqa: FBT001 - an answer
        super().__init__(redis)
        self._heard = heard
        self._after_seconds = after_seconds
        self.clock = Clock()
        self.listened: list[float] = []

    def await_due(self, seconds: float) -> bool:
        self.listened.append(seconds)
        self.clock.now += self._after_seconds
        if isinstance(self._heard, Exception):
            raise self._heard
        return self._heard


@pytest.mark.parametrize(
    ("heard", "after_seconds", "waited"),
    [
        (False, TURN_SECONDS, 0),
        (True, 0, BUSY_TURN_SECONDS),
        (True, 0.03, BUSY_TURN_SECONDS - 0.03),
        (True, 0.2, 0),
        (StatusUnavailable(), 0, TURN_SECONDS),
    ],
    ids=["nothing came", "at once", "soon", "later", "redis went away"],
)
def test_between_turns_it_listens_for_a_job(
    redis: Redis,
    heard: bool | Exception,  # noqa: FBT001
    after_seconds: float,
    waited: float,
) -> None:
    store, stop = _Listening(redis, heard, after_seconds), _Stop()
    Loop(store, Messages().broker(), LEASE, store.clock).run(stop)
    assert store.listened == [TURN_SECONDS]
    assert stop.waited == [pytest.approx(waited)]


def test_while_redis_is_away_or_there_is_much_to_do_it_does_not_listen(redis: Redis) -> None:
    store, stop, messages = _Listening(redis, heard=False), _Stop(), Messages()
    store.enqueue(BATCH, specs(1))
    Loop(store, messages.broker(), LEASE, Clock()).run(stop)
    assert (store.listened, stop.waited) == ([], [BUSY_TURN_SECONDS])

    def away(_: Priority) -> int:
        raise StatusUnavailable from RedisConnectionError()

    stop = _Stop()
    Loop(store, Broker(publish=messages.publish, waiting=away), LEASE, Clock()).run(stop)
    assert (store.listened, stop.waited) == ([], [TURN_SECONDS])


def test_a_loop_that_is_told_to_stop_in_a_turn_does_not_listen(redis: Redis) -> None:
    store, stop = _Listening(redis, heard=False), _Stop()
    Loop(store, Messages().broker(), LEASE, Clock(), chores=stop.set).run(stop)
    assert (store.listened, stop.waited) == ([], [])


def test_a_job_that_is_due_at_once_is_heard_of_once(store: StatusStore) -> None:
    store.enqueue(BATCH, specs(3))
    store.enqueue("b-2", specs(1))
    assert store.await_due(5)
    assert not store.await_due(0.01)
    loop = Loop(store, Messages().broker(), LEASE, Clock())
    loop.turn()
    assert not store.await_due(0.01)


def heard_of_and_claimed(store: StatusStore, *, taken_at_once: int) -> Claim:
    """Have a job run; its batch keeps its place in the line when no more are taken at once than it has."""
    store.enqueue(BATCH, specs(1))
    assert store.await_due(5)
    [(job, attempt)] = store.take_due(taken_at_once, 60)
    claimed = store.claim(job, attempt, "agent", LEASE)
    assert claimed
    return claimed[0]


def test_a_further_attempt_is_heard_of_when_it_is_due_at_once_only(store: StatusStore) -> None:
    claim = heard_of_and_claimed(store, taken_at_once=5)
    assert store.postpone(claim, JobError(kind=ErrorKind.INTERNAL, retryable=True, message="Not now."), 60)
    assert not store.await_due(0.01)
    assert store.cancel([claim.job])
    assert store.retry([claim.job])
    assert store.await_due(5)


def test_a_job_that_was_given_back_is_heard_of_though_its_batch_is_still_in_line(store: StatusStore) -> None:
    assert store.release(heard_of_and_claimed(store, taken_at_once=1))
    assert store.await_due(5)
