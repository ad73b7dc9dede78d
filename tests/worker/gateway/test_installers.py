"""Real installers in front of the gateway, indexes and proxies that others wrote behind it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from zipfile import ZipFile

import pytest
from pydantic import SecretStr

from config.settings import IndexSettings, Target
from jobs.errors import ErrorKind
from tests.support.command import eventually, free_port
from tests.support.index_server import (
    Authority,
    Basic,
    Bearer,
    Body,
    IndexServer,
    Reset,
    Status,
)
from tests.support.proxy import proxy
from tests.support.servers import running
from tests.support.wheels import build_wheel
from tests.worker.gateway.conftest import MakeGateway, MakeIndex, download, index_settings, page, tiny_wheel
from worker.gateway.client import Session
from worker.pip import choose_arguments, chosen

DEMO = "demo-1.0-py3-none-any.whl"
NEEDED = "needed-2.0-py3-none-any.whl"
FILES = {
    DEMO: tiny_wheel("demo", "1.0", requires=("needed>=1",), filler=os.urandom(500_000)),
    NEEDED: tiny_wheel("needed", "2.0"),
}


@pytest.fixture
def private(make_index: MakeIndex) -> IndexServer:
    server = make_index(auth=Bearer("t0ken"))
    server.add(DEMO, FILES[DEMO])
    return server


@pytest.fixture
def public(make_index: MakeIndex) -> IndexServer:
    server = make_index(forms=("html",))
    server.add(NEEDED, FILES[NEEDED])
    server.add("demo-99.0-py3-none-any.whl", tiny_wheel("demo", "99.0"))
    return server


def pip(session: Session, directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--isolated", "--no-cache-dir", "--disable-pip-version-check", "download"]
    options = ["--retries", "0", "--timeout", "60", "--only-binary", ":all:", "--index-url", session.index_url]
    environment = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": "/dev/null"}
    return subprocess.run(
        [*command, *options, "--dest", str(directory), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def choose(session: Session, directory: Path, *wanted: str) -> subprocess.CompletedProcess[str]:
    """Fetch as a task does: pip chooses, the gateway brings the files."""
    directory.mkdir()
    requirements, report = directory.with_suffix(".txt"), directory.with_suffix(".json")
    requirements.write_text("\n".join([f"--index-url {session.index_url}", *wanted]))
    command = [sys.executable, "-I", "-m", "pip"]
    done = subprocess.run(
        [*command, *choose_arguments(Target(), requirements, report, silence_seconds=60)],
        env={"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": "/dev/null"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode == 0:
        while not session.collect(chosen(report, session.index_url), directory).done:
            pass
    return done


def digests(directory: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}


OFFERED: Mapping[str, Sequence[tuple[str, Sequence[str]]]] = {
    "top": [("1.0", ("middle", "side[more]>=1", "other; python_version < '3'"))],
    "middle": [("3.0", ("leaf>=2",)), ("2.0", ("leaf<2",)), ("1.0", ())],
    "side": [("1.1", ("leaf<2", "extra-one; extra == 'more'")), ("2.0a1", ())],
    "leaf": [("2.0", ()), ("1.5", ()), ("1.4", ())],
    "extra-one": [("1!1.0", ("Middle>=1",)), ("9.0", ())],
    "other": [("1.0", ())],
}
"""The newest ones contradict each other, so that pip has to look at older ones as well."""


@pytest.mark.parametrize("metadata", [True, False])
def test_what_a_task_gets_is_what_pip_download_gets(
    metadata: bool,  # noqa: FBT001 - whether the index has metadata files
    make_index: MakeIndex,
    make_gateway: MakeGateway,
    tmp_path: Path,
) -> None:
    index = make_index()
    for name, versions in OFFERED.items():
        for version, requires in versions:
            wheel = build_wheel(tmp_path, name, version, requires=requires, extras=["more"] if name == "side" else [])
            with ZipFile(wheel) as archive:
                [inside] = [each for each in archive.namelist() if each.endswith("METADATA")]
                index.add(wheel.name, wheel, metadata=archive.read(inside) if metadata else None)
            wheel.unlink()
    found = []
    for name, way in (("asked", choose), ("downloaded", pip), ("again", choose)):
        with make_gateway(index_settings(index), directory=tmp_path / "cache").session() as session:
            done = way(session, tmp_path / name, "top")
            assert done.returncode == 0, done.stderr
            found.append((digests(tmp_path / name), {file.filename for file in session.record().files}))
    chose = {tuple(name.split("-")[:2]) for name in found[0][0]}
    assert chose == {("top", "1.0"), ("middle", "2.0"), ("side", "1.1"), ("leaf", "1.5"), ("extra_one", "1!1.0")}
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[0][1] == set(found[0][0])


def test_pip_resolves_over_two_indexes(
    private: IndexServer, public: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    gateway = make_gateway(index_settings(private, bearer_token="t0ken"), index_settings(public, 1))
    with gateway.session() as session:
        done = pip(session, tmp_path / "got", "demo")
        record = session.record()
    assert done.returncode == 0, done.stderr
    assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == FILES
    assert {file.filename: file.index for file in record.files} == {DEMO: "pypi[0]", NEEDED: "pypi[1]"}
    assert record.incidents == ()
    assert "t0ken" not in done.stdout + done.stderr


def test_pip_takes_nothing_newer_from_the_next_index(
    private: IndexServer, public: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    private.misbehave("/simple/demo/", Status(503))
    gateway = make_gateway(index_settings(private, bearer_token="t0ken"), index_settings(public, 1))
    with gateway.session() as session:
        done = pip(session, tmp_path / "got", "--no-deps", "demo")
        [incident] = session.record().incidents
    assert done.returncode != 0
    assert not (tmp_path / "got").exists() or list((tmp_path / "got").iterdir()) == []
    assert (incident.index, incident.kind, incident.status) == ("pypi[0]", ErrorKind.SERVER_ERROR, 503)
    assert public.seen() == []


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Body(bytes(len(FILES[DEMO]))), ErrorKind.HASH_MISMATCH),
        (Reset(after_bytes=300_000), ErrorKind.TRUNCATED),
        (Status(401), ErrorKind.AUTHENTICATION),
    ],
)
def test_pip_with_a_broken_file(
    fault: Body | Reset | Status, kind: ErrorKind, private: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    private.ranges = False
    private.misbehave("/files/", fault)
    with make_gateway(index_settings(private, bearer_token="t0ken")).session() as session:
        done = pip(session, tmp_path / "got", "--no-deps", "demo")
        [incident] = session.record().incidents
    assert done.returncode != 0
    assert incident.kind is kind
    # pip neither takes it for an attack nor asks a person for a password.
    assert "DO NOT MATCH" not in done.stderr
    assert "User for" not in done.stdout + done.stderr


def test_uv_takes_it_for_an_index(
    private: IndexServer, public: IndexServer, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    gateway = make_gateway(index_settings(private, bearer_token="t0ken"), index_settings(public, 1))
    uv = Path(sys.executable).with_name("uv")
    with gateway.session() as session:
        options = ["--no-config", "--no-cache", "--target", str(tmp_path / "site"), "--index-url", session.index_url]
        command = [str(uv), "pip", "install", "--python", sys.executable, *options, "demo==1.0"]
        done = subprocess.run(
            command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, timeout=60, check=False
        )
        record = session.record()
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "demo" / "__init__.py").exists()
    assert {file.filename for file in record.files} == {DEMO, NEEDED}


def test_an_index_that_others_wrote(make_gateway: MakeGateway, tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for name, body in FILES.items():
        (packages / name).write_bytes(body)
    (tmp_path / "passwords").write_text("ada:{SHA}" + "W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n")  # "password"
    port = free_port()
    options = ["-i", "127.0.0.1", "-p", str(port), "-a", "list,download,update", "-P", str(tmp_path / "passwords")]
    command = [str(Path(sys.executable).with_name("pypi-server")), "run", *options, "--disable-fallback", str(packages)]
    right = IndexSettings.model_validate(
        {"name": "pypi[0]", "url": f"http://127.0.0.1:{port}/simple", "username": "ada", "password": "password"}
    )
    wrong = right.model_copy(update={"password": SecretStr("wrong")})
    nobody = right.model_copy(update={"username": None, "password": None})
    with running(*command, url=f"http://127.0.0.1:{port}/"):
        with make_gateway(right).session() as session:
            done = pip(session, tmp_path / "got", "demo")
            assert done.returncode == 0, done.stderr
            assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == FILES
        for settings, kind in ((nobody, ErrorKind.AUTHENTICATION), (wrong, ErrorKind.FORBIDDEN)):
            with make_gateway(settings).session() as session:
                page(session)
                [incident] = session.record().incidents
            assert incident.kind is kind
            assert "password" in incident.message


def test_through_a_proxy(make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path) -> None:
    authority = Authority()
    bundle = authority.write(tmp_path / "ca.pem")
    plain, secured = make_index(auth=Basic("ada", "pw")), make_index(tls=authority.context(), auth=Bearer("t0ken"))
    plain.add(DEMO, FILES[DEMO])
    secured.add(NEEDED, FILES[NEEDED])
    with proxy(tmp_path) as carrier:
        way = {"host": "127.0.0.1", "port": carrier.port}
        gateway = make_gateway(
            index_settings(plain, username="ada", password="pw", proxy=way, connect_timeout_seconds=5),
            index_settings(secured, 1, bearer_token="t0ken", proxy=way, connect_timeout_seconds=5),
            ca_bundle=bundle,
        )
        with gateway.session() as session:
            assert page(session).status_code == 200, session.record()
            assert page(session, "needed").status_code == 200
            assert download(session, DEMO).content == FILES[DEMO]
            assert download(session, NEEDED).content == FILES[NEEDED]
        for upstream in gateway.upstreams:
            upstream.close()  # the proxy logs a connection when it ends
        for carried in (
            f"GET {plain.origin.removeprefix('http://')}",
            f"CONNECT {secured.origin.removeprefix('https://')}",
        ):
            eventually(partial(carrier.carried, carried), 10)
    assert {request.headers["Authorization"] for request in secured.seen()} == {"Bearer t0ken"}


def test_a_proxy_that_wants_a_login(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    authority = Authority()
    plain, secured = make_index(), make_index(tls=authority.context())
    port = free_port()
    options = ["--hostname", "127.0.0.1", "--port", str(port), "--num-workers", "1", "--num-acceptors", "1"]
    command = [sys.executable, "-m", "proxy", *options, "--log-level", "e", "--basic-auth", "u:p"]
    way = {"host": "127.0.0.1", "port": port}
    with running(*command, url=f"http://127.0.0.1:{port}/"):
        for index in (plain, secured):
            gateway = make_gateway(index_settings(index, proxy=way, connect_timeout_seconds=5))
            with gateway.session() as session:
                page(session)
                [incident] = session.record().incidents
            assert (incident.kind, incident.attempts) == (ErrorKind.PROXY, 1), incident
            assert "moderne.agent.pypi[0].proxy.host" in incident.message
            assert index.seen() == []


def test_no_proxy_there(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    with make_gateway(index_settings(index, proxy={"host": "127.0.0.1", "port": free_port()})).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.PROXY
    assert index.seen() == []
