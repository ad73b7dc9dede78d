"""A worker replaces its child processes, and nothing that its children share with it is lost by that."""

import subprocess
import sys
from pathlib import Path

from jobs.models import JobState
from jobs.store import StatusStore
from tests.integration.services import READY, submit
from tests.support.command import Deployment, children, eventually
from tests.support.index_server import IndexServer, Stall

_TWO_JOBS_PER_CHILD = """
import sys
import worker.app
from cli.main import run
worker.app._JOBS_PER_CHILD = 2
sys.argv = ["vizfetch", "worker"]
run()
"""


def test_jobs_and_the_stop_signal_reach_children_that_came_later(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    variables = {**deployment.environment, "MODERNE_AGENT_VISUALIZATION_CONCURRENCY": "1"}
    program = deployment.directory / "vizfetch"
    program.write_text(_TWO_JOBS_PER_CHILD)
    log = deployment.directory / "recycled.log"
    with deployment.service("scheduler"), log.open("wb") as output:
        worker = subprocess.Popen([sys.executable, program], env=variables, stdout=output, stderr=output)
        try:
            eventually(lambda: READY in log.read_text(), explain=log.read_text)
            first = _pool(worker.pid)
            for version in ("1.0", "1.1", "1.2", "1.0"):
                batch = submit(deployment, f"acme-charts=={version}")
                eventually(lambda batch=batch: store.batch(batch).succeeded, 30, log.read_text)  # type: ignore[misc]
            eventually(lambda: _pool(worker.pid) and not _pool(worker.pid) & first, explain=log.read_text)
            index.misbehave("/files/acme_base-1.0", Stall())
            held = submit(deployment, "acme-maps")
            eventually(lambda: index.seen("/files/acme_base-1.0"))
            worker.terminate()
            assert worker.wait(5) == 0
            (job,) = store.batch(held).jobs
            assert (job.state, job.attempt) == (JobState.QUEUED, 2)
        finally:
            worker.kill()
            worker.wait()


def _pool(pid: int) -> set[int]:
    """Return the worker's forked children, without its gateway and without pip."""
    return {child for child in children(pid) if _command_line(child) == _command_line(pid)}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
