import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest
from pydantic import SecretStr
from redis import Redis
from structlog.testing import capture_logs

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
    before = _renewals(redis)
    for _ in range(200):
        with keeper.keep(claim, stopping=lambda: False):
            time.sleep(LEASE / 100)
    assert _renewals(redis) - before < 100


def test_the_lease_that_ends_a_rest_is_not_renewed_at_once(redis: Redis, keeper: LeaseKeeper, claim: Claim) -> None:
    before = _renewals(redis)
    for _ in range(3):
        with keeper.keep(claim, stopping=lambda: False):
            time.sleep(LEASE / 100)
        time.sleep(LEASE)
    assert _renewals(redis) == before


def _renewals(redis: Redis) -> int:
    stats = cast("dict[str, dict[str, int]]", redis.info("commandstats"))
    return sum(stats[each]["calls"] for each in ("cmdstat_evalsha", "cmdstat_eval") if each in stats)


def test_progress_is_shown(store: StatusStore, claim: Claim, heartbeat: Heartbeat) -> None:
    progress = Progress(step="download", wheels=2, size_bytes=10)
    heartbeat.report(progress)
    assert eventually(lambda: store.job(claim.job).progress == progress)


def test_a_cancelled_attempt_learns_that_it_is_fenced(
    redis: Redis, store: StatusStore, claim: Claim, heartbeat: Heartbeat
) -> None:
    store.cancel([claim.job])
    assert eventually(lambda: heartbeat.fenced)
    with pytest.raises(Fenced):
        heartbeat.check()
    before = _renewals(redis)
    time.sleep(LEASE)
    assert _renewals(redis) == before, "what is lost is asked for no more"


class _Broken(StatusStore):
    """Makes a mistake at the first renewal."""

    broke = False

    def renew(self, claim: Claim, lease_seconds: float, progress: Progress | None = None) -> bool:
        if not self.broke:
            self.broke = True
            raise ValueError("a mistake")
        return super().renew(claim, lease_seconds, progress)


def test_a_mistake_costs_no_lease(redis: Redis, store: StatusStore, claim: Claim) -> None:
    broken = _Broken(redis)
    keeper = LeaseKeeper(broken, LEASE)
    with capture_logs() as logged, keeper.keep(claim, stopping=lambda: False) as heartbeat:
        time.sleep(3 * LEASE)
        assert store.reap() == []
        heartbeat.check()
    keeper.close()
    assert [entry["event"] for entry in logged] == ["heartbeat_failed"]
    assert broken.broke


def test_a_block_is_not_left_while_its_lease_is_renewed(redis: Redis, claim: Claim) -> None:
    begun, ended = threading.Event(), threading.Event()

    class Slow(StatusStore):
        def renew(self, claim: Claim, lease_seconds: float, progress: Progress | None = None) -> bool:
            begun.set()
            time.sleep(LEASE)
            ended.set()
            return super().renew(claim, lease_seconds, progress)

    keeper = LeaseKeeper(Slow(redis), LEASE)
    with keeper.keep(claim, stopping=lambda: False):
        assert begun.wait(10)
    assert ended.is_set()
    keeper.close()


def test_a_keeper_that_is_closed_leaves_no_thread(store: StatusStore) -> None:
    before = threading.active_count()
    keeper = LeaseKeeper(store, LEASE)
    assert threading.active_count() == before + 1
    keeper.close()
    assert eventually(lambda: threading.active_count() == before)


def test_a_redis_that_does_not_answer_is_no_reason_to_stop(claim: Claim) -> None:
    nobody = connect(RedisSettings(url=SecretStr("redis://127.0.0.1:1/0")))
    keeper = LeaseKeeper(StatusStore(nobody), LEASE)
    with keeper.keep(claim, stopping=lambda: False) as heartbeat:
        time.sleep(2 * LEASE)
        heartbeat.check()
        assert not heartbeat.fenced
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
