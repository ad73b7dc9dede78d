"""A devpi-server whose files only one user may read: an index that others wrote, with a login."""

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

USERNAME = "alice"
PASSWORD = "planted-devpi-password"
_START_SECONDS = 180
"""It hashes and imports much; a busy machine may take that long."""
_BINARIES = Path(sys.executable).parent

# devpi-server's framework still imports a module that setuptools gave up; pip has a copy of it.
_OLD_MODULE = """\
import sys
import pip._vendor.pkg_resources
sys.modules[__name__] = pip._vendor.pkg_resources
"""

# Who may read is a matter of plugins in devpi-server. This one does what those that people install do.
_PLUGIN = """\
from devpi_server.model import ACLList
from pluggy import HookimplMarker

hookimpl = HookimplMarker("devpiserver")


@hookimpl
def devpiserver_indexconfig_defaults(index_type):
    return {"acl_pkg_read": ACLList([":ANONYMOUS:"])}


@hookimpl
def devpiserver_stage_get_principals_for_pkg_read(ixconfig):
    return ixconfig.get("acl_pkg_read")
"""


@dataclass(frozen=True)
class Devpi:
    """A running server with one index."""

    url: str
    """The index's simple repository."""


@contextmanager
def devpi(directory: Path, files: Mapping[str, bytes]) -> Iterator[Devpi]:
    """Run a devpi-server with ``files`` (wheels) on an index whose files ``USERNAME`` alone may read."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "PYTHONPATH": str(_plugins(directory))}
    state = ["--serverdir", str(directory / "state")]
    subprocess.run(
        [_BINARIES / "devpi-init", *state, "--no-root-pypi"],
        env=environment,
        check=True,
        capture_output=True,
        timeout=_START_SECONDS,
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [str(_BINARIES / "devpi-server"), *state, "--host", "127.0.0.1", "--port", str(port)]
    log = directory / "devpi.log"
    with log.open("wb") as output, subprocess.Popen(command, env=environment, stdout=output, stderr=output) as server:
        try:
            base = f"http://127.0.0.1:{port}"
            _wait_for(base, server, log)
            _fill(base, files)
            yield Devpi(f"{base}/{USERNAME}/dev/+simple")
        finally:
            server.terminate()
            server.wait(20)


def _plugins(directory: Path) -> Path:
    place = directory / "plugins"
    info = place / "private-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "pkg_resources.py").write_text(_OLD_MODULE)
    (place / "private.py").write_text(_PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: private\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[devpi_server]\nprivate = private\n")
    return place


def _wait_for(base: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            requests.get(f"{base}/+api", timeout=5)
        except requests.ConnectionError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return


def _fill(base: str, files: Mapping[str, bytes]) -> None:
    _call("PUT", f"{base}/{USERNAME}", json={"password": PASSWORD})
    login = _call("POST", f"{base}/+login", json={"user": USERNAME, "password": PASSWORD})
    token = login.json()["result"]["password"]
    headers = {"X-Devpi-Auth": base64.b64encode(f"{USERNAME}:{token}".encode()).decode()}
    index = {"type": "stage", "bases": [], "acl_pkg_read": [USERNAME]}
    _call("PUT", f"{base}/{USERNAME}/dev", json=index, headers=headers)
    for filename, content in files.items():
        name, version, *_ = filename.split("-")
        about = {
            ":action": "file_upload",
            "name": name,
            "version": version,
            "filetype": "bdist_wheel",
            "pyversion": "py3",
        }
        _call("POST", f"{base}/{USERNAME}/dev/", data=about, files={"content": (filename, content)}, headers=headers)


def _call(method: str, url: str, **options: object) -> requests.Response:
    answer = requests.request(method, url, timeout=30, **options)  # type: ignore[arg-type]  # passed on as they are
    assert answer.ok, answer.text
    return answer
