"""Schedules on a real Valkey: each time once, whoever comes, and whatever happened in between."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from redis import Redis

from config.settings import Target
from jobs.models import JobSpec, JobState, Priority
from jobs.schedules import Added, Due, Ran, Schedules
from jobs.store import StatusStore

HOUR = 3600.0
NAMES = ("charts", "maps")


def specs(*requirements: str) -> list[JobSpec]:
    return [JobSpec(requirement=each, target=Target(), max_attempts=2) for each in requirements]


@pytest.fixture
def schedules(redis: Redis) -> Schedules:
    return Schedules(redis)


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    return StatusStore(redis)


def finish(store: StatusStore, batch: str) -> None:
    store.cancel(store.members(batch))


def make_due(redis: Redis, name: str, ago_seconds: float = 0) -> None:
    redis.zadd("vizfetch:schedules", {name: (redis.time()[0] - ago_seconds) * 1000})


def test_a_schedule_is_due_at_once_and_then_an_interval_later(schedules: Schedules, store: StatusStore) -> None:
    assert schedules.add("charts", specs("a", "b"), HOUR) is Added.ADDED
    (due,) = schedules.due()
    assert schedules.run(due) is Ran.QUEUED
    assert schedules.due() == []
    (found,) = schedules.all()
    assert (found.name, found.packages, found.skipped) == ("charts", 2, 0)
    assert 3595 < found.next_at.timestamp() - time.time() < 3605
    assert found.last
    assert (found.last.id, found.last.schedule) == (due.batch, "charts")
    assert [job.requirement for job in store.batch(due.batch).jobs] == ["a", "b"]


def test_many_schedulers_run_it_once(schedules: Schedules, store: StatusStore, redis: Redis) -> None:
    schedules.add("charts", specs("a"), HOUR)
    found = [schedules.due()[0] for _ in range(16)]
    assert len({due.batch for due in found}) == 1
    with ThreadPoolExecutor(8) as pool:
        ran = list(pool.map(lambda due: Schedules(redis).run(due), found))
    assert sorted(ran) == sorted([Ran.QUEUED] + [Ran.NOT_DUE] * 15)
    assert len(store.batches()) == 1


def test_a_run_is_skipped_while_the_one_before_goes_on(schedules: Schedules, store: StatusStore, redis: Redis) -> None:
    schedules.add("charts", specs("a"), HOUR)
    (first,) = schedules.due()
    schedules.run(first)
    for times in (1, 2):
        make_due(redis, "charts")
        assert schedules.run(schedules.due()[0]) is Ran.SKIPPED
        assert schedules.all()[0].skipped == times
    assert schedules.due() == []
    finish(store, first.batch)
    make_due(redis, "charts", ago_seconds=1)
    (later,) = schedules.due()
    assert schedules.run(later) is Ran.QUEUED
    assert later.batch != first.batch
    assert schedules.all()[0].skipped == 0


def test_what_was_missed_is_made_up_for_once(schedules: Schedules, redis: Redis) -> None:
    schedules.add("charts", specs("a"), 60)
    make_due(redis, "charts", ago_seconds=1000)
    (due,) = schedules.due()
    assert schedules.run(due) is Ran.QUEUED
    assert schedules.due() == []
    (found,) = schedules.all()
    assert (found.next_at.timestamp() * 1000 - due.due_ms) % 60_000 == 0, "it keeps its beat"


def test_adding_again_replaces_what_differs_and_leaves_what_does_not(schedules: Schedules, redis: Redis) -> None:
    schedules.add("charts", specs("a"), HOUR)
    (stale,) = schedules.due()
    schedules.run(stale)
    assert schedules.add("charts", specs("a"), HOUR) is Added.UNCHANGED
    assert schedules.due() == []
    make_due(redis, "charts")
    (stale,) = schedules.due()
    assert schedules.add("charts", specs("a", "b"), HOUR) is Added.REPLACED
    assert schedules.run(stale) is Ran.NOT_DUE
    assert schedules.all()[0].packages == 2


def test_one_that_was_removed_does_not_run(schedules: Schedules, store: StatusStore) -> None:
    schedules.add("charts", specs("a"), HOUR)
    (due,) = schedules.due()
    assert schedules.remove("charts")
    assert not schedules.remove("charts")
    assert schedules.run(due) is Ran.NOT_DUE
    assert (store.batches(), schedules.all()) == ([], [])


def test_a_batch_that_was_submitted_counts_as_the_last_run(schedules: Schedules, store: StatusStore) -> None:
    store.enqueue("b-1", specs("a", "x"))
    schedules.add("charts", specs("a"), HOUR, first_in_seconds=HOUR, batch="b-1")
    assert schedules.due() == []
    (found,) = schedules.all()
    assert found.last
    assert (found.last.id, found.last.counts[JobState.QUEUED]) == ("b-1", 2)
    assert store.batch("b-1").schedule == "charts"


def test_one_that_cannot_be_read_holds_up_no_other(schedules: Schedules, redis: Redis) -> None:
    for name in NAMES:
        schedules.add(name, specs("a"), HOUR)
    redis.hset("vizfetch:schedule:charts", "specs", '[{"version": 2}]')
    redis.zadd("vizfetch:schedules", {"ghost": 1})
    ran = {due.name: schedules.run(due) for due in schedules.due()}
    assert ran == {"charts": Ran.SKIPPED, "maps": Ran.QUEUED}
    assert schedules.due() == []


class Runs(RuleBasedStateMachine):
    """Schedulers that look and run in any order, beside users who change the schedules and batches that end."""

    redis: Redis

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushdb()
        self.schedules = Schedules(self.redis)
        self.store = StatusStore(self.redis)
        self.model: dict[str, tuple[str, ...]] = {}
        self.looked: list[Due] = []
        self.queued: dict[str, list[str]] = {name: [] for name in NAMES}
        self.ticks = 0

    @rule(name=st.sampled_from(NAMES), requirements=st.sampled_from([("a",), ("a", "b")]))
    def add(self, name: str, requirements: tuple[str, ...]) -> None:
        known = self.model.get(name)
        expected = Added.ADDED if known is None else Added.UNCHANGED if known == requirements else Added.REPLACED
        assert self.schedules.add(name, specs(*requirements), HOUR) is expected
        self.model[name] = requirements

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        assert self.schedules.remove(name) is (self.model.pop(name, None) is not None)

    @rule(name=st.sampled_from(NAMES))
    def time_passes(self, name: str) -> None:
        if name in self.model:
            self.ticks += 1
            # Each time another one, as it would be.
            self.redis.zadd("vizfetch:schedules", {name: self.redis.time()[0] * 1000 - 1_000_000 + self.ticks})

    @rule()
    def look(self) -> None:
        due = self.schedules.due()
        assert {each.name for each in due} <= set(self.model)
        self.looked += due

    @rule(pick=st.integers(0, 50))
    def run(self, pick: int) -> None:
        if not self.looked:
            return
        due = self.looked[pick % len(self.looked)]
        now_due = any(each == due for each in self.schedules.due())
        before = self.redis.hget(f"vizfetch:schedule:{due.name}", "batch")
        busy = bool(before) and not self.store.batch(str(before), jobs=False).finished
        ran = self.schedules.run(due)
        assert ran is (Ran.NOT_DUE if not now_due else Ran.SKIPPED if busy else Ran.QUEUED)
        if ran is Ran.QUEUED:
            assert due.batch not in self.queued[due.name]
            self.queued[due.name].append(due.batch)

    @rule(name=st.sampled_from(NAMES))
    def batch_ends(self, name: str) -> None:
        for batch in self.queued[name][-1:]:
            finish(self.store, batch)

    @invariant()
    def batches_are_those_that_were_queued(self) -> None:
        assert {batch.id for batch in self.store.batches(1000)} == {
            each for all_ in self.queued.values() for each in all_
        }

    @invariant()
    def schedules_are_those_of_the_model(self) -> None:
        assert {each.name: each.packages for each in self.schedules.all()} == {
            name: len(requirements) for name, requirements in self.model.items()
        }


def test_any_order_of_looks_and_runs(redis: Redis) -> None:
    machine = type("Machine", (Runs,), {"redis": redis})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_jobs_of_a_run_keep_their_priority(schedules: Schedules, store: StatusStore) -> None:
    urgent = JobSpec(requirement="a", target=Target(), priority=Priority.HIGH)
    schedules.add("charts", [urgent], HOUR)
    schedules.run(schedules.due()[0])
    assert store.take_due(1, 10, Priority.NORMAL) == []
    assert len(store.take_due(1, 10, Priority.HIGH)) == 1
