"""Scheduler and workers as services that share a Redis and a store."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from redis import Redis

from bundles.store import open_store
from config.settings import StorageSettings
from jobs.models import JobState
from jobs.store import StatusStore
from tests.integration.packages import PASSWORD
from tests.integration.services import READY, submit
from tests.support.command import Deployment, children, eventually
from tests.support.index_server import IndexServer, Stall
from tests.support.seaweed import S3Server
from tests.support.valkey import PASSWORD as REDIS_PASSWORD


def test_two_workers_share_a_batch_and_each_wheel_is_stored_once(
    deployment: Deployment, s3_server: S3Server, index: IndexServer, tmp_path: Path
) -> None:
    storage = s3_server.storage("shared")
    on_s3 = Deployment({**deployment.variables, **s3_variables(storage)}, deployment.directory)
    with (
        on_s3.service("scheduler"),
        on_s3.service("worker", MODERNE_AGENT_NICKNAME="one") as one,
        on_s3.service("worker", MODERNE_AGENT_NICKNAME="two") as two,
    ):
        for worker in (one, two):
            worker.wait_for(READY)
        # Both must be busy at once, whichever is quicker.
        index.misbehave("/simple/acme-base", Stall(), times=1)
        packages = ["acme-charts==1.0", "acme-charts==1.1", "acme-charts==1.2", "acme-maps"]
        done = on_s3.run("submit", *packages, "--wait", "--json")
        assert done.exit_code == 0, done.errors
        jobs = done.document["jobs"]
        assert done.document["counts"]["published"] == 4
        assert {job["worker"] for job in jobs} <= {"one", "two"}
        assert on_s3.run("status", jobs[0]["id"], "--json").document == jobs[0]
    paths = [str(path) for path in open_store(storage).paths("wheels/")]
    assert len(paths) == len({Path(path).name for path in paths}) == 6
    uploaded = sum(job["bundle"]["uploadedBytes"] for job in jobs)
    assert uploaded < sum(job["bundle"]["sizeBytes"] for job in jobs)
    listed = on_s3.run("list", "--json").document
    assert {(bundle["name"], bundle["version"]) for bundle in listed} == {
        ("acme-charts", "1.0"),
        ("acme-charts", "1.1"),
        ("acme-charts", "1.2"),
        ("acme-maps", "1.0"),
    }
    pulled = on_s3.run("pull", "acme-charts==1.1", str(tmp_path / "pulled"), "--json")
    assert pulled.exit_code == 0, pulled.errors
    assert (tmp_path / "pulled" / "wheels" / "acme_charts-1.1-py3-none-any.whl").exists()


def test_a_worker_killed_in_the_middle_of_a_download_loses_nothing(
    deployment: Deployment, store: StatusStore, index: IndexServer, tmp_path: Path
) -> None:
    lease_seconds = 2
    index.misbehave("/files/acme_base", Stall(after_bytes=10), times=1)
    with deployment.service("scheduler"), deployment.service("worker", MODERNE_AGENT_NICKNAME="lost") as lost:
        lost.wait_for(READY)
        time.sleep(lease_seconds)  # a scheduler that has just started ends no lease
        batch = submit(deployment, "acme-charts==1.0")
        eventually(lambda: index.seen("/files/acme_base"))
        with deployment.service("worker", MODERNE_AGENT_NICKNAME="other") as other:
            other.wait_for(READY)
            running = children(lost.process.pid)
            lost.kill()
            killed = time.monotonic()
            eventually(lambda: store.batch(batch).finished, 30)
            took = time.monotonic() - killed
            (job,) = store.batch(batch).jobs
            assert (job.state, job.attempt, job.worker) == (JobState.PUBLISHED, 2, "other")
            assert job.timings.download is not None
            own = sum(job.timings.model_dump(exclude={"queued"}).values())
            assert took < 2 * lease_seconds + own + 1
            eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running))
        with deployment.service("worker", MODERNE_AGENT_NICKNAME="next") as swept:
            swept.wait_for(READY)
            assert "task_directory_swept" in swept.log.read_text()
    assert not list(tmp_path.glob("vizfetch-*"))
    assert len(list((tmp_path / "store" / "bundles" / "acme-charts" / "1.0").iterdir())) == 1


def _changed_worker(deployment: Deployment, source: str) -> tuple["subprocess.Popen[bytes]", Path]:
    """Start a program that is a worker for two jobs at once, changed in some way; return it and its log."""
    program, log = deployment.directory / "vizfetch", deployment.directory / "changed.log"
    program.write_text(source)
    variables = {**deployment.environment, "MODERNE_AGENT_VISUALIZATION_CONCURRENCY": "2"}
    with log.open("wb") as output:
        return subprocess.Popen([sys.executable, program], env=variables, stdout=output, stderr=output), log


def test_children_that_are_only_starting_end_with_a_killed_worker(deployment: Deployment) -> None:
    """Celery has asked for that too late: a child's main process is gone by then."""
    born = deployment.directory / "born"
    worker, log = _changed_worker(deployment, _KILLED_WHILE_ITS_CHILDREN_START.format(born=str(born)))
    assert worker.wait(60) == -signal.SIGKILL, log.read_text()
    pids = born.read_text().split()
    assert len(pids) == 2
    try:
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 20)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


