"""What the processes of vizfetch show to others of the same user, such as a build of what strangers wrote."""

import json
import os
import secrets
import subprocess
from pathlib import Path

from tests.support.command import VIZFETCH, Deployment
from tests.support.index_server import IndexServer
from tests.support.sources import build_backend, build_sdist
from tests.support.wheels import build_wheel


def as_nobody_special() -> list[str]:
    """Return what takes the rights of the superuser from a command: with them, nothing can be hidden."""
    return ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []


def test_a_build_finds_no_secret_in_any_process(index: IndexServer, machine: Deployment, tmp_path: Path) -> None:
    planted = f"planted-{secrets.token_hex(8)}"
    own = {
        "MODERNE_AGENT_VISUALIZATION_SDISTS": "allow",
        "MODERNE_AGENT_VISUALIZATION_REQUIRESPECS": "false",
        "MODERNE_AGENT_VISUALIZATION_RETRY_MAXATTEMPTS": "1",
        "MODERNE_AGENT_PYPI_1_URL": index.url,
        "MODERNE_AGENT_PYPI_1_BEARERTOKEN": planted,
        "MODERNE_AGENT_PYPI_1_SKIPVALIDATECONNECTIVITY": "true",
        "AWS_SECRET_ACCESS_KEY": planted,
        "AWS_SESSION_TOKEN": planted,
        "OTHER_PASSWORD": planted,
    }
    directory = tmp_path / "sources"
    directory.mkdir()
    backend = build_backend(directory)
    report = directory / "report.json"
    sdist = build_sdist(directory, build_wheel(directory / "made", "acme-source", "1.5"), report=report, seeks=planted)
    for file in (backend, sdist):
        index.add(file.name, file)
    done = subprocess.run(
        [*as_nobody_special(), VIZFETCH, "fetch", "acme-source", "--out", str(tmp_path / "out"), "--json"],
        env={**machine.environment, **own},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(report.read_text())
    assert planted not in json.dumps(seen["environment"])
    assert seen["showing"] == []
