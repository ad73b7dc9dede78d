import time

import pytest
from pydantic import SecretStr
from redis import Redis

from config.settings import RedisSettings, Target
from jobs.connection import connect
from jobs.errors import ErrorKind
from jobs.models import Claim, JobError, JobSpec, JobState, Progress, PublishedBundle, Timings
from jobs.store import StatusStore, StatusUnavailable, UnknownJob, UnreadableJob

BATCH = "b-1"
LEASE = 30.0
ERROR = JobError(kind=ErrorKind.SERVER_ERROR, retryable=True, index="pypi[0]", message="503")
BUNDLE = PublishedBundle(
    id="abc",
    name="acme-charts",
    version="1.0",
    uri="file:///b",
    wheels=("a.whl",),
    size_bytes=1,
    uploaded_bytes=1,
    visualizations=3,
)


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    return StatusStore(redis)


def spec(requirement: str = "acme-charts==1.0", **more: int) -> JobSpec:
    return JobSpec(requirement=requirement, target=Target(), max_attempts=more.get("max_attempts", 3))


def submitted(store: StatusStore, job: JobSpec) -> str:
    store.enqueue(BATCH, [job])
    return job.id(BATCH)


def claimed(store: StatusStore, job: str, attempt: int = 1, *, lease: float = LEASE) -> Claim:
    found = store.claim(job, attempt, "agent", lease)
    assert found
    return found[0]


def test_a_job_goes_from_queued_over_running_to_published(store: StatusStore) -> None:
    job = submitted(store, spec())
    assert store.job(job).state is JobState.QUEUED
    claim = claimed(store, job)
    assert claim.spec.requirement == "acme-charts==1.0"
    assert store.job(job).worker == "agent"
    assert store.finish_published(claim, BUNDLE, Timings(download=1.5))
    found = store.job(job)
    assert (found.state, found.bundle, found.error) == (JobState.PUBLISHED, BUNDLE, None)
    assert found.timings.download == 1.5
    batch = store.batch(BATCH)
    assert (batch.finished, batch.succeeded) == (True, True)
    assert store.unfinished() == (0, 0)


def test_submitting_twice_is_harmless(store: StatusStore) -> None:
    assert store.enqueue(BATCH, [spec("a"), spec("b")]) == 2
    assert store.enqueue(BATCH, [spec("a"), spec("b"), spec("c")]) == 1
    assert store.batch(BATCH).counts[JobState.QUEUED] == 3
    assert [job.requirement for job in store.batch(BATCH).jobs] == ["a", "b", "c"]


def test_submitting_again_does_not_disturb_a_running_job(store: StatusStore) -> None:
    job = submitted(store, spec())
    claim = claimed(store, job)
    submitted(store, spec())
    assert store.renew(claim, LEASE)
    assert store.job(job).state is JobState.RUNNING


def test_an_attempt_is_claimed_once(store: StatusStore) -> None:
    job = submitted(store, spec())
    claimed(store, job)
    assert store.claim(job, 1, "another", LEASE) is None


def test_a_claim_whose_answer_was_lost_is_given_again_to_whoever_made_it(store: StatusStore) -> None:
    job = submitted(store, spec())
    first = store.claim(job, 1, "agent", 0.05, claimant="one")
    time.sleep(0.1)
    again = store.claim(job, 1, "agent", LEASE, claimant="one")
    assert first
    assert again
    assert first[0] == again[0]
    assert store.reap() == [], "and its lease begins anew"
    assert store.claim(job, 1, "agent", LEASE, claimant="other") is None
    assert store.batch(BATCH).counts[JobState.RUNNING] == 1
    assert store.release(again[0])
    assert store.claim(job, 1, "agent", LEASE, claimant="one") is None
    assert store.claim(job, 2, "agent", LEASE, claimant="other")


def test_a_job_of_a_newer_version_is_left_to_those_who_can_read_it(redis: Redis, store: StatusStore) -> None:
    job = submitted(store, spec())
    text = spec().as_json().replace('"version":1', '"version":2')
    redis.hset(f"vizfetch:job:{job}", "spec", text)
    with pytest.raises(UnreadableJob, match="newer version"):
        _ = store.orders([job])[job].spec
    with pytest.raises(UnreadableJob, match="newer version"):
        store.claim(job, 1, "agent", LEASE)
    found = store.job(job)
    assert (found.state, found.attempt) == (JobState.QUEUED, 2)
    assert redis.hget(f"vizfetch:job:{job}", "tries") == "1"
    assert store.take_due(1, 60) == [], "it must not go round and round"


