"""Every setting that users have today, by its effect on real requests of a real fetch."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.packages import PASSWORD, USERNAME, offer_packages
from tests.integration.services import READY
from tests.support.command import Deployment, eventually
from tests.support.index_server import Authority, Basic, Bearer, IndexServer, Stall
from tests.support.proxy import proxy
from tests.support.wheels import build_wheel

CHARTS = "acme_charts-1.2-py3-none-any.whl"
BASE = "acme_base-2.0-py3-none-any.whl"
INDEX = "MODERNE_AGENT_PYPI_0_"


def changed(deployment: Deployment, without: str = "-", **variables: str) -> Deployment:
    """The deployment with other variables, and without those that begin in one way."""
    kept = {name: value for name, value in deployment.variables.items() if not name.startswith(without)}
    return Deployment(kept | variables, deployment.directory)


def fetched(deployment: Deployment, tmp_path: Path, *arguments: str, package: str = "acme-charts") -> dict[str, Any]:
    """Fetch one package and return its job."""
    done = deployment.run("fetch", package, "--out", str(tmp_path / "out"), "--json", *arguments)
    assert done.exit_code in {0, 1}, done.errors
    (job,) = done.document["jobs"]
    result: dict[str, Any] = job
    return result


# ---- useOnlyConfigured


@pytest.fixture
def public(tmp_path: Path) -> Iterator[IndexServer]:
    """What stands in for the public index, which has one package that nobody else has."""
    with IndexServer() as server:
        wheel = build_wheel(tmp_path / "made", "acme-public", visualizations=["bars"])
        server.add(wheel.name, wheel)
        yield server


@pytest.mark.parametrize(("only", "state"), [("true", "failed"), ("false", "published"), ("", "published")])
def test_use_only_configured(
    machine: Deployment, index: IndexServer, public: IndexServer, tmp_path: Path, only: str, state: str
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    # The address of the public index is pip's constant; it is another one in this process.
    elsewhere = f"from pip._internal.models.index import PyPI\nPyPI.simple_url = {public.url!r}\n"
    (site / "sitecustomize.py").write_text(elsewhere)
    switched = changed(machine, PYTHONPATH=str(site), MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED=only)
    assert fetched(switched, tmp_path, package="acme-public")["state"] == state
    assert index.seen("/simple/acme-public/")
    assert bool(public.seen("/files/")) == (state == "published")
    assert not any("Authorization" in request.headers for request in public.seen())


# ---- url and its number


def test_url_and_the_order_of_the_numbers(machine: Deployment, index: IndexServer, tmp_path: Path) -> None:
    """The first index that has a project serves it, though the second has a later version."""
    with IndexServer() as second:
        later = build_wheel(tmp_path / "made", "acme-charts", "9.0", visualizations=["bars"])
        second.add(later.name, later)
        extra = build_wheel(tmp_path / "made", "acme-extra", requires=["acme-charts"], visualizations=["bars"])
        second.add(extra.name, extra)
        two = changed(machine, MODERNE_AGENT_PYPI_1_URL=second.url)
        job = fetched(two, tmp_path, package="acme-extra")
        assert job["bundle"]["wheels"] == [BASE, CHARTS, extra.name]
        assert index.seen("/simple/acme-extra/")
        assert second.seen(f"/files/{extra.name}")
        assert not second.seen("/simple/acme-charts/")
        swapped = changed(
            machine,
            without=INDEX,
            MODERNE_AGENT_PYPI_0_URL=second.url,
            MODERNE_AGENT_PYPI_1_URL=index.url,
            MODERNE_AGENT_PYPI_1_USERNAME=USERNAME,
            MODERNE_AGENT_PYPI_1_PASSWORD=PASSWORD,
        )
        assert later.name in fetched(swapped, tmp_path, package="acme-charts")["bundle"]["wheels"]


# ---- username, password, bearerToken


def test_username_and_password(machine: Deployment, index: IndexServer, tmp_path: Path) -> None:
    job = fetched(machine, tmp_path)
    assert job["state"] == "published"
    assert isinstance(index.auth, Basic)
    for path in ("/simple/acme-charts/", f"/files/{CHARTS}", f"/files/{BASE}"):
        assert {request.headers["Authorization"] for request in index.seen(path)} == {index.auth.header}


def test_bearer_token(machine: Deployment, tmp_path: Path) -> None:
    with IndexServer(auth=Bearer("planted-token")) as by_token:
        offer_packages(by_token, tmp_path / "again")
        other = changed(machine, without=INDEX, **{f"{INDEX}URL": by_token.url})
        assert fetched(other, tmp_path, "--moderne.agent.pypi[0].bearer-token=planted-token")["state"] == "published"
        for path in ("/simple/acme-charts/", f"/files/{CHARTS}"):
            assert {request.headers["Authorization"] for request in by_token.seen(path)} == {"Bearer planted-token"}


# ---- skipSsl


@pytest.mark.parametrize(("skip", "outcome"), [("TRUE", "published"), ("false", "tls")])
def test_skip_ssl(machine: Deployment, tmp_path: Path, skip: str, outcome: str) -> None:
    with IndexServer(auth=Basic(USERNAME, PASSWORD), tls=Authority().context()) as secured:
        offer_packages(secured, tmp_path / "again")
        variables = {"URL": secured.url, "SKIPSSL": skip, "SKIPVALIDATECONNECTIVITY": "true"}
        other = changed(machine, **{f"{INDEX}{name}": value for name, value in variables.items()})
        job = fetched(other, tmp_path)
        assert outcome in {job["state"], (job["error"] or {}).get("kind")}
        assert bool(secured.seen()) == (outcome == "published")


# ---- skipValidateConnectivity


def test_validate_connectivity(deployment: Deployment, index: IndexServer) -> None:
    """Without the setting: the index is asked, with its credentials, and the worker starts."""
    with deployment.service("worker") as worker:
        worker.wait_for(READY, 60)
    assert isinstance(index.auth, Basic)
    assert {request.headers.get("Authorization") for request in index.seen()} == {index.auth.header}


def test_a_worker_does_not_start_when_connectivity_is_not_valid(deployment: Deployment, index: IndexServer) -> None:
    index.misbehave("/", Stall())
    away = changed(deployment, **{f"{INDEX}CONNECTTIMEOUT": "300ms", f"{INDEX}READTIMEOUT": "300ms"})
    done = away.run("worker", seconds=30)
    assert (done.exit_code, done.output) == (69, "")
    assert "index pypi[0]: " in done.errors


def test_skip_validate_connectivity(deployment: Deployment, index: IndexServer) -> None:
    index.misbehave("/", Stall())
    skipped = changed(deployment, **{f"{INDEX}SKIPVALIDATECONNECTIVITY": "true"})
    with skipped.service("worker") as worker:
        worker.wait_for(READY, 60)
    assert index.seen() == []


# ---- proxy.host, proxy.port


def test_proxy(machine: Deployment, index: IndexServer, tmp_path: Path) -> None:
    """The first index through its proxy, the second past it."""
    with proxy(tmp_path) as way, IndexServer() as second:
        extra = build_wheel(tmp_path / "made", "acme-extra", requires=["acme-charts"], visualizations=["bars"])
        second.add(extra.name, extra)
        variables = {f"{INDEX}PROXY_HOST": "127.0.0.1", f"{INDEX}PROXY_PORT": str(way.port)}
        two = changed(machine, **variables, MODERNE_AGENT_PYPI_1_URL=second.url)
        assert fetched(two, tmp_path, package="acme-extra")["state"] == "published"
        first_address = index.origin.removeprefix("http://")
        eventually(lambda: way.carried(first_address), explain=way.log.read_text)
        assert not way.carried(second.origin.removeprefix("http://"))


def test_an_index_with_a_proxy_is_never_asked_past_it(machine: Deployment, index: IndexServer, tmp_path: Path) -> None:
    once = {"MODERNE_AGENT_VISUALIZATION_RETRY_MAXATTEMPTS": "1"}
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen, so that nobody else can there
        proxy = {"PROXY_HOST": "127.0.0.1", "PROXY_PORT": str(nobody.getsockname()[1])}
        variables = {f"{INDEX}{name}": value for name, value in (proxy | {"SKIPVALIDATECONNECTIVITY": "true"}).items()}
        assert fetched(changed(machine, **once, **variables), tmp_path)["error"]["kind"] == "proxy"
    assert index.seen() == []


def test_no_other_proxy_is_asked(machine: Deployment, tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:1"
    told = changed(machine, HTTP_PROXY=nowhere, HTTPS_PROXY=nowhere, ALL_PROXY=nowhere, http_proxy=nowhere)
    assert fetched(told, tmp_path)["state"] == "published"


# ---- connectTimeout, readTimeout: which of the two fires


@pytest.mark.parametrize(
    ("limits", "fault", "path", "kind"),
    [
        ({"CONNECTTIMEOUT": "500ms", "READTIMEOUT": "PT10M"}, Stall(), "/simple/acme-charts/", "connect_timeout"),
        ({"CONNECTTIMEOUT": "10m", "READTIMEOUT": "PT0.5S"}, Stall(after_bytes=10), f"/files/{BASE}", "read_timeout"),
    ],
)
def test_timeouts(
    machine: Deployment,
    index: IndexServer,
    tmp_path: Path,
    limits: dict[str, str],
    fault: Stall,
    path: str,
    kind: str,
) -> None:
    index.misbehave(path, fault)
    once = {"MODERNE_AGENT_VISUALIZATION_RETRY_MAXATTEMPTS": "1"}
    limited = changed(machine, **once, **{f"{INDEX}{name}": value for name, value in limits.items()})
    job = fetched(limited, tmp_path)
    assert (job["state"], job["error"]["kind"], job["error"]["index"]) == ("failed", kind, "pypi[0]")


# ---- the documented examples


FOUR = {
    "MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED": "moderne.agent.visualization.useOnlyConfigured",
    "MODERNE_AGENT_PYPI_0_URL": "moderne.agent.pypi[0].url",
    "MODERNE_AGENT_PYPI_0_USERNAME": "moderne.agent.pypi[0].username",
    "MODERNE_AGENT_PYPI_0_PASSWORD": "moderne.agent.pypi[0].password",
}


@pytest.mark.parametrize("form", ["environment", "arguments", "system properties", "connector"])
def test_the_documented_examples_start_a_worker_unchanged(
    deployment: Deployment, index: IndexServer, form: str
) -> None:
    """An environment of four variables; the same four as arguments. The rest says where the test keeps its things."""
    values = {name: deployment.variables[name] for name in FOUR}
    rest = {
        name: value
        for name, value in deployment.variables.items()
        if name not in FOUR and name.startswith("MODERNE_AGENT_VISUALIZATION")
    }
    arguments: list[str] = []
    if form == "environment":
        rest |= values
    elif form == "connector":
        prefix = "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_"
        rest |= {f"{prefix}URI": index.url, f"{prefix}USERNAME": USERNAME, f"{prefix}PASSWORD": PASSWORD}
    else:
        dashes = "--" if form == "arguments" else "-D"
        arguments = [f"{dashes}{FOUR[name]}={value}" for name, value in values.items()]
    example = Deployment(rest, deployment.directory)
    with example.service("worker", *arguments) as worker:
        worker.wait_for(READY, 60)
        assert worker.stop() == 0
    assert isinstance(index.auth, Basic)
    assert {request.headers.get("Authorization") for request in index.seen()} == {index.auth.header}
