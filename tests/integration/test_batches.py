"""Batches from submission to their end, as their users and operators see them."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from jobs.errors import ErrorKind
from jobs.models import JobState
from jobs.store import StatusStore
from tests.integration.services import READY, submit
from tests.support.command import Deployment, eventually, parent, pips
from tests.support.index_server import IndexServer, Stall

START_WITHIN_SECONDS = 60

MANIFEST = """\
version: 1
visualizations:
  - package: acme-charts==1.0
    priority: low
  - {package: acme-charts==1.1, priority: low}
  - {package: acme_charts==1.1, priority: low}
  - package: acme-charts==1.2
  - package: acme-plain
    requireSpecs: false
    priority: high
"""


def test_priorities_of_a_manifest_are_obeyed(deployment: Deployment, store: StatusStore, tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.yml"
    manifest.write_text(MANIFEST)
    batch = submit(deployment, "-r", str(manifest))
    one = {"MODERNE_AGENT_VISUALIZATION_CONCURRENCY": "1"}
    with deployment.service("worker", **one) as worker, deployment.service("scheduler"):
        worker.wait_for(READY, START_WITHIN_SECONDS)
        eventually(lambda: store.batch(batch).finished, 60, worker.log.read_text)
    found = [job.requirement for job in sorted(store.batch(batch).jobs, key=lambda job: job.updated_at)]
    assert store.batch(batch).succeeded
    assert found[:2] == ["acme-plain", "acme-charts==1.2"]
    assert sorted(found[2:]) == ["acme-charts==1.0", "acme-charts==1.1"]


def test_failures_are_grouped_and_retried_by_kind_or_one_by_one(deployment: Deployment, store: StatusStore) -> None:
    with deployment.service("scheduler"), deployment.service("worker") as worker:
        worker.wait_for(READY, START_WITHIN_SECONDS)
        done = deployment.run("submit", "acme-plain", "acme-none", "acme-nil", "--wait", "--json")
        assert done.exit_code == 1
        batch = done.document["id"]
        assert [deployment.run("status", *words).exit_code for words in ([], [batch], [batch, "--json"])] == [0, 1, 1]
        asked = deployment.run("status", batch, "--failed", "--json")
        failures = asked.document["failures"]
        assert asked.exit_code == 1
        assert deployment.run("status", failures[0]["jobs"][0]).exit_code == 1
        assert [(group["kind"], group["count"], group["worthRetry"]) for group in failures] == [
            ("not_found", 2, False),
            ("no_visualizations", 1, False),
        ]
        table = deployment.run("status", batch, "--failed").output
        assert "worth a retry" in table
        assert "acme-nil" in table
        assert deployment.run("retry", batch, "--kind", "connection").output == "0 of 0 jobs queued again\n"
        again = deployment.run("retry", batch, "--kind", "not_found", "--json").document
        assert sorted(again["jobs"]) == sorted(failures[0]["jobs"])
        (plain,) = failures[1]["jobs"]
        assert store.job(plain).attempt == 1
        eventually(lambda: store.batch(batch).finished, 30)
        assert deployment.run("retry", plain, "--json").document == {"batch": batch, "jobs": [plain]}
        assert store.job(plain).attempt == 2
        assert deployment.run("retry", plain, "--kind", "no-such-kind").exit_code == 2
        assert deployment.run("status", "--failed").exit_code == 2


def test_a_batch_survives_whoever_submitted_it_and_every_scheduler(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    index.misbehave("/files/acme_base", Stall(), times=1)
    with deployment.service("worker") as worker, deployment.service("scheduler") as first:
        worker.wait_for(READY, START_WITHIN_SECONDS)
        with deployment.service("submit", "acme-charts==1.0", "acme-charts==1.1", "--wait") as submitter:
            eventually(lambda: index.seen("/files/acme_base"), explain=submitter.log.read_text)
            submitter.kill()
        first.kill()
        (batch,) = store.batches()
        assert batch.id in submitter.log.read_text()
        with deployment.service("scheduler"):
            watched = deployment.run("status", batch.id, "--watch", "--json")
    assert watched.exit_code == 0
    assert watched.document["counts"]["published"] == 2


def test_a_cancelled_job_ends_with_its_pip_within_five_seconds(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    index.misbehave("/files/acme_base", Stall())
    lease = {"MODERNE_AGENT_VISUALIZATION_LEASE": "10s"}
    with deployment.service("scheduler", **lease), deployment.service("worker", **lease) as worker:
        worker.wait_for(READY, START_WITHIN_SECONDS)
        batch = submit(deployment, "acme-charts==1.0")
        eventually(lambda: pips(worker.process.pid) and index.seen("/files/acme_base"))
        begin = time.monotonic()
        assert deployment.run("cancel", batch).output == "1 of 1 jobs cancelled\n"
        assert store.batch(batch).jobs[0].state is JobState.CANCELLED
        eventually(lambda: not pips(worker.process.pid), 5)
        assert time.monotonic() - begin < 5
        index.behave()
        other = submit(deployment, "acme-maps")
        eventually(lambda: store.batch(other).succeeded, 30, worker.log.read_text)


def test_a_job_whose_worker_dies_each_time_fails_and_takes_nobody_else_down(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    tried = Deployment(
        {**deployment.variables, "MODERNE_AGENT_VISUALIZATION_RETRY_MAXATTEMPTS": "2"}, deployment.directory
    )
    index.misbehave("/simple/acme-plain", Stall())
    with tried.service("scheduler"), tried.service("worker", MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT="60s") as worker:
        worker.wait_for(READY, START_WITHIN_SECONDS)
        batch = submit(tried, "acme-plain")
        other = submit(tried, "acme-charts==1.0", "acme-charts==1.1")
        eventually(lambda: store.batch(other).succeeded, 60, worker.log.read_text)
        job = store.members(batch)[0]
        for attempt in (1, 2):
            eventually(running(store, job, attempt), 30, worker.log.read_text)
            eventually(lambda: pips(worker.process.pid))
            server = parent(pips(worker.process.pid)[0])
            os.kill(parent(server), signal.SIGKILL)
        eventually(lambda: store.batch(batch).finished, 30, worker.log.read_text)
        found = store.job(job)
        assert found.error
        assert (found.state, found.error.kind, found.attempt) == (JobState.FAILED, ErrorKind.WORKER_LOST, 2)
        eventually(lambda: not pips(worker.process.pid))
        after = submit(tried, "acme-charts==1.2")
        eventually(lambda: store.batch(after).succeeded, 30, worker.log.read_text)


def running(store: StatusStore, job: str, attempt: int) -> Callable[[], bool]:
    def look() -> bool:
        found = store.job(job)
        return found.state is JobState.RUNNING and found.attempt == attempt

    return look


def test_a_large_batch_is_taken_whole_or_not_at_all_and_shown_in_short(
    deployment: Deployment, store: StatusStore, tmp_path: Path
) -> None:
    file = tmp_path / "list.txt"
    names = [f"acme-{number}==1.0" for number in range(300)]
    file.write_text("\n".join([*names, "./path", *names, "-e ."]))
    refused = deployment.run("submit", "-r", str(file))
    assert refused.exit_code == 2
    assert "line 301: `./path`" in refused.errors
    assert "line 602: `-e .`" in refused.errors
    assert store.batches() == []
    file.write_text("\n".join([*names, *names]))
    batch = submit(deployment, "-r", str(file))
    done = deployment.run("status", batch)
    shown = done.output
    assert done.exit_code == 0
    assert "300 queued; 300 of them are not shown here" in shown
    assert "acme-299" not in shown
    assert len(deployment.run("status", batch, "--json").document["jobs"]) == 300
    failures = deployment.run("status", batch, "--failed")
    assert (failures.exit_code, "no job has failed" in failures.output) == (0, True)
    assert deployment.run("cancel", store.members(batch)[7]).output == "1 of 1 jobs cancelled\n"
    assert deployment.run("cancel", batch).output == "299 of 300 jobs cancelled: the others had ended before\n"
    assert store.unfinished() == (0, 0)