@pytest.mark.parametrize("attempt", [0, 2])
def test_an_attempt_that_is_not_the_current_one_cannot_be_claimed(store: StatusStore, attempt: int) -> None:
    job = submitted(store, spec())
    assert store.claim(job, attempt, "agent", LEASE) is None


def test_an_unknown_job_cannot_be_claimed(store: StatusStore) -> None:
    assert store.claim("j-none", 1, "agent", LEASE) is None


def test_a_retry_is_a_new_attempt_that_waits_for_its_time(store: StatusStore) -> None:
    job = submitted(store, spec())
    claim = claimed(store, job)
    assert store.finish_for_retry(claim, ERROR, Timings(), delay_seconds=0.2)
    found = store.job(job)
    assert (found.state, found.attempt, found.error) == (JobState.QUEUED, 2, ERROR)
    assert store.take_due(10, 60) == []
    assert store.claim(job, 2, "agent", LEASE) is None
    time.sleep(0.25)
    assert store.take_due(10, 60) == [(job, 2)]
    assert claimed(store, job, 2).tries == 2


def test_what_is_due_is_handed_out_once_and_again_later(store: StatusStore) -> None:
    job = submitted(store, spec())
    assert store.take_due(10, 0.1) == [(job, 1)]
    assert store.take_due(10, 0.1) == []
    time.sleep(0.15)
    assert store.take_due(10, 60) == [(job, 1)]


def test_what_is_claimed_is_due_no_more(store: StatusStore) -> None:
    job = submitted(store, spec())
    claimed(store, job)
    assert store.take_due(10, 0) == []


def test_an_expired_lease_gives_the_job_to_the_next_attempt_and_fences_the_last(store: StatusStore) -> None:
    job = submitted(store, spec())
    claim = claimed(store, job, lease=0.05)
    time.sleep(0.1)
    assert store.reap() == [(job, JobState.QUEUED)]
    assert store.reap() == []
    assert not store.renew(claim, LEASE)
    assert not store.finish_published(claim, BUNDLE, Timings())
    assert not store.finish_failed(claim, ERROR, Timings())
    assert not store.finish_for_retry(claim, ERROR, Timings(), 0)
    assert not store.release(claim)
    found = store.job(job)
    assert (found.state, found.attempt, found.bundle) == (JobState.QUEUED, 2, None)
    assert found.error
    assert found.error.kind is ErrorKind.WORKER_LOST


def test_a_renewed_lease_is_not_reaped(store: StatusStore) -> None:
    job = submitted(store, spec())
    claim = claimed(store, job, lease=0.05)
    assert store.renew(claim, LEASE, Progress(step="download", wheels=3, size_bytes=9))
    time.sleep(0.1)
    assert store.reap() == []
    progress = store.job(job).progress
    assert progress
    assert progress.wheels == 3


def test_a_job_whose_worker_is_lost_each_time_fails_after_its_last_try(store: StatusStore) -> None:
    job = submitted(store, spec(max_attempts=2))
    for attempt, state in ((1, JobState.QUEUED), (2, JobState.FAILED)):
        claimed(store, job, attempt, lease=0.02)
        time.sleep(0.05)
        assert store.reap() == [(job, state)]
    found = store.job(job)
    assert found.error
    assert (found.state, found.error.kind) == (JobState.FAILED, ErrorKind.WORKER_LOST)
    assert store.batch(BATCH).finished


def test_a_released_attempt_is_not_counted(store: StatusStore) -> None:
    job = submitted(store, spec())
    assert store.release(claimed(store, job))
    again = claimed(store, job, 2)
    assert (again.attempt, again.tries) == (2, 1)


def test_a_cancelled_job_is_fenced(store: StatusStore) -> None:
    queued, running = spec("a").id(BATCH), spec("b").id(BATCH)
    store.enqueue(BATCH, [spec("a"), spec("b")])
    claim = claimed(store, running)
    assert store.cancel([queued, running, "j-none"]) == [queued, running]
    assert store.cancel([queued, running]) == []
    assert not store.renew(claim, LEASE)
    assert store.take_due(10, 60) == []
    assert store.batch(BATCH).counts[JobState.CANCELLED] == 2


def test_a_failed_job_can_be_retried_with_all_its_tries(store: StatusStore) -> None:
    job = submitted(store, spec())
    assert store.retry([job]) == []
    assert store.finish_failed(claimed(store, job), ERROR, Timings())
    assert store.job(job).error == ERROR
    assert store.retry([job]) == [job]
    again = claimed(store, job, 2)
    assert again.tries == 1
    assert store.job(job).error is None


