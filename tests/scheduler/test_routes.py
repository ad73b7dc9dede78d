"""The way of messages to the queues of agents that serve them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from redis import Redis

from config.settings import RedisSettings, Target
from jobs.agents import AgentDocument, Agents
from jobs.models import JobSpec
from jobs.queue import celery_app, queue_for
from jobs.store import StatusStore
from scheduler.loop import WINDOW, Broker, Loop
from scheduler.routes import Routes

LEASE = 3600.0
PLAIN = JobSpec(requirement="plain", target=Target())
PINNED = JobSpec(requirement="pinned", target=Target(), index="pypi[1]")


@dataclass
class Clock:
    now: float = 0

    def __call__(self) -> float:
        return self.now


@dataclass
class Control:
    """A loop with its routes, whose clock stands still unless it is told."""

    redis: Redis
    store: StatusStore
    loop: Loop
    clock: Clock

    def turn(self, *, later: float = 2) -> None:
        self.clock.now += later
        self.loop.turn()

    def waiting(self, spec: JobSpec) -> int:
        return int(self.redis.llen(f"vizfetch:celery:{queue_for(spec)}\x06\x163"))

    def consume(self, spec: JobSpec, count: int) -> None:
        for _ in range(count):
            self.redis.rpop(f"vizfetch:celery:{queue_for(spec)}\x06\x163")


@pytest.fixture
def control(redis: Redis, redis_settings: RedisSettings) -> Iterator[Control]:
    app = celery_app(redis_settings)
    store, clock = StatusStore(redis), Clock()
    routes = Routes(redis, app, redis_settings, store, clock)
    yield Control(redis, store, Loop(store, Broker(routes.publish, routes.waiting), LEASE, clock), clock)
    app.close()


def agent(redis: Redis, *specs: JobSpec) -> None:
    now = datetime.now(UTC)
    document = AgentDocument(
        id="a-1",
        nickname="one",
        host="host",
        pid=1,
        release="1",
        target=Target(),
        indexes=(),
        fingerprint="x",
        queues=tuple(map(queue_for, specs)),
        concurrency=1,
        running=(),
        free_bytes=0,
        started_at=now,
        beat_at=now,
    )
    Agents(redis, "vizfetch").announce(document, 600)


def many(count: int) -> list[JobSpec]:
    return [JobSpec(requirement=f"p-{number}", target=Target()) for number in range(count)]


def test_a_queue_is_filled_to_its_window_and_again_as_soon_as_it_has_room(control: Control) -> None:
    agent(control.redis, PLAIN, PINNED)
    control.store.enqueue("b-1", many(WINDOW + 10))
    for _ in range(3):
        control.turn()
    assert control.waiting(PLAIN) == WINDOW
    control.consume(PLAIN, WINDOW)
    wait_for_due(control, 10)
    assert control.waiting(PLAIN) == 10


def test_a_full_queue_holds_up_no_other(control: Control) -> None:
    agent(control.redis, PLAIN, PINNED)
    control.store.enqueue("b-1", many(3 * WINDOW))
    control.turn()
    control.store.enqueue("b-2", [PINNED])
    control.turn()
    assert control.waiting(PINNED) == 1


def test_a_job_that_nobody_served_is_published_soon_after_somebody_does(control: Control) -> None:
    control.store.enqueue("b-1", [PLAIN])
    control.turn()
    control.turn(later=11)  # an agent might have been just starting
    (job,) = control.store.batch("b-1").jobs
    assert job.waiting
    agent(control.redis, PLAIN)
    wait_for_due(control, 1)
    assert control.store.batch("b-1").jobs[0].waiting is None


def test_what_a_newer_version_submitted_or_announced_stops_no_scheduler(control: Control) -> None:
    agent(control.redis, PLAIN)
    own = control.redis.get("vizfetch:agent:a-1")
    later = json.loads(str(own))
    for name, change in (("a-2", {"version": 2}), ("a-3", {"mood": "good", "nickname": "three"})):
        control.redis.set(f"vizfetch:agent:{name}", json.dumps(later | {"id": name} | change))
        control.redis.sadd("vizfetch:agents", name)
    assert [found.id for found in Agents(control.redis, "vizfetch").all()] == ["a-1", "a-3"]
    control.store.enqueue("b-1", [PLAIN])
    (job,) = control.store.members("b-1")
    control.redis.hset(f"vizfetch:job:{job}", "spec", PLAIN.as_json().replace('"anew"', '"mood"'))
    control.store.enqueue("b-2", many(1))
    control.turn()
    assert control.waiting(PLAIN) == 1
    assert "newer version" in str(control.store.job(job).waiting)


def wait_for_due(control: Control, count: int) -> None:
    """Take turns until ``count`` messages wait; far sooner than two leases."""
    for _ in range(100):
        control.turn()
        if control.waiting(PLAIN) == count:
            return
        control.redis.blpop(["nothing"], timeout=0.05)
    pytest.fail("what was deferred did not come up again soon")
