"""The commands of the documents, run as they stand there against real services; only ids are put in."""

import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.models import Job, JobState
from jobs.store import StatusStore
from tests.integration.services import READY, submit
from tests.support.command import MARK, PROGRAMS, Deployment, eventually
from tests.support.index_server import IndexServer
from tests.support.planted import input_file
from tests.support.wheels import build_wheel
from tests.test_documents import blocks

BATCH = re.compile(r"\bb-\d{8}-\d{6}-[0-9a-f]{6}\b")
JOB = re.compile(r"\bj-[0-9a-f]{20}\b")
MANIFEST = "version: 1\nvisualizations:\n  - package: acme-charts==1.4.0\nrefresh: 24h\n"


def commands(document: str, heading: str) -> str:
    return "".join(block for above, block in blocks(document) if above == heading)


def run(deployment: Deployment, folder: Path, script: str) -> str:
    done = subprocess.run(
        ["/bin/bash", "-eux", "-c", script],
        cwd=folder,
        env=deployment.environment | {"PATH": f"{folder / 'bin'}:{PROGRAMS}"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def working_folder(tmp_path: Path) -> Path:
    """Make a folder with the files that the commands read, and a pip that installs into an environment of its own."""
    folder = tmp_path / "reader"
    (folder / "bin").mkdir(parents=True)
    for name in ("manifest.yml", "nightly.yml"):
        (folder / name).write_text(MANIFEST)
    (folder / "packages.txt").write_text("acme-charts==1.4.0\n")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec {sys.executable} -m pip --python {folder}/env/bin/python "$@"\n')
    pip.chmod(0o755)
    return folder


def offer(index: IndexServer, directory: Path) -> None:
    for name, version in (("acme-charts", "1.4.0"), ("acme-maps", "2.1"), ("moderne-visualizations-misc", "2.2.0")):
        wheel = build_wheel(directory, name, version, visualizations=["bars"])
        index.add(wheel.name, wheel)


def without_secrets(deployment: Deployment, tmp_path: Path) -> Deployment:
    """Give secrets by files: a shell shows its environment to others."""
    secret = {name: value for name, value in deployment.variables.items() if MARK in value}
    assert "MODERNE_AGENT_PYPI_0_PASSWORD" in secret
    others = {name: value for name, value in deployment.variables.items() if name not in secret}
    files = {f"{name}_FILE": str(input_file(tmp_path, name.lower(), value)) for name, value in secret.items()}
    return Deployment({**others, **files}, deployment.directory)


@pytest.fixture
def folder(tmp_path: Path, index: IndexServer) -> Path:
    offer(index, tmp_path / "more")
    (tmp_path / "store").mkdir()
    return working_folder(tmp_path)


@contextmanager
def services_with_a_batch(deployment: Deployment, store: StatusStore) -> Iterator[Job]:
    """Run both services, and yield a job that was published by them."""
    with deployment.service("scheduler"), deployment.service("worker") as worker:
        worker.wait_for(READY)
        batch = submit(deployment, "acme-charts==1.4.0")
        eventually(lambda: store.batch(batch).finished, explain=worker.log.read_text)
        job = store.batch(batch).jobs[0]
        assert job.state is JobState.PUBLISHED, job
        yield job


def test_on_one_machine(machine: Deployment, folder: Path, tmp_path: Path) -> None:
    run(without_secrets(machine, tmp_path), folder, commands("README.md", "One machine"))
    found = {path.parts[-4] for path in (folder / "fetched" / "bundles").rglob("bundle.json")}
    assert found == {"acme-charts", "moderne-visualizations-misc"}


def test_with_services(deployment: Deployment, store: StatusStore, folder: Path, tmp_path: Path) -> None:
    services, daily = (block for above, block in blocks("README.md") if above == "Services")
    assert re.findall(r"^vizfetch (\w+)", services, re.MULTILINE) == ["scheduler", "worker"]
    deployment = without_secrets(deployment, tmp_path)
    with services_with_a_batch(deployment, store) as job:
        told = run(deployment, folder, JOB.sub(job.id, BATCH.sub(job.batch, daily)))
        assert "acme-maps" in told
        run(deployment, folder, commands("README.md", "Settings"))


def test_using_bundles_and_caring_for_them(
    deployment: Deployment, store: StatusStore, folder: Path, tmp_path: Path
) -> None:
    deployment = without_secrets(deployment, tmp_path)
    with services_with_a_batch(deployment, store):
        run(deployment, folder, commands("docs/bundles.md", "Using bundles"))
        assert list((folder / "env" / "lib").rglob("acme_charts/*"))
        run(deployment, folder, commands("docs/operations.md", "Backup and total loss"))
        run(deployment, folder, commands("docs/operations.md", "Schedules"))
        eventually(lambda: all(each.finished for each in store.batches()))
