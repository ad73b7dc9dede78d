"""The final checks of a chaos run can fail: each is shown something that must not be."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from redis import Redis

from bundles.store import ObjectStore, open_store
from config.settings import StorageSettings, Target
from jobs.errors import ErrorKind
from jobs.models import JobError, JobSpec, PublishedBundle, Timings
from jobs.store import StatusStore
from tests.chaos.faults import KILLS, OTHERS, plays
from tests.chaos.judge import Evidence, Figures, judge
from tests.support.command import children, eventually

BATCH = "b-chaos"
GOOD, ABSENT = "good==1", "absent"
BUNDLE = PublishedBundle(
    id="x", name="good", version="1", uri="file:///b", wheels=(), size_bytes=0, uploaded_bytes=0, visualizations=0
)
GONE = JobError(kind=ErrorKind.NOT_FOUND, retryable=False, index=None, message="No index has it.")


@dataclass
class Scene:
    """A run that went well, as far as the judge can see; tests spoil it."""

    redis: Redis
    status: StatusStore
    store: ObjectStore
    evidence: Evidence

    def wrong(self) -> list[str]:
        """Return what is wrong, but for the bundle itself, which nobody made."""
        figures = Figures()
        judge(self.evidence, figures)
        return [line for line in figures.wrong if "published but not stored" not in line]

    def job(self, requirement: str) -> str:
        return next(job.id for job in self.status.batch(BATCH).jobs if job.requirement == requirement)

    def ran(self, requirement: str) -> None:
        """Claim and end a job of one attempt."""
        taken = self.status.claim(self.job(requirement), self.status.job(self.job(requirement)).attempt, "one", 60)
        assert taken
        if requirement == GOOD:
            self.status.finish_published(taken[0], BUNDLE, Timings())
        else:
            self.status.finish_failed(taken[0], GONE, Timings())

    def recorded(self, requirement: str, outcome: str) -> None:
        with self.evidence.audit.open("a") as audit:
            audit.write(json.dumps({"action": "fetch", "outcome": outcome, "job": self.job(requirement)}) + "\n")


@pytest.fixture
def scene(redis: Redis, tmp_path: Path) -> Scene:
    status = StatusStore(redis)
    status.enqueue(BATCH, [JobSpec(requirement=name, target=Target(), max_attempts=2) for name in (GOOD, ABSENT)])
    (tmp_path / "store").mkdir()
    (tmp_path / "tmp").mkdir()
    store = open_store(StorageSettings(uri=(tmp_path / "store").as_uri()))
    known = frozenset(children(os.getpid()))
    evidence = Evidence(
        redis=redis,
        store=store,
        batches=[BATCH],
        expected={GOOD: None, ABSENT: ErrorKind.NOT_FOUND},
        offered=2,
        max_attempts=2,
        temporary=[tmp_path / "tmp"],
        audit=tmp_path / "audit.jsonl",
        known=lambda: known,
    )
    return Scene(redis, status, store, evidence)


@pytest.fixture
def good(scene: Scene) -> Scene:
    for requirement, outcome in ((GOOD, "published"), (ABSENT, "failed")):
        scene.ran(requirement)
        scene.recorded(requirement, outcome)
    return scene


def test_nothing_is_wrong_with_a_good_run(good: Scene) -> None:
    assert good.wrong() == []


def test_a_job_that_has_not_ended(scene: Scene) -> None:
    scene.ran(ABSENT)
    scene.recorded(ABSENT, "failed")
    taken = scene.status.claim(scene.job(GOOD), 1, "one", 60)
    assert taken
    told = "\n".join(scene.wrong())
    assert "good==1 is running" in told
    assert "0 jobs count as queued, 1 leases are left" in told
    assert "left in Redis: vizfetch:batch:b-chaos:running" in told
    scene.status.release(taken[0])
    told = "\n".join(scene.wrong())
    assert "1 jobs count as queued" in told
    assert "left in Redis: vizfetch:waiting:normal" in told


def _other_reason(scene: Scene) -> None:
    error = GONE.model_copy(update={"kind": ErrorKind.INTERNAL})
    scene.redis.hset(f"vizfetch:job:{scene.job(ABSENT)}", "error", error.as_json())


def _counted_twice(scene: Scene) -> None:
    scene.redis.hincrby(f"vizfetch:batch:{BATCH}", "published", 1)


def _tried_too_often(scene: Scene) -> None:
    scene.redis.hset(f"vizfetch:job:{scene.job(GOOD)}", "tries", 3)


def _too_many_attempts(scene: Scene) -> None:
    scene.redis.hset(f"vizfetch:job:{scene.job(GOOD)}", "attempt", 7)


def _fewer_jobs(scene: Scene) -> None:
    scene.evidence = replace(scene.evidence, offered=3)


def _two_winners(scene: Scene) -> None:
    scene.recorded(GOOD, "published")


def _no_record(scene: Scene) -> None:
    scene.evidence.audit.unlink()


def _half_a_bundle(scene: Scene) -> None:
    scene.store.put_bytes("bundles/half/1/abc/pylock.toml", b"lock")


def _broken_bundle(scene: Scene) -> None:
    scene.store.put_bytes("bundles/broken/1/abc/bundle.json", b"{}")


def _two_bundles(scene: Scene) -> None:
    for digest in ("abc", "def"):
        scene.store.put_bytes(f"bundles/twice/1/{digest}/bundle.json", b"{}")


def _left_over(scene: Scene) -> None:
    (scene.evidence.temporary[0] / "vizfetch-task-abc").mkdir()


def _announced(scene: Scene) -> None:
    scene.redis.sadd("vizfetch:agents", "a")
    agent = {
        "id": "a",
        "nickname": "ghost",
        "host": "h",
        "pid": 1,
        "release": "1",
        "target": Target().model_dump(),
        "indexes": [],
        "fingerprint": "f",
        "queues": [],
        "concurrency": 1,
        "running": [],
        "freeBytes": 0,
        "startedAt": "2026-01-01T00:00:00Z",
        "beatAt": "2026-01-01T00:00:00Z",
    }
    scene.redis.set("vizfetch:agent:a", json.dumps(agent))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_other_reason, "absent is failed with"),
        (_counted_twice, "counts 2 jobs as published, of which there are 1"),
        (_tried_too_often, "was tried 3 times"),
        (_too_many_attempts, "a job had 7 attempts"),
        (_fewer_jobs, "1 jobs that were accepted are gone"),
        (_two_winners, "was published by 2 attempts"),
        (_no_record, "no agent recorded what it did"),
        (_half_a_bundle, "half/1/abc has no bundle.json"),
        (_broken_bundle, "bundle: bundles/broken/1/abc/bundle.json"),
        (_two_bundles, "twice/1 has 2 bundles"),
        (_left_over, "left on the disk:"),
        (_announced, "agent ghost is still announced"),
    ],
)
def test_what_must_not_be_is_seen(good: Scene, spoil: Callable[[Scene], None], said: str) -> None:
    spoil(good)
    assert any(said in line for line in good.wrong()), good.wrong()


def test_what_still_runs_is_seen(good: Scene) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        eventually(lambda: any(line.startswith(f"orphan {process.pid}:") for line in good.wrong()))
    assert good.wrong() == []


def test_a_seed_plays_the_same_again_and_each_fault_at_least_once() -> None:
    acts = KILLS | OTHERS
    played, again, other = (
        [play for _, play in zip(range(100), plays(acts, (1, 2), seed), strict=False)] for seed in ("7", "7", "8")
    )
    assert played == again != other
    assert {play.name for play in played[: len(acts)]} == set(acts)
