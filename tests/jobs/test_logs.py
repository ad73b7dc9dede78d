import pytest
from redis import Redis

from config.settings import Target
from jobs.errors import ErrorKind
from jobs.logs import KEPT_CHARACTERS, KEPT_LINES, pack, readable
from jobs.models import Claim, JobError, JobSpec, JobState, PublishedBundle, Timings
from jobs.store import StatusStore, UnknownJob

ERROR = JobError(kind=ErrorKind.SERVER_ERROR, retryable=True, message="503")
SPEC = JobSpec(requirement="acme-charts==1.0", target=Target())
JOB = SPEC.id("b-1")
KEY = f"vizfetch:log:{JOB}"
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
    found = StatusStore(redis, history_seconds=100)
    found.enqueue("b-1", [SPEC])
    return found


def claimed(store: StatusStore, attempt: int) -> Claim:
    found = store.claim(JOB, attempt, "agent", 30)
    assert found
    return found[0]


def test_the_last_three_attempts_are_kept(store: StatusStore, redis: Redis) -> None:
    assert store.log(JOB).attempts == ()
    for attempt in (1, 2, 3):
        assert store.finish_for_retry(claimed(store, attempt), ERROR, Timings(), 0, [f"said in {attempt}", "é <b>"])
    assert store.postpone(claimed(store, 4), ERROR, 0, ["asked later"])
    found = store.log(JOB)
    assert (found.job, found.batch, found.state, found.attempt) == (JOB, "b-1", JobState.QUEUED, 5)
    assert [(log.attempt, log.lines[0]) for log in found.attempts] == [
        (2, "said in 2"),
        (3, "said in 3"),
        (4, "asked later"),
    ]
    assert [log.attempt for log in found.only(3).attempts] == [3]
    assert found.only(9).attempts == ()
    assert redis.ttl(KEY) == -1, "kept as long as its batch has something to do"
    assert store.finish_published(claimed(store, 5), BUNDLE, Timings(), ["done"])
    assert 0 < redis.ttl(KEY) <= 100, "then as long as the job"


def test_a_retry_by_hand_keeps_what_was_said(store: StatusStore, redis: Redis) -> None:
    assert store.finish_failed(claimed(store, 1), ERROR, Timings(), ["first"])
    assert 0 < redis.ttl(KEY) <= 100
    assert store.retry([JOB]) == [JOB]
    assert redis.ttl(KEY) == -1
    assert [log.lines for log in store.log(JOB).attempts] == [("first",)]


def test_a_fenced_attempt_leaves_nothing(store: StatusStore, redis: Redis) -> None:
    claim = claimed(store, 1)
    store.cancel([JOB])
    assert not store.finish_failed(claim, ERROR, Timings(), ["too late"])
    assert not redis.exists(KEY)


def test_where_pip_did_not_run_nothing_is_written(store: StatusStore, redis: Redis) -> None:
    assert store.finish_unchanged(claimed(store, 1), BUNDLE, Timings())
    assert not redis.exists(KEY)


def test_an_unknown_job_is_said_to_be(store: StatusStore) -> None:
    with pytest.raises(UnknownJob):
        store.log("j-none")


def test_its_size_is_bounded(store: StatusStore) -> None:
    lines = [f"{number} " + "ä" * 5000 for number in range(1000)]
    assert store.finish_failed(claimed(store, 1), ERROR, Timings(), lines)
    (log,) = store.log(JOB).attempts
    assert sum(map(len, log.lines)) <= KEPT_CHARACTERS
    assert log.lines[-1].startswith("999 ä")
    assert len(log.lines[-1]) == 2001
    assert pack([]) == ""
    assert len(pack(str(number) for number in range(1000))) < 1000


def test_as_many_lines_as_promised(store: StatusStore) -> None:
    assert store.finish_failed(claimed(store, 1), ERROR, Timings(), [str(number) for number in range(1000)])
    (log,) = store.log(JOB).attempts
    assert log.lines == tuple(str(number) for number in range(1000 - KEPT_LINES, 1000))


def test_nothing_that_a_terminal_acts_upon() -> None:
    lines = ["\x1b[31mred\x1b[0m", "\x1b]0;title\x07x", "a\x08b\rc\tté", "\u202eevil", "\x9b2J", "plain"]
    assert readable(lines) == ("red", "x", "abc\tté", "evil", "2J", "plain")