def test_what_has_ended_expires_and_what_is_retried_does_not(redis: Redis) -> None:
    store = StatusStore(redis, history_seconds=100)
    job = submitted(store, spec())
    keys = [f"vizfetch:job:{job}", f"vizfetch:batch:{BATCH}", f"vizfetch:batch:{BATCH}:jobs"]
    assert [redis.ttl(key) for key in keys] == [-1, -1, -1]
    store.finish_failed(claimed(store, job), ERROR, Timings())
    assert all(0 < int(redis.ttl(key)) <= 100 for key in keys)
    store.retry([job])
    assert [redis.ttl(key) for key in keys] == [-1, -1, -1]


def test_an_expired_batch_leaves_the_list(redis: Redis, store: StatusStore) -> None:
    submitted(store, spec())
    assert [batch.id for batch in store.batches()] == [BATCH]
    redis.delete(f"vizfetch:batch:{BATCH}")
    assert store.batches() == []
    assert redis.zcard("vizfetch:batches") == 0


def test_expired_batches_leave_the_list_though_older_ones_never_end(redis: Redis) -> None:
    store = StatusStore(redis)
    for number in range(20):
        store.enqueue(f"b-old-{number}", [spec()])
    for number in range(300):
        store.enqueue(f"b-{number}", [spec()])
        redis.delete(f"vizfetch:batch:b-{number}")
    assert int(redis.zcard("vizfetch:batches")) < 100


def test_a_batch_leaves_nothing_behind_that_does_not_expire(redis: Redis) -> None:
    store = StatusStore(redis, history_seconds=100)
    store.enqueue(BATCH, [spec("a"), spec("b"), spec("c"), spec("d")])
    names = store.members(BATCH)
    assert store.take_due(4, 60)
    for job in names[:3]:
        store.note(job, "waits")
    assert store.finish_published(claimed(store, names[0]), BUNDLE, Timings())
    assert store.finish_failed(claimed(store, names[1]), ERROR, Timings())
    assert store.finish_for_retry(claimed(store, names[2]), ERROR, Timings(), 0.05)
    store.cancel(names[2:])
    store.retry(names[1:3])
    assert store.take_due(4, 0.05)
    store.cancel(names)
    time.sleep(0.1)
    assert store.take_due(4, 60) == []
    kept = {str(key) for key in redis.scan_iter() if redis.ttl(str(key)) < 0}
    assert kept == {f"vizfetch:{name}" for name in ("batches", "queued", "turn", "bell", "totals", "catalog")}


def test_unknown_ids_are_said_to_be_unknown(store: StatusStore) -> None:
    with pytest.raises(UnknownJob):
        store.job("j-none")
    with pytest.raises(UnknownJob):
        store.batch("b-none")


def test_two_deployments_do_not_see_each_other(redis: Redis) -> None:
    one, other = StatusStore(redis, prefix="one"), StatusStore(redis, prefix="other")
    one.enqueue(BATCH, [spec()])
    assert other.take_due(10, 60) == []
    assert other.batches() == []


def test_scripts_are_loaded_again_after_a_flush(redis: Redis, store: StatusStore) -> None:
    submitted(store, spec())
    redis.script_flush()
    assert len(store.take_due(10, 60)) == 1


def test_a_redis_that_is_down_is_said_to_be_down_without_its_password() -> None:
    url = SecretStr("redis://:planted-redis-password@127.0.0.1:1/0")
    client = connect(RedisSettings(url=url))
    with pytest.raises(StatusUnavailable) as caught:
        StatusStore(client).ping()
    assert "planted" not in str(caught.value)


def test_ten_thousand_jobs_are_one_batch(store: StatusStore) -> None:
    assert store.enqueue(BATCH, [spec(f"package-{number}") for number in range(10_000)]) == 10_000
    assert store.batch(BATCH, jobs=False).counts[JobState.QUEUED] == 10_000


def test_a_value_that_is_no_text_is_said_to_be_so(redis: Redis, store: StatusStore) -> None:
    job = submitted(store, spec())
    redis.hset(f"vizfetch:job:{job}", "traceparent", b"\xff")
    with pytest.raises(StatusUnavailable, match="is not text"):
        store.orders([job])
    redis.hdel(f"vizfetch:job:{job}", "traceparent")
