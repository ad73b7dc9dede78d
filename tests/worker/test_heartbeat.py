import time
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from redis import Redis

from config.settings import RedisSettings, Target
from jobs.connection import connect
from jobs.models import Claim, JobSpec, JobState, Progress
from jobs.store import StatusStore
from worker.errors import Fenced, Stopping
from worker.heartbeat import Heartbeat, LeaseKeeper

BATCH = "b-1"
SPEC = JobSpec(requirement="acme", target=Target())
LEASE = 0.3


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    store = StatusStore(redis)
    store.enqueue(BATCH, [SPEC])
    return store


@pytest.fixture
def claim(store: StatusStore) -> Claim:
    found = store.claim(SPEC.id(BATCH), 1, "agent", LEASE)
    assert found
    return found[0]


@pytest.fixture
def keeper(store: StatusStore) -> Iterator[LeaseKeeper]:
    keeper = LeaseKeeper(store, LEASE)
    yield keeper
    keeper.close()


@pytest.fixture
def heartbeat(keeper: LeaseKeeper, claim: Claim) -> Iterator[Heartbeat]:
    with keeper.keep(claim, stopping=lambda: False) as heartbeat:
        yield heartbeat


def eventually(condition: object) -> bool:
    assert callable(condition)
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_lease_is_held_for_as_long_as_it_beats(store: StatusStore, heartbeat: Heartbeat) -> None:
    time.sleep(3 * LEASE)
    assert store.reap() == []
    heartbeat.check()


def test_it_runs_out_when_the_beating_ends(store: StatusStore, keeper: LeaseKeeper, claim: Claim) -> None:
    with keeper.keep(claim, stopping=lambda: False):
        pass
    time.sleep(2 * LEASE)
    assert store.reap() == [(claim.job, JobState.QUEUED)]


@pytest.mark.parametrize("pause_seconds", [0, 2 * LEASE])
def test_the_leases_of_later_attempts_are_held_too(
    store: StatusStore, keeper: LeaseKeeper, claim: Claim, pause_seconds: float
) -> None:
    with keeper.keep(claim, stopping=lambda: False):
        pass
    assert store.release(claim)
    time.sleep(pause_seconds)
    again = store.claim(claim.job, claim.attempt + 1, "agent", LEASE)
    assert again
    with keeper.keep(again[0], stopping=lambda: False) as heartbeat:
        time.sleep(3 * LEASE)
        assert store.reap() == []
        heartbeat.check()


def test_attempts_that_are_over_sooner_than_a_renewal_is_due_ask_redis_nothing(
    redis: Redis, keeper: LeaseKeeper, claim: Claim
) -> None:
    with keeper.keep(claim, stopping=lambda: False):
        time.sleep(LEASE)  # it is awake now
    before = redis.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"]
    for _ in range(1000):
        with keeper.keep(claim, stopping=lambda: False):
            pass
    assert redis.info("commandstats")["cmdstat_evalsha"]["calls"] - before < 100


def test_progress_is_shown(store: StatusStore, claim: Claim, heartbeat: Heartbeat) -> None:
    progress = Progress(step="download", wheels=2, size_bytes=10)
    heartbeat.report(progress)
    assert eventually(lambda: store.job(claim.job).progress == progress)


def test_a_cancelled_attempt_learns_that_it_is_fenced(store: StatusStore, claim: Claim, heartbeat: Heartbeat) -> None:
    store.cancel([claim.job])
    assert eventually(lambda: heartbeat.fenced)
    with pytest.raises(Fenced):
        heartbeat.check()


def test_a_redis_that_does_not_answer_is_no_reason_to_stop(claim: Claim) -> None:
    nobody = connect(RedisSettings(url=SecretStr("redis://127.0.0.1:1/0")))
    keeper = LeaseKeeper(StatusStore(nobody), LEASE)
    with keeper.keep(claim, stopping=lambda: False) as heartbeat:
        time.sleep(2 * LEASE)
        heartbeat.check()
    keeper.close()


def test_a_worker_that_stops_ends_its_attempts(keeper: LeaseKeeper, claim: Claim) -> None:
    stopping = False
    with keeper.keep(claim, stopping=lambda: stopping) as heartbeat:
        heartbeat.check()
        stopping = True
        with pytest.raises(Stopping):
            heartbeat.check()
        with pytest.raises(Stopping):
            heartbeat.fenced_or_stopping()