_KILLED_WHILE_ITS_CHILDREN_START = """
import os, signal, sys, time
from celery import platforms
from cli.main import run

def late(name):
    main = os.getppid()
    with open({born!r}, "a+") as born:
        print(os.getpid(), file=born, flush=True)
        born.seek(0)
        if len(born.readlines()) == 2:
            os.kill(main, signal.SIGKILL)
    while os.getppid() == main:
        time.sleep(0.01)
    ask(name)

ask, platforms.set_pdeathsig = platforms.set_pdeathsig, late
sys.argv = ["vizfetch", "worker"]
run()
"""


def test_children_load_nothing_that_their_main_process_could_have_loaded_for_all(deployment: Deployment) -> None:
    told = deployment.directory / "modules"
    worker, log = _changed_worker(deployment, _TELLS_WHAT_A_CHILD_LOADS.format(told=str(told)))
    try:
        eventually(lambda: READY in log.read_text(), explain=log.read_text)
    finally:
        worker.terminate()
        assert worker.wait(20) == 0
    assert told.read_text().splitlines() == ["[]", "[]"]


_TELLS_WHAT_A_CHILD_LOADS = """
import os, sys
import worker.app
from cli.main import run

known = set()
os.register_at_fork(after_in_child=lambda: known.update(sys.modules))

def start_and_tell(pool, **options):
    start(pool, **options)
    with open({told!r}, "a") as told:
        print(sorted(set(sys.modules) - known), file=told)

start, worker.app._Pool._start_child = worker.app._Pool._start_child, start_and_tell
sys.argv = ["vizfetch", "worker"]
run()
"""


def test_a_worker_that_stops_gives_its_job_back_at_once(
    deployment: Deployment, store: StatusStore, index: IndexServer, tmp_path: Path
) -> None:
    index.misbehave("/files/acme_base", Stall(), times=1)
    with (
        deployment.service("scheduler"),
        deployment.service("worker", MODERNE_AGENT_VISUALIZATION_LEASE="10m") as worker,
    ):
        worker.wait_for(READY)
        batch = submit(deployment, "acme-charts==1.0")
        eventually(lambda: index.seen("/files/acme_base"))
        begin = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begin < 5
        (job,) = store.batch(batch).jobs
        assert (job.state, job.attempt, job.error) == (JobState.QUEUED, 2, None)
        with deployment.service("worker"):
            eventually(lambda: store.batch(batch).finished, 30)
        (job,) = store.batch(batch).jobs
        assert job.state is JobState.PUBLISHED
    assert not list(tmp_path.glob("vizfetch-*"))


