"""Looking again: what has not changed costs no pip and next to nothing of the indexes; what has is fetched."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from jobs.models import Batch, Job, JobState, Schedule
from jobs.schedules import Schedules
from jobs.store import StatusStore
from tests.integration.packages import PASSWORD, USERNAME, offer_packages
from tests.integration.services import READY, submit
from tests.support.command import Deployment, Service, eventually
from tests.support.index_server import Basic, IndexServer, Stall, Status
from tests.support.wheels import build_wheel
from worker.gateway.startup import Retries

MANIFEST = "version: 1\nvisualizations:\n  - package: acme-charts\n  - package: acme-maps\nrefresh: {}\n"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexServer]:
    with IndexServer(auth=Basic(USERNAME, PASSWORD), etags=True) as server:
        offer_packages(server, tmp_path / "made")
        yield server


@pytest.fixture
def asking(deployment: Deployment) -> Deployment:
    """A deployment whose gateway asks the index about each page whenever it is wanted."""
    always = {"MODERNE_AGENT_VISUALIZATION_CACHE_PAGETTL": "0s"}
    return Deployment({**deployment.variables, **always}, deployment.directory)


def manifest(tmp_path: Path, every: str) -> Path:
    file = tmp_path / "nightly.yml"
    file.write_text(MANIFEST.format(every))
    return file


def done(store: StatusStore, batch: str, worker: Service) -> Batch:
    eventually(lambda: store.batch(batch, jobs=False).finished, 60, worker.log.read_text)
    return store.batch(batch)


def was_fetched(job: Job) -> bool:
    """Tell whether there was an environment, and so a pip."""
    return job.timings.environment is not None or job.timings.download is not None


def the_one(schedules: Schedules) -> Schedule:
    (found,) = schedules.all()
    return found


def test_an_equal_job_costs_no_pip_and_only_conditional_requests(
    asking: Deployment, store: StatusStore, index: IndexServer, tmp_path: Path
) -> None:
    with asking.service("scheduler"), asking.service("worker") as worker:
        worker.wait_for(READY)
        first = done(store, submit(asking, "acme-charts", "acme-maps"), worker)
        assert first.succeeded
        assert first.unchanged == 0
        assert all(was_fetched(job) for job in first.jobs)
        catalogue = asking.run("list", "--json").document

        index.requests.clear()
        second = done(store, submit(asking, "acme-charts", "acme-maps"), worker)
        assert (second.succeeded, second.unchanged) == (True, 2)
        assert not any(was_fetched(job) for job in second.jobs)
        for before, after in zip(first.jobs, second.jobs, strict=True):
            assert before.bundle
            assert after.bundle == before.bundle.model_copy(update={"unchanged": True, "uploaded_bytes": 0})
        assert {request.path for request in index.requests} == {
            f"/simple/{name}/" for name in ("acme-base", "acme-charts", "acme-maps")
        }
        assert all("If-None-Match" in request.headers for request in index.requests)
        assert asking.run("list", "--json").document == catalogue
        assert "1.2 (unchanged)" in asking.run("status", second.id).output

        # A page that changes without a consequence for one of them concerns only the other.
        newer = build_wheel(tmp_path, "acme-charts", "1.3", requires=["acme-base>=1"], visualizations=["pies"])
        index.add(newer.name, newer)
        charts, maps = done(store, submit(asking, "acme-charts", "acme-maps"), worker).jobs
        assert charts.bundle
        assert (charts.bundle.version, charts.bundle.unchanged, was_fetched(charts)) == ("1.3", False, True)
        assert maps.bundle
        assert maps.bundle.unchanged

        # A newer version of a dependency is a change as well.
        base = build_wheel(tmp_path, "acme-base", "3.0")
        index.add(base.name, base)
        (charts,) = done(store, submit(asking, "acme-charts"), worker).jobs
        assert charts.bundle
        assert "acme_base-3.0-py3-none-any.whl" in charts.bundle.wheels

        # What is not in the store any more is made again, and whoever wants to may always have it made again.
        for path in (tmp_path / "store").glob("bundles/acme-maps/*/*/bundle.json"):
            path.unlink()
        (maps,) = done(store, submit(asking, "acme-maps"), worker).jobs
        assert was_fetched(maps)
        (maps,) = done(store, submit(asking, "acme-maps"), worker).jobs
        assert not was_fetched(maps)
        (maps,) = done(store, submit(asking, "acme-maps", "--anew"), worker).jobs
        assert was_fetched(maps)


def test_an_index_that_is_down_is_no_index_that_has_not_changed(
    asking: Deployment, store: StatusStore, index: IndexServer, tmp_path: Path
) -> None:
    with asking.service("scheduler"), asking.service("worker") as worker:
        worker.wait_for(READY)
        done(store, submit(asking, "acme-maps"), worker)
        # The second look and pip's: an attempt fails.
        index.misbehave("/simple/acme-base", Status(503), times=2 * Retries().attempts)
        batch = submit(asking, "acme-maps")
        eventually(lambda: store.batch(batch).jobs[0].error, 60, worker.log.read_text)
        (job,) = store.batch(batch).jobs
        assert job.state in {JobState.QUEUED, JobState.RUNNING}
        assert list((tmp_path / "store").glob("bundles/acme-maps/1.0/*/bundle.json"))
        (job,) = done(store, batch, worker).jobs
        assert job.state is JobState.PUBLISHED
        assert job.bundle
        assert job.bundle.unchanged


def test_looking_again_holds_up_neither_cancel_nor_stop(
    asking: Deployment, store: StatusStore, index: IndexServer
) -> None:
    patient = {"MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "60s"}
    with asking.service("scheduler"), asking.service("worker", **patient) as worker:
        worker.wait_for(READY)
        done(store, submit(asking, "acme-maps"), worker)
        index.requests.clear()
        index.misbehave("/simple/acme-base", Stall())
        batch = submit(asking, "acme-maps")
        eventually(lambda: index.seen("/simple/acme-base"), 30, worker.log.read_text)
        assert asking.run("cancel", batch).output == "1 of 1 jobs cancelled\n"
        eventually(lambda: "attempt_fenced" in worker.log.read_text(), 5, worker.log.read_text)

        held = submit(asking, "acme-maps")
        eventually(lambda: store.batch(held).counts[JobState.RUNNING], 30, worker.log.read_text)
        begin = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begin < 5
        (job,) = store.batch(held).jobs
        assert (job.state, job.attempt) == (JobState.QUEUED, 2)


def test_two_schedulers_refresh_once(asking: Deployment, store: StatusStore, redis: Redis, tmp_path: Path) -> None:
    file = manifest(tmp_path, "2s")
    schedules = Schedules(redis)
    added = asking.run("schedule", "add", "charts", "-r", str(file))
    assert added.output == "schedule charts added: 2 packages, every 2s\n"
    assert "stays as it is" in asking.run("schedule", "add", "charts", "-r", str(file)).output
    with asking.service("scheduler") as one, asking.service("scheduler") as other, asking.service("worker") as worker:
        worker.wait_for(READY)
        eventually(lambda: len(store.batches()) >= 4, 60, worker.log.read_text)
        assert asking.run("schedule", "remove", "charts").exit_code == 0
        eventually(lambda: all(batch.finished for batch in store.batches()), 60, worker.log.read_text)
        batches = [store.batch(batch.id) for batch in store.batches()]
        logs = one.log.read_text() + other.log.read_text()
    assert schedules.all() == []
    assert {batch.schedule for batch in batches} == {"charts"}
    runs = [json.loads(line)["batch"] for line in logs.splitlines() if '"schedule_run"' in line]
    assert sorted(runs) == sorted(batch.id for batch in batches), "each time it was due, one of the two ran it"
    assert len({batch.id[:17] for batch in batches}) == len(batches), "never twice in the same second"
    assert [batch.unchanged for batch in batches] == [2] * (len(batches) - 1) + [0]
    assert not any(was_fetched(job) for batch in batches[:-1] for job in batch.jobs)


def test_a_manifest_that_is_submitted_becomes_a_schedule_and_shows_its_runs(
    asking: Deployment, redis: Redis, tmp_path: Path
) -> None:
    file = manifest(tmp_path, "1h")
    schedules = Schedules(redis)
    submitted = asking.run("submit", "acme-plain", "-r", str(file))
    assert "schedule nightly added, every 1h" in submitted.errors
    batch = submitted.output.strip()
    found = the_one(schedules)
    assert (found.name, found.packages, found.interval_seconds) == ("nightly", 2, 3600)
    assert found.last
    assert (found.last.id, found.last.schedule) == (batch, "nightly")
    shown = asking.run("schedule", "list").output
    assert "3 queued" in shown
    assert batch in shown
    (document,) = asking.run("schedule", "list", "--json").document["schedules"]
    assert (document["name"], document["last"]["id"], document["skipped"]) == ("nightly", batch, 0)
    assert f"batch {batch} of the schedule nightly" in asking.run("status", batch).output
    file.write_text(MANIFEST.format("2h"))
    replaced = asking.run("schedule", "add", "nightly", "-r", str(file), "--json").document
    assert (replaced["result"], replaced["schedule"]["intervalSeconds"]) == ("replaced", 7200)
    assert asking.run("schedule", "remove", "nightly", "--json").document == {"removed": ["nightly"]}
    gone = asking.run("schedule", "remove", "nightly")
    assert (gone.exit_code, gone.output) == (1, "there is no schedule nightly\n")
    assert asking.run("schedule", "list").output == "there is no schedule\n"


def test_what_cannot_be_a_schedule_is_refused(asking: Deployment, redis: Redis, tmp_path: Path) -> None:
    file = tmp_path / "once.yml"
    file.write_text("version: 1\nvisualizations: [{package: acme-maps}, {package: ./x}]\n")
    refused = asking.run("schedule", "add", "once", "-r", str(file))
    assert (refused.exit_code, "visualizations[1]" in refused.errors) == (2, True)
    file.write_text("version: 1\nvisualizations: [{package: acme-maps}]\n")
    refused = asking.run("schedule", "add", "once", "-r", str(file))
    assert (refused.exit_code, "`refresh`" in refused.errors) == (2, True)
    refused = asking.run("schedule", "add", "a b", "-r", str(manifest(tmp_path, "1h")))
    assert (refused.exit_code, "no name of a schedule" in refused.errors) == (2, True)
    assert Schedules(redis).all() == []


def test_one_machine_fetches_such_a_manifest_once_and_says_so(machine: Deployment, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetched = machine.run("fetch", "-r", str(manifest(tmp_path, "1h")), "--out", str(out), "--json")
    assert fetched.exit_code == 0, fetched.errors
    assert "here everything is fetched once" in fetched.errors
    assert fetched.document["counts"]["published"] == 2
