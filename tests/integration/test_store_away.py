"""A store that takes connections and then says nothing: nobody who stops or is cancelled waits for it."""

import secrets
import signal
import time
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bundles.digest import file_digest
from bundles.publish import publish
from bundles.store import open_store
from jobs.models import JobState
from jobs.store import StatusStore
from tests.bundles.factory import bundled
from tests.integration.services import READY, submit
from tests.support.command import Deployment, eventually
from tests.support.seaweed import S3Server
from tests.support.tcp_proxy import TcpProxy, tcp_proxy
from tests.support.wheels import build_wheel

_LARGE_BYTES = 16 * 2**20
OURS = "MODERNE_AGENT_VISUALIZATION_"


@pytest.fixture
def line(s3_server: S3Server) -> Iterator[TcpProxy]:
    """The line to the store."""
    with tcp_proxy(int(s3_server.endpoint_url.rpartition(":")[2])) as proxy:
        yield proxy


@pytest.fixture
def far(deployment: Deployment, s3_server: S3Server, line: TcpProxy, tmp_path: Path) -> Deployment:
    """A deployment with its store at the end of the line."""
    storage = replace(s3_server, endpoint_url=f"http://127.0.0.1:{line.port}").storage(tmp_path.name)
    assert storage.access_key
    assert storage.secret_key
    variables = {
        "STORAGE_URI": storage.uri,
        "STORAGE_ENDPOINTURL": storage.endpoint_url or "",
        "STORAGE_REGION": "us-east-1",
        "STORAGE_ACCESSKEY": storage.access_key.get_secret_value(),
        "STORAGE_SECRETKEY": storage.secret_key.get_secret_value(),
    }
    named = {f"{OURS}{name}": value for name, value in variables.items()}
    return Deployment({**deployment.variables, **named}, deployment.directory)


def test_a_worker_stops_within_five_seconds_though_its_store_is_silent(
    far: Deployment, store: StatusStore, line: TcpProxy, tmp_path: Path
) -> None:
    with far.service("scheduler"), far.service("worker", **{f"{OURS}LEASE": "10m"}) as worker:
        worker.wait_for(READY)
        line.stall()
        batch = submit(far, "acme-charts==1.0")
        eventually(lambda: _step(store, batch) == "publish")
        begin = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begin < 5
        (job,) = store.batch(batch).jobs
        assert (job.state, job.attempt, job.error) == (JobState.QUEUED, 2, None)
        line.flow()
        with far.service("worker"):
            eventually(lambda: store.batch(batch).succeeded)
    assert not list(tmp_path.glob("vizfetch-*"))


def test_a_cancelled_job_frees_its_worker_though_the_store_is_silent(
    far: Deployment, store: StatusStore, line: TcpProxy
) -> None:
    with far.service("scheduler"), far.service("worker", **{f"{OURS}LEASE": "10s"}) as worker:
        worker.wait_for(READY)
        line.stall()
        batch = submit(far, "acme-charts==1.0")
        eventually(lambda: _step(store, batch) == "publish")
        begin = time.monotonic()
        assert far.run("cancel", batch).output == "1 of 1 jobs cancelled\n"
        eventually(lambda: "attempt_fenced" in worker.log.read_text())
        assert time.monotonic() - begin < 5
        line.flow()
        other = submit(far, "acme-charts==1.1")
        eventually(lambda: store.batch(other).succeeded)


def test_a_worker_stops_within_five_seconds_though_an_answer_from_memory_waits_for_the_store(
    far: Deployment, store: StatusStore, line: TcpProxy
) -> None:
    with far.service("scheduler"), far.service("worker", **{f"{OURS}LEASE": "10m"}) as worker:
        worker.wait_for(READY)
        known = submit(far, "acme-charts==1.0")
        eventually(lambda: store.batch(known).succeeded)
        line.stall()
        batch = submit(far, "acme-charts==1.0")
        eventually(lambda: store.batch(batch).counts[JobState.RUNNING])
        begin = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begin < 5
        assert store.batch(batch).jobs[0].state is JobState.QUEUED


def _step(store: StatusStore, batch: str) -> str:
    (job,) = store.batch(batch).jobs
    return job.progress.step if job.progress else ""


@pytest.mark.parametrize("as_zip", [(), ("--zip",)])
def test_ctrl_c_ends_a_pull_at_once_though_the_store_is_silent_and_the_next_one_continues(
    far: Deployment, s3_server: S3Server, line: TcpProxy, tmp_path: Path, as_zip: tuple[str, ...]
) -> None:
    made = tmp_path / "large"
    noise = {"acme_large/noise.bin": secrets.token_bytes(_LARGE_BYTES)}
    build_wheel(made, "acme-large", visualizations=["bars"], files=noise, compression=zipfile.ZIP_STORED)
    bundle = publish(open_store(s3_server.storage(tmp_path.name)), bundled(made, "acme-large"), made).bundle
    out = tmp_path / "out"
    line.stall_after(_LARGE_BYTES // 2)
    with far.service("pull", "acme-large", str(out), *as_zip) as pulling:
        eventually(lambda: sum(each.stat().st_size for each in out.rglob(".*.whl.*.partial")) >= _LARGE_BYTES // 4)
        begin = time.monotonic()
        pulling.process.send_signal(signal.SIGINT)
        assert pulling.process.wait(30) == 130
        assert time.monotonic() - begin < 10
    assert "interrupted" in pulling.log.read_text()
    assert not [each for each in out.rglob("*") if each.suffix in {".whl", ".zip"} or each.name == "bundle.json"]
    line.cut()
    line.flow()
    before = line.passed_back_bytes
    again = far.run("pull", "acme-large", str(out), *as_zip)
    assert again.exit_code == 0, again.errors
    # What was there is not fetched again.
    assert line.passed_back_bytes - before < _LARGE_BYTES * 7 // 8
    [file] = out.rglob("*.zip" if as_zip else "*.whl")
    if as_zip:
        with zipfile.ZipFile(file) as packed:
            packed.extractall(tmp_path / "unpacked")
        [file] = (tmp_path / "unpacked").rglob("*.whl")
    assert file_digest(file) == bundle.package.sha256
    assert not list(out.rglob("*.partial"))