def test_a_draining_worker_finishes_its_jobs_and_takes_no_more(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    index.misbehave("/files/acme_base", Stall(), times=1)
    patient = {"MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "5s", "MODERNE_AGENT_VISUALIZATION_CONCURRENCY": "2"}
    slow = Deployment({**deployment.variables, **patient}, deployment.directory)
    with slow.service("scheduler"), slow.service("worker", "--drain") as worker:
        worker.wait_for(READY)
        batch = submit(slow, "acme-charts==1.0", "acme-charts==1.1")
        eventually(lambda: store.batch(batch).counts.get(JobState.RUNNING) == 2 and index.seen("/files/acme_base"))
        waiting = submit(slow, "acme-charts==1.2")
        assert worker.stop() == 0
        assert [(job.state, job.attempt) for job in store.batch(batch).jobs] == [(JobState.PUBLISHED, 1)] * 2
        (left,) = store.batch(waiting).jobs
        assert (left.state, left.attempt) == (JobState.QUEUED, 1)


def test_a_cancelled_job_stops_and_publishes_nothing(
    deployment: Deployment, store: StatusStore, index: IndexServer, tmp_path: Path
) -> None:
    index.misbehave("/files/acme_base", Stall())
    with deployment.service("scheduler"), deployment.service("worker") as worker:
        worker.wait_for(READY)
        batch = submit(deployment, "acme-charts==1.0")
        eventually(lambda: index.seen("/files/acme_base"))
        assert deployment.run("cancel", batch).output == "1 of 1 jobs cancelled\n"
        eventually(lambda: "attempt_fenced" in worker.log.read_text(), 5)
        assert store.job(store.batch(batch).jobs[0].id).state is JobState.CANCELLED
        assert not (tmp_path / "store" / "bundles").exists()
        index.behave()
        assert deployment.run("retry", batch).output == "1 of 1 jobs queued again\n"
        assert deployment.run("status", batch, "--watch", "--json").document["counts"]["published"] == 1


def _proc(pid: int, name: str) -> str:
    """Return what the system tells of a process; nothing when it has ended meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/{name}").read_text()
    return ""


def test_no_secret_is_in_logs_arguments_environments_or_results(
    deployment: Deployment, store: StatusStore, redis: Redis, index: IndexServer, tmp_path: Path
) -> None:
    secrets = [PASSWORD, REDIS_PASSWORD]
    index.misbehave("/files/acme_base", Stall(), times=1)
    with deployment.service("scheduler") as scheduler, deployment.service("worker") as worker:
        worker.wait_for(READY)
        batch = submit(deployment, "acme-charts==1.0", "acme-nothing")
        eventually(lambda: index.seen("/files/acme_base"))
        for pid in [worker.process.pid, *children(worker.process.pid)]:
            assert not any(secret in _proc(pid, "cmdline") for secret in secrets)
        pips = [pid for pid in children(worker.process.pid) if "pip" in _proc(pid, "cmdline")]
        assert pips
        for pid in pips:
            assert "planted" not in _proc(pid, "environ")
        eventually(lambda: store.batch(batch).finished, explain=worker.log.read_text)
        told = scheduler.log.read_text() + worker.log.read_text() + deployment.run("status", batch, "--json").output
    assert not any(secret in told for secret in secrets)
    for key in redis.keys("vizfetch:*"):
        kept = redis.hgetall(key) if redis.type(key) == "hash" else ""
        assert not any(secret in str(kept) for secret in secrets)
    for file in (tmp_path / "store").rglob("*"):
        if file.is_file():
            assert not any(secret.encode() in file.read_bytes() for secret in secrets)


def test_a_service_that_cannot_work_says_so_and_exits_as_promised(deployment: Deployment) -> None:
    def exit_code(name: str, value: str, *arguments: str) -> tuple[int, str]:
        done = Deployment({**deployment.variables, name: value}, deployment.directory).run(*arguments)
        assert "Traceback" not in done.errors
        assert PASSWORD not in done.errors
        return done.exit_code, done.errors

    redis_down = ("MODERNE_AGENT_VISUALIZATION_REDIS_URL", "redis://:planted-redis-password@127.0.0.1:1/0")
    for service in ("worker", "scheduler", "status"):
        code, errors = exit_code(*redis_down, service)
        assert code == 69
        assert REDIS_PASSWORD not in errors
        assert "moderne.agent.visualization.redis.url" in errors
    code, errors = exit_code("MODERNE_AGENT_VISUALIZATION_TARGET_PYTHON", "3.12", "worker")
    assert (code, "target.python" in errors) == (78, True)
    code, errors = exit_code("MODERNE_AGENT_PYPI_0_BEARERTOKEN", "planted-token", "worker")
    assert code == 78
    assert "planted-token" not in errors


def s3_variables(storage: StorageSettings) -> dict[str, str]:
    assert storage.access_key
    assert storage.secret_key
    prefix = "MODERNE_AGENT_VISUALIZATION_STORAGE_"
    return {
        f"{prefix}URI": storage.uri,
        f"{prefix}ENDPOINTURL": str(storage.endpoint_url),
        f"{prefix}REGION": str(storage.region),
        f"{prefix}ACCESSKEY": storage.access_key.get_secret_value(),
        f"{prefix}SECRETKEY": storage.secret_key.get_secret_value(),
    }
