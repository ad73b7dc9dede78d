"""Packages that exist as source only: never built unless that is allowed, and then without the agent's secrets."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.integration.packages import PASSWORD
from tests.support.command import Deployment, Finished, eventually
from tests.support.index_server import Exchange, IndexServer
from tests.support.sources import build_backend, build_sdist
from tests.support.wheels import build_wheel, library

REQUIREMENT = "acme-user"


class Sources:
    """An index with a package whose one dependency exists as source only, and the ways to build that."""

    def __init__(self, index: IndexServer, machine: Deployment, directory: Path) -> None:
        self.index = index
        self.directory = directory
        self.report = directory / "report.json"
        self._machine = machine
        for wheel in (build_backend(directory), build_wheel(directory, "acme-user", requires=["acme-source==1.5"])):
            index.add(wheel.name, wheel)

    def offer(self, *, does: str = "build", tag: str = "py3-none-any", files: dict[str, bytes] | None = None) -> None:
        wheel = build_wheel(self.directory / "made", "acme-source", "1.5", tag=tag, files=files)
        sdist = build_sdist(self.directory, wheel, report=self.report, does=does)
        self.index.add(sdist.name, sdist, yanked="too old")

    def fetch(self, sdists: str, **variables: str) -> tuple[Finished, dict[str, Any]]:
        own = {"SDISTS": sdists, "REQUIRESPECS": "false", "RETRY_MAXATTEMPTS": "1", **variables}
        settings = {f"MODERNE_AGENT_VISUALIZATION_{name}": value for name, value in own.items()}
        run = Deployment({**self._machine.variables, **settings}, self._machine.directory)
        done = run.run("fetch", REQUIREMENT, "--out", str(self.directory / "out"), "--json")
        [job] = done.document["jobs"]
        return done, job

    def seen(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.report.read_text())
        return report


@pytest.fixture
def sources(index: IndexServer, machine: Deployment, tmp_path: Path) -> Sources:
    directory = tmp_path / "sources"
    directory.mkdir()
    return Sources(index, machine, directory)


class Watching:
    """Looks at the command lines of all processes of a test while a file is fetched."""

    def __init__(self, home: Path) -> None:
        self.home = str(home).encode()
        self.arguments: list[bytes] = []

    def play(self, exchange: Exchange) -> None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self.home in (process / "environ").read_bytes():
                    self.arguments.append((process / "cmdline").read_bytes())
            except OSError:
                continue
        exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)


def test_built_where_it_is_allowed(sources: Sources, tmp_path: Path) -> None:
    sources.offer()
    watching = Watching(tmp_path)
    sources.index.misbehave("/files/acme_build", watching)
    done, job = sources.fetch("Acme_Source,other")
    assert job["state"] == "published", job["error"]
    [document] = (tmp_path / "sources" / "out" / "bundles" / "acme-user").rglob("bundle.json")
    wheels = {wheel["name"]: wheel for wheel in json.loads(document.read_text())["wheels"]}
    assert {name: wheel["built"] for name, wheel in wheels.items()} == {"acme-source": True, "acme-user": False}
    assert wheels["acme-source"]["index"] == "pypi[0]"
    assert wheels["acme-source"]["yanked"] == "too old"
    assert any("acme_source" in warning for warning in json.loads(document.read_text())["warnings"])
    seen = sources.seen()
    assert not [name for name in seen["environment"] if name.startswith("MODERNE")]
    for told in (json.dumps(seen), done.output, done.errors):
        assert PASSWORD not in told
    # The address of the gateway holds the task's token, and command lines can be read by everybody.
    assert any("pip" in line for line in seen["arguments"])
    assert not [line for line in seen["arguments"] if "http" in line]
    assert watching.arguments
    assert not [line for line in watching.arguments if b"http://127.0.0.1" in line and b"simple" in line]


def test_invisible_where_it_is_not(sources: Sources) -> None:
    sources.offer()
    _, job = sources.fetch("other")
    assert (job["state"], job["error"]["kind"]) == ("failed", "no_compatible_wheel")
    assert "1.5 (source only)" in job["error"]["message"]
    assert "moderne.agent.visualization.sdists" in job["error"]["message"]
    assert not sources.report.exists()


@pytest.mark.parametrize(
    ("tag", "glibc", "reason"),
    [
        ("cp311-cp311-macosx_11_0_arm64", "2.17", "its tags are cp311-cp311-macosx_11_0_arm64"),
        ("cp311-cp311-linux_x86_64", "2.39", "it needs glibc 2.39"),
        ("cp311-cp311-linux_x86_64", "2.17", None),
    ],
)
def test_what_is_built_must_fit_the_target(tag: str, glibc: str, reason: str | None, sources: Sources) -> None:
    sources.offer(tag=tag, files={"acme_source/native.so": library("GLIBC_2.2.5", f"GLIBC_{glibc}")})
    _, job = sources.fetch("allow")
    if reason is None:
        assert job["state"] == "published", job["error"]
        return
    assert (job["state"], job["error"]["kind"], job["error"]["index"]) == ("failed", "no_compatible_wheel", "pypi[0]")
    assert reason in job["error"]["message"]
    assert "acme_source-1.5.tar.gz" in job["error"]["message"]


def test_a_build_that_fails_is_told(sources: Sources) -> None:
    sources.offer(does="fail")
    _, job = sources.fetch("allow")
    assert (job["state"], job["error"]["kind"]) == ("failed", "no_compatible_wheel")
    assert "could not be built" in job["error"]["message"]
    assert "the compiler is missing" in job["error"]["message"]


def test_a_build_that_hangs_ends_with_the_deadline(sources: Sources) -> None:
    sources.offer(does="hang")
    _, job = sources.fetch("allow", FETCHTIMEOUT="6s")
    assert (job["state"], job["error"]["kind"]) == ("failed", "deadline")
    pid = sources.seen()["pid"]
    eventually(lambda: not Path(f"/proc/{pid}").exists())
