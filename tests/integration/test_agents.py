"""Agents that share a queue: what they tell of themselves, and who gets which job."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from config.sources import load
from jobs.agents import Agents, disagreements, fingerprint
from jobs.models import JobState
from jobs.store import StatusStore
from tests.integration.packages import PASSWORD, USERNAME, offer_packages
from tests.integration.services import READY, submit
from tests.support.command import Deployment, eventually
from tests.support.index_server import Basic, IndexServer, Stall

OURS = "MODERNE_AGENT_VISUALIZATION_"


@pytest.fixture
def other_index(tmp_path: Path) -> Iterator[IndexServer]:
    with IndexServer(auth=Basic(USERNAME, PASSWORD)) as server:
        offer_packages(server, tmp_path / "made-too")
        yield server


@pytest.fixture
def agents(redis: Redis) -> Agents:
    return Agents(redis, "vizfetch")


def with_second_index(deployment: Deployment, index: IndexServer) -> Deployment:
    second = {"URL": index.url, "USERNAME": USERNAME, "PASSWORD": PASSWORD}
    variables = {f"MODERNE_AGENT_PYPI_1_{name}": value for name, value in second.items()}
    return Deployment({**deployment.variables, **variables}, deployment.directory)


def test_agents_are_listed_while_they_live_and_what_differs_is_said(
    deployment: Deployment, other_index: IndexServer, agents: Agents
) -> None:
    wider = with_second_index(deployment, other_index)
    with (
        deployment.service("worker", MODERNE_AGENT_NICKNAME="one") as one,
        wider.service("worker", MODERNE_AGENT_NICKNAME="two", **{f"{OURS}REDIS_PREFIX": "vizfetch"}) as two,
    ):
        for worker in (one, two):
            worker.wait_for(READY)
        eventually(lambda: len(agents.all()) == 2)
        found = deployment.run("agents", "--json").document
        names = [(agent["nickname"], [index["name"] for index in agent["indexes"]]) for agent in found["agents"]]
        assert names == [("one", ["pypi[0]"]), ("two", ["pypi[0]", "pypi[1]"])]
        assert found["agents"][0]["target"] == {"python": "3.11", "glibc": "2.35", "architecture": "x86_64"}
        assert found["agents"][0]["freeBytes"] > 0
        assert len(found["warnings"]) == 1
        shown = deployment.run("agents")
        assert "two" in shown.output
        assert "fingerprint" in shown.errors
        assert one.stop() == 0
        assert [agent.nickname for agent in agents.all()] == ["two"]
        two.kill()
        eventually(lambda: not agents.all(), 10)
    assert deployment.run("agents").output == "no agent is running\n"


def test_a_pinned_job_waits_for_an_agent_that_has_its_index_and_holds_up_nobody(
    deployment: Deployment, store: StatusStore, other_index: IndexServer, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest.yml"
    manifest.write_text("version: 1\nvisualizations: [{package: acme-charts==1.0, index: 1}]\n")
    wider = with_second_index(deployment, other_index)
    with deployment.service("scheduler") as scheduler, deployment.service("worker") as worker:
        worker.wait_for(READY)
        done = wider.run("submit", "-r", str(manifest))
        pinned = done.output.strip()
        free = submit(deployment, "acme-charts==1.1")
        eventually(lambda: store.batch(free).finished)
        eventually(lambda: store.batch(pinned).jobs[0].waiting)
        (job,) = store.batch(pinned).jobs
        assert (job.state, job.attempt) == (JobState.QUEUED, 1)
        assert f"pypi[1] ({other_index.url})" in str(job.waiting)
        assert other_index.url in str(deployment.run("status", pinned, "--json").document["jobs"][0]["waiting"])
        assert "Waits for an agent" in deployment.run("status", pinned).output
        assert "queue_unserved" in scheduler.log.read_text()
        with wider.service("worker", MODERNE_AGENT_NICKNAME="wider") as has_it:
            has_it.wait_for(READY)
            eventually(lambda: store.batch(pinned).finished, 30)
        (job,) = store.batch(pinned).jobs
        assert (job.state, job.worker, job.waiting) == (JobState.PUBLISHED, "wider", None)
    assert other_index.seen("/files/acme_charts-1.0")


def test_a_worker_that_stops_gives_all_its_jobs_back_within_five_seconds(
    deployment: Deployment, store: StatusStore, index: IndexServer, tmp_path: Path
) -> None:
    index.misbehave("/files/acme_base", Stall())
    variables = {f"{OURS}CONCURRENCY": "4", f"{OURS}LEASE": "10m"}
    with deployment.service("scheduler"), deployment.service("worker", **variables) as worker:
        worker.wait_for(READY)
        batch = submit(deployment, "acme-charts==1.0", "acme-charts==1.1", "acme-charts==1.2", "acme-maps")
        eventually(lambda: store.batch(batch).counts[JobState.RUNNING] == 4)
        eventually(lambda: index.seen("/files/acme_base"))
        begin = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begin < 5
        assert {(job.state, job.attempt) for job in store.batch(batch).jobs} == {(JobState.QUEUED, 2)}
    assert not list(tmp_path.glob("vizfetch-*"))


def test_redis_losing_its_data_is_noticed_and_the_next_job_runs(
    deployment: Deployment, store: StatusStore, redis: Redis
) -> None:
    with deployment.service("scheduler") as scheduler, deployment.service("worker") as worker:
        worker.wait_for(READY)
        first = submit(deployment, "acme-charts==1.0")
        eventually(lambda: store.batch(first).finished)
        assert "lost" not in deployment.run("status").errors
        redis.flushall()
        eventually(lambda: "redis_lost_data" in worker.log.read_text(), 10)
        eventually(lambda: "redis_lost_data" in scheduler.log.read_text(), 10)
        for command in (("status", first), ("status",), ("schedule", "list")):
            assert "Redis lost its data before" in deployment.run(*command).errors
        second = submit(deployment, "acme-charts==1.1")
        eventually(lambda: store.batch(second).finished)
        assert store.batch(second).succeeded


def test_a_fingerprint_tells_results_apart_and_holds_no_secret(deployment: Deployment) -> None:

    def of(**changes: str) -> str:
        return fingerprint(load([], {**deployment.variables, **changes}))

    same = of()
    assert of(MODERNE_AGENT_PYPI_0_PASSWORD="planted-other") == same
    assert of(MODERNE_AGENT_NICKNAME="other", **{f"{OURS}CONCURRENCY": "7"}) == same
    assert of(**{f"{OURS}SDISTS": "allow"}) != same
    assert of(MODERNE_AGENT_PYPI_0_URL="https://elsewhere.example/simple") != same
    assert disagreements([]) == []
