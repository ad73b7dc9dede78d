from redis import Redis

from config.settings import Target
from jobs.census import census
from jobs.errors import ErrorKind
from jobs.metrics import METRICS, series
from jobs.models import JobError, JobSpec, Priority, PublishedBundle, Timings
from jobs.store import StatusStore

LEASE = 60.0
ERROR = JobError(kind=ErrorKind.SERVER_ERROR, retryable=True, message="503")
BUNDLE = PublishedBundle(
    id="x", name="a", version="1", uri="file:///b", wheels=(), size_bytes=0, uploaded_bytes=0, visualizations=0
)
TAKEN = 0.05


def spec(requirement: str, priority: Priority = Priority.NORMAL, max_attempts: int = 5) -> JobSpec:
    return JobSpec(requirement=requirement, target=Target(), priority=priority, max_attempts=max_attempts)


def counted(redis: Redis, name: str) -> dict[tuple[str, ...], float]:
    sums = census(redis, "vizfetch").sums()
    return {each.labels: each.value for each in series(METRICS[name], sums) if each.value}


def test_jobs_are_counted_when_their_state_changes_and_only_then(redis: Redis) -> None:
    store = StatusStore(redis)
    ends = ["published", "unchanged", "failed", "retried", "postponed", "released", "cancelled"]
    store.enqueue("b", [spec(end) for end in ends])
    store.enqueue("b", [spec(end) for end in ends])  # the same again
    claims = {}
    for job, attempt in store.take_due(10, 3600):
        found = store.claim(job, attempt, "one", LEASE)
        assert found is not None
        claims[found[0].spec.requirement] = found[0]
    now = census(redis, "vizfetch")
    assert (now.queued, now.running) == (0, 7)
    for _ in range(2):  # the second time is refused, as is everything that comes too late
        store.finish_published(claims["published"], BUNDLE, Timings())
        store.finish_unchanged(claims["unchanged"], BUNDLE, Timings())
        store.finish_failed(claims["failed"], ERROR, Timings())
        store.finish_for_retry(claims["retried"], ERROR, Timings(), 3600)
        store.postpone(claims["postponed"], ERROR, 3600)
        store.release(claims["released"])
        store.cancel([claims["cancelled"].job])
    assert counted(redis, "vizfetch_jobs_ended") == {
        ("published", ""): 2,
        ("failed", "server_error"): 1,
        ("cancelled", "cancelled"): 1,
    }
    assert counted(redis, "vizfetch_jobs_unchanged") == {(): 1}
    assert counted(redis, "vizfetch_retries") == {("server_error",): 1}
    assert counted(redis, "vizfetch_postponements") == {("server_error",): 1}
    now = census(redis, "vizfetch")
    assert (now.queued, now.running) == (3, 0)
    line = now.lines[Priority.NORMAL]
    assert (line.due, line.later) == (1, 2)


def test_leases_that_run_out_are_counted_with_the_retry_or_the_end(redis: Redis) -> None:
    store = StatusStore(redis)
    store.enqueue("b", [spec("again"), spec("never", max_attempts=1)])
    for job, attempt in store.take_due(10, 3600):
        assert store.claim(job, attempt, "one", 0.001)
    while len(counted(redis, "vizfetch_lease_losses")) == 0 or census(redis, "vizfetch").running:
        store.reap()
    assert counted(redis, "vizfetch_lease_losses") == {(): 2}
    assert counted(redis, "vizfetch_retries") == {("worker_lost",): 1}
    assert counted(redis, "vizfetch_jobs_ended") == {("failed", "worker_lost"): 1}


def test_the_age_is_that_of_the_oldest_due_job_also_while_its_message_waits(redis: Redis) -> None:
    store = StatusStore(redis)
    assert {line.age_seconds for line in census(redis, "vizfetch").lines.values()} == {0}
    store.enqueue("b", [spec("a"), spec("b"), spec("c", Priority.HIGH)])
    seconds, micros = redis.time()
    now_ms = seconds * 1000 + micros // 1000
    first, *_ = (job for job, _ in store.take_due(10, 3600))
    redis.zadd("vizfetch:waiting:normal", {first: now_ms - 90_000})
    lines = census(redis, "vizfetch").lines
    assert 90 <= lines[Priority.NORMAL].age_seconds < 95
    assert lines[Priority.HIGH].age_seconds < 5
    assert (lines[Priority.NORMAL].due, lines[Priority.HIGH].due, lines[Priority.LOW].due) == (2, 1, 0)
    store.cancel([first])
    assert census(redis, "vizfetch").lines[Priority.NORMAL].age_seconds < 5
    store.retry([first])
    assert census(redis, "vizfetch").lines[Priority.NORMAL].due == 2
