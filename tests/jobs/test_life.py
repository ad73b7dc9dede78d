"""Any sequence of what schedulers, workers and users do, on a real Valkey, against a model in Python."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from config.settings import Target
from jobs.errors import ErrorKind
from jobs.models import Claim, JobError, JobSpec, JobState, Priority, PublishedBundle, Timings
from jobs.store import StatusStore

BATCHES = ("b-1", "b-2", "b-3")
LONG = 3600.0
SHORT = 0.001
MAX_ATTEMPTS = 2
ERROR = JobError(kind=ErrorKind.SERVER_ERROR, retryable=True, message="503")
BUNDLE = PublishedBundle(
    id="x", name="a", version="1", uri="file:///b", wheels=(), size_bytes=0, uploaded_bytes=0, visualizations=0
)


@dataclass
class ModelJob:
    """What the store should know of a job."""

    batch: str
    priority: Priority
    state: JobState = JobState.QUEUED
    attempt: int = 1
    tries: int = 1
    waits: bool = False
    """Its message is not due for an hour: its time has not come, or it was published."""
    not_yet: bool = False
    """It may not even be claimed for an hour."""
    lapsed: bool = False
    """Its lease has run out."""

    @property
    def due(self) -> bool:
        return self.state is JobState.QUEUED and not self.waits

    def again(self, *, later: bool = False) -> None:
        self.state, self.waits, self.not_yet = JobState.QUEUED, later, later
        self.attempt += 1


@dataclass
class Model:
    jobs: dict[str, ModelJob] = field(default_factory=dict)

    def of(self, batch: str) -> dict[str, ModelJob]:
        return {name: job for name, job in self.jobs.items() if job.batch == batch}

    def holds(self, claim: Claim) -> bool:
        job = self.jobs[claim.job]
        return job.state is JobState.RUNNING and job.attempt == claim.attempt


def specs_of(count: int, start: int, priority: Priority) -> list[JobSpec]:
    return [
        JobSpec(requirement=f"p-{number}", target=Target(), max_attempts=MAX_ATTEMPTS, priority=priority)
        for number in range(start, start + count)
    ]


class Life(RuleBasedStateMachine):
    """All that can happen to jobs. Each rule says what the script has to answer; the invariants look at every key."""

    claims: "Bundle[Claim]" = Bundle("claims")

    redis: Redis
    """Of the test that runs the machine."""

    def __init__(self) -> None:
        super().__init__()
        self.redis.flushdb()
        self.store = StatusStore(self.redis)
        self.model = Model()

    # The control side.

    @rule(
        batch=st.sampled_from(BATCHES),
        count=st.integers(1, 4),
        start=st.integers(0, 4),
        priority=st.sampled_from(Priority),
    )
    def enqueue(self, batch: str, count: int, start: int, priority: Priority) -> None:
        specs = specs_of(count, start, priority)
        new = [spec for spec in specs if spec.id(batch) not in self.model.jobs]
        assert self.store.enqueue(batch, specs) == len(new)
        self.model.jobs |= {spec.id(batch): ModelJob(batch, spec.priority) for spec in new}

    @rule(limit=st.integers(1, 6), priority=st.sampled_from(Priority), again=st.sampled_from([0.0, LONG]))
    def take(self, limit: int, priority: Priority, again: float) -> None:
        due = {name: job for name, job in self.model.jobs.items() if job.due and job.priority is priority}
        taken = self.store.take_due(limit, again, priority)
        for name, attempt in taken:
            assert due[name].attempt == attempt
        if not again:
            assert len(taken) == (limit if due else 0)
            return
        assert len({name for name, _ in taken}) == len(taken) == min(limit, len(due))
        for name, _ in taken:
            self.model.jobs[name].waits = True
        self.check_fairness(Counter(job.batch for job in due.values()), Counter(due[name].batch for name, _ in taken))

    @rule(pick=st.integers(0, 30), stale=st.booleans(), later=st.booleans())
    def defer(self, pick: int, stale: bool, later: bool) -> None:  # noqa: FBT001 - drawn values
        if not self.model.jobs:
            return
        name = list(self.model.jobs)[pick % len(self.model.jobs)]
        job = self.model.jobs[name]
        deferred = job.state is JobState.QUEUED and not stale
        assert self.store.defer(name, job.attempt - stale, LONG if later else 0) is deferred
        if deferred:
            job.waits = later

    @staticmethod
    def check_fairness(due: Counter[str], taken: Counter[str]) -> None:
        left = [batch for batch in due if taken[batch] < due[batch]]
        for batch in left:
            assert max(taken.values()) <= taken[batch] + 1, "a batch that had more to do was passed over"

    @rule()
    def reap(self) -> None:
        time.sleep(2 * SHORT)
        lost = {name: job for name, job in self.model.jobs.items() if job.state is JobState.RUNNING and job.lapsed}
        reaped = dict(self.store.reap())
        assert set(reaped) == set(lost)
        for name, job in lost.items():
            if job.tries >= MAX_ATTEMPTS:
                job.state = JobState.FAILED
            else:
                job.tries += 1
                job.again()
            assert reaped[name] is job.state

    @rule(batch=st.sampled_from(BATCHES), picks=st.sets(st.integers(0, 8)))
    def cancel(self, batch: str, picks: set[int]) -> None:
        chosen = self.pick(batch, picks)
        stopped = [name for name in chosen if not self.model.jobs[name].state.final]
        assert self.store.cancel(chosen) == stopped
        for name in stopped:
            self.model.jobs[name].state = JobState.CANCELLED

    @rule(batch=st.sampled_from(BATCHES), picks=st.sets(st.integers(0, 8)))
    def retry(self, batch: str, picks: set[int]) -> None:
        chosen = self.pick(batch, picks)
        ended = [name for name in chosen if self.model.jobs[name].state in {JobState.FAILED, JobState.CANCELLED}]
        assert self.store.retry(chosen) == ended
        for name in ended:
            job = self.model.jobs[name]
            job.tries = 1
            job.again()

    def pick(self, batch: str, picks: set[int]) -> list[str]:
        names = list(self.model.of(batch))
        return [names[number] for number in sorted(picks) if number < len(names)]

    # The agent side.

    @rule(target=claims, pick=st.integers(0, 30), stale=st.booleans(), lease=st.sampled_from([SHORT, LONG]))
    def claim(self, pick: int, stale: bool, lease: float) -> "Claim | MultipleResults[Claim]":  # noqa: FBT001 - a drawn value
        if not self.model.jobs:
            return multiple()
        name = list(self.model.jobs)[pick % len(self.model.jobs)]
        job = self.model.jobs[name]
        attempt = job.attempt - stale
        found = self.store.claim(name, attempt, "agent", lease)
        if job.state is not JobState.QUEUED or stale or job.not_yet:
            assert found is None
            return multiple()
        assert found
        claim, _ = found
        assert (claim.batch, claim.attempt, claim.tries) == (job.batch, job.attempt, job.tries)
        job.state, job.lapsed, job.waits = JobState.RUNNING, lease == SHORT, False
        return claim

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        held = self.model.holds(claim)
        assert self.store.renew(claim, LONG) is held
        if held:
            self.model.jobs[claim.job].lapsed = False

    @rule(claim=claims, published=st.booleans())
    def finish(self, claim: Claim, published: bool) -> None:  # noqa: FBT001 - a drawn value
        held = self.model.holds(claim)
        if published:
            assert self.store.finish_published(claim, BUNDLE, Timings()) is held
        else:
            assert self.store.finish_failed(claim, ERROR, Timings()) is held
        if held:
            self.model.jobs[claim.job].state = JobState.PUBLISHED if published else JobState.FAILED

    @rule(claim=claims, later=st.booleans())
    def finish_for_retry(self, claim: Claim, later: bool) -> None:  # noqa: FBT001 - a drawn value
        held = self.model.holds(claim)
        assert self.store.finish_for_retry(claim, ERROR, Timings(), LONG if later else 0) is held
        if held:
            self.model.jobs[claim.job].tries += 1
            self.model.jobs[claim.job].again(later=later)

    @rule(claim=claims, later=st.booleans())
    def postpone(self, claim: Claim, later: bool) -> None:  # noqa: FBT001 - a drawn value
        held = self.model.holds(claim)
        assert self.store.postpone(claim, ERROR, LONG if later else 0) is held
        if held:
            self.model.jobs[claim.job].again(later=later)

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        held = self.model.holds(claim)
        assert self.store.release(claim) is held
        if held:
            self.model.jobs[claim.job].again()

    # What must hold at any time.

    @invariant()
    def jobs_are_as_in_the_model(self) -> None:
        for name, job in self.model.jobs.items():
            found = self.redis.hmget(f"vizfetch:job:{name}", "state", "attempt", "tries")
            assert found == [job.state, str(job.attempt), str(job.tries)]

    @invariant()
    def counts_are_the_truth(self) -> None:
        for batch in {job.batch for job in self.model.jobs.values()}:
            jobs = self.model.of(batch)
            truth = Counter(job.state for job in jobs.values())
            assert self.store.batch(batch, jobs=False).counts == {state: truth[state] for state in JobState}
            assert self.store.members(batch) == list(jobs)
            for state in (JobState.RUNNING, JobState.FAILED):
                listed = self.redis.smembers(f"vizfetch:batch:{batch}:{state}")
                assert listed == {name for name, job in jobs.items() if job.state is state}
        states = Counter(job.state for job in self.model.jobs.values())
        assert self.store.unfinished() == (states[JobState.QUEUED], states[JobState.RUNNING])

    @invariant()
    def leases_are_those_of_the_running(self) -> None:
        running = {name for name, job in self.model.jobs.items() if job.state is JobState.RUNNING}
        assert set(self.redis.zrange("vizfetch:leases", 0, -1)) == running

    @invariant()
    def the_due_are_the_queued_and_each_gets_its_turn(self) -> None:
        for priority in Priority:
            ready = set(self.redis.zrange(f"vizfetch:ready:{priority}", 0, -1))
            later = self.scored(f"vizfetch:later:{priority}")
            assert not ready & set(later)
            for batch in BATCHES:
                due = self.scored(f"vizfetch:due:{priority}:{batch}")
                queued = {
                    name
                    for name, job in self.model.of(batch).items()
                    if job.priority is priority and job.state is JobState.QUEUED
                }
                assert set(due) == queued
                assert not due or batch in ready or later[batch] <= min(due.values())

    @invariant()
    def the_waiting_are_the_queued_by_when_they_came_or_will_be_due(self) -> None:
        for priority in Priority:
            waiting = self.scored(f"vizfetch:waiting:{priority}")
            queued = {
                name
                for name, job in self.model.jobs.items()
                if job.priority is priority and job.state is JobState.QUEUED
            }
            assert set(waiting) == queued
            for name, at in waiting.items():
                assert float(self.redis.hget(f"vizfetch:job:{name}", "queued_ms") or 0) == at

    def scored(self, key: str) -> dict[str, float]:
        return dict(cast("list[tuple[str, float]]", self.redis.zrange(key, 0, -1, withscores=True)))

    @invariant()
    def a_batch_expires_as_a_whole_once_it_is_finished(self) -> None:
        for batch in {job.batch for job in self.model.jobs.values()}:
            jobs = self.model.of(batch)
            finished = all(job.state.final for job in jobs.values())
            keys = [f"vizfetch:batch:{batch}", f"vizfetch:batch:{batch}:jobs", *(f"vizfetch:job:{job}" for job in jobs)]
            assert {self.redis.ttl(key) > 0 for key in keys} == {finished}


def test_every_sequence_of_events_keeps_the_books_right(redis: Redis) -> None:
    class Here(Life):
        pass

    Here.redis = redis
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
