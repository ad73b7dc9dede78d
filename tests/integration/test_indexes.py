"""Several private indexes in one fetch: each by its own rules, in their order; one that is down is waited for."""

import json
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.command import Deployment, Finished
from tests.support.index_server import Authority, Basic, Bearer, IndexServer, Redirect, Status
from tests.support.wheels import build_wheel

TOKEN = Bearer("planted-bearer")
ADA = Basic("ada", "planted-pässword")
OTHER_TOKEN = Bearer("planted-behind-the-proxy")
EVE = Basic("eve", "planted-self-signed")


class Place:
    """A directory for wheels and settings."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.variables = {
            "MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED": "true",
            "MODERNE_AGENT_VISUALIZATION_CACHE_DIRECTORY": str(directory / "cache"),
            "MODERNE_AGENT_VISUALIZATION_TEMPORARYDIRECTORY": str(directory),
            "MODERNE_AGENT_VISUALIZATION_MINFREESPACE": "1MiB",
            "MODERNE_AGENT_VISUALIZATION_REQUIRESPECS": "false",
            "MODERNE_AGENT_VISUALIZATION_RETRY_MINBACKOFF": "100ms",
            "MODERNE_AGENT_VISUALIZATION_RETRY_MAXBACKOFF": "200ms",
        }

    def add(self, server: IndexServer, name: str, version: str = "1.0", *requires: str, url: str | None = None) -> str:
        wheel = build_wheel(self.directory / "made" / version, name, version, requires=requires)
        server.add(wheel.name, wheel, url=url)
        return wheel.name

    def index(self, number: int, server: IndexServer, **settings: str) -> None:
        # What is asked is for the tests to choose, and a start would refuse an index that is down.
        named = {"URL": server.url, "CONNECTTIMEOUT": "5s", "SKIPVALIDATECONNECTIVITY": "true", **settings}
        self.variables |= {f"MODERNE_AGENT_PYPI_{number}_{name}": value for name, value in named.items()}

    def deployment(self) -> Deployment:
        return Deployment(self.variables, self.directory)

    def fetch(self, *arguments: str) -> Finished:
        return self.deployment().run("fetch", *arguments, "--out", str(self.directory / "out"), "--json")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def authorizations(server: IndexServer) -> set[str | None]:
    return {request.headers.get("Authorization") for request in server.seen()}


def self_signed() -> ssl.SSLContext:
    return Authority().context()


def test_one_resolve_over_five_indexes(place: Place, servers: ExitStack) -> None:
    """Who saw which credentials: each index its own, and nobody else any."""
    bearer = servers.enter_context(IndexServer(auth=TOKEN))
    basic, files = servers.enter_context(IndexServer(auth=ADA)), servers.enter_context(IndexServer())
    signed = servers.enter_context(IndexServer(auth=EVE, tls=self_signed()))
    # Reached as a proxy is: it answers for a host that nobody else could find.
    proxied = servers.enter_context(IndexServer(auth=OTHER_TOKEN))
    public = servers.enter_context(IndexServer(forms=("html",)))
    place.add(bearer, "acme-app", "1.0", "acme-basic", "acme-signed", "acme-hidden", "acme-common")
    name = place.add(basic, "acme-basic")
    files.add(name, place.directory / "made" / "1.0" / name)
    basic.misbehave("/files/", Redirect(lambda path: files.origin + path))
    place.add(signed, "acme-signed")
    place.add(proxied, "acme-hidden")
    for package in ("acme-common", "acme-app", "acme-basic", "acme-signed", "acme-hidden"):
        place.add(public, package, "99.0" if package != "acme-common" else "1.0")
    place.index(0, bearer, BEARERTOKEN=TOKEN.token)
    place.index(1, basic, USERNAME=ADA.username, PASSWORD=ADA.password)
    place.index(2, signed, USERNAME=EVE.username, PASSWORD=EVE.password, SKIPSSL="true")
    port = proxied.origin.rpartition(":")[2]
    hidden = {"URL": "http://hidden.example/simple", "PROXY_HOST": "127.0.0.1", "PROXY_PORT": port}
    place.index(3, proxied, BEARERTOKEN=OTHER_TOKEN.token, **hidden)
    place.index(4, public)
    done = place.fetch("acme-app")
    [job] = done.document["jobs"]
    assert job["state"] == "published", job["error"]
    [document] = (place.directory / "out" / "bundles").rglob("bundle.json")
    wheels = {wheel["name"]: (wheel["version"], wheel["index"]) for wheel in read(document)["wheels"]}
    assert wheels == {
        "acme-app": ("1.0", "pypi[0]"),
        "acme-basic": ("1.0", "pypi[1]"),
        "acme-signed": ("1.0", "pypi[2]"),
        "acme-hidden": ("1.0", "pypi[3]"),
        "acme-common": ("1.0", "pypi[4]"),
    }
    own = {bearer: TOKEN.header, basic: ADA.header, signed: EVE.header, proxied: OTHER_TOKEN.header}
    for server, header in own.items():
        assert authorizations(server) == {header}
    assert [request.path for request in files.seen()] == [f"/files/{name}"]
    assert authorizations(files) == authorizations(public) == {None}
    assert {request.path for request in public.seen()} == {
        "/simple/acme-common/",
        "/files/acme_common-1.0-py3-none-any.whl",
    }
    assert "planted" not in done.output + done.errors + document.read_text()


def read(document: Path) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = json.loads(document.read_text())
    return found


def test_a_private_index_that_is_down_is_waited_for(place: Place, servers: ExitStack) -> None:
    """The private 1.0 against the public 99.0, while the private index fails, and then answers again."""
    private, public = servers.enter_context(IndexServer(auth=TOKEN)), servers.enter_context(IndexServer())
    place.add(private, "acme-app", "1.0")
    place.add(public, "acme-app", "99.0")
    place.index(0, private, BEARERTOKEN=TOKEN.token)
    place.index(1, public)
    # More often than the gateway asks within one attempt: the job itself must come back.
    private.misbehave("/simple/", Status(503), times=4)
    done = place.fetch("acme-app")
    [job] = done.document["jobs"]
    assert job["state"] == "published", job["error"]
    assert (job["bundle"]["version"], job["attempt"]) == ("1.0", 2)
    assert public.seen() == []


def test_jobs_wait_for_an_index_that_is_down_and_are_not_used_up(place: Place, servers: ExitStack) -> None:
    """Eight jobs of one try each: without leaving the index alone, each would have spent it on the index being down."""
    private = servers.enter_context(IndexServer(auth=TOKEN))
    names = [f"acme-app{number}" for number in range(8)]
    for name in names:
        place.add(private, name)
    place.index(0, private, BEARERTOKEN=TOKEN.token)
    place.variables |= {"MODERNE_AGENT_VISUALIZATION_RETRY_MAXATTEMPTS": "1"}
    private.misbehave("/simple/", Status(503), times=5)
    done = place.fetch(*names)
    states = [job["state"] for job in done.document["jobs"]]
    assert states.count("published") >= 6, done.document
    # At most the two that were under way together saw it going down.
    assert states.count("failed") <= 2
    assert len(private.seen("/simple/")) <= 5 + len(names)


def test_a_job_for_one_index_asks_no_other(place: Place, servers: ExitStack) -> None:
    first, second = servers.enter_context(IndexServer(auth=TOKEN)), servers.enter_context(IndexServer(auth=ADA))
    place.add(first, "acme-app", "1.0")
    place.add(first, "acme-needed", "1.0")
    place.add(second, "acme-app", "2.0", "acme-needed")
    place.index(0, first, BEARERTOKEN=TOKEN.token)
    place.index(1, second, USERNAME=ADA.username, PASSWORD=ADA.password)
    manifest = place.directory / "manifest.yml"
    manifest.write_text("version: 1\nvisualizations:\n  - package: acme-app\n    index: 1\n")
    done = place.fetch("-r", str(manifest))
    [job] = done.document["jobs"]
    assert (job["state"], job["error"]["kind"]) == ("failed", "not_found")
    assert "acme-needed" in job["error"]["message"]
    assert first.seen() == []
    place.add(second, "acme-needed", "3.0")
    place.variables |= {"MODERNE_AGENT_VISUALIZATION_CACHE_PAGETTL": "0s"}
    [job] = place.fetch("-r", str(manifest)).document["jobs"]
    assert (job["state"], job["bundle"]["version"]) == ("published", "2.0")
    assert first.seen() == []


def test_files_younger_than_they_may_be_are_named_with_the_setting(place: Place, servers: ExitStack) -> None:
    index = servers.enter_context(IndexServer(auth=TOKEN, forms=("html",)))
    place.add(index, "acme-app")
    place.index(0, index, BEARERTOKEN=TOKEN.token)
    place.variables |= {"MODERNE_AGENT_VISUALIZATION_MINPACKAGEAGE": "3d"}
    [job] = place.fetch("acme-app").document["jobs"]
    assert (job["state"], job["error"]["kind"]) == ("failed", "no_compatible_wheel")
    assert "moderne.agent.visualization.minPackageAgeUnknown=refuse" in job["error"]["message"]
    place.variables |= {"MODERNE_AGENT_VISUALIZATION_MINPACKAGEAGEUNKNOWN": "trust"}
    [job] = place.fetch("acme-app").document["jobs"]
    assert job["state"] == "published"


def test_the_cache_is_shown_and_cleared(place: Place, servers: ExitStack) -> None:
    index = servers.enter_context(IndexServer(auth=TOKEN))
    place.add(index, "acme-app")
    place.index(0, index, BEARERTOKEN=TOKEN.token)
    deployment = place.deployment()
    assert deployment.run("cache", "--json").document["files"] == {"count": 0, "sizeBytes": 0}
    place.fetch("acme-app")
    shown = deployment.run("cache", "--json").document
    assert (shown["files"]["count"], shown["pages"]["count"]) == (1, 1)
    assert shown["directory"] == str(place.directory / "cache")
    assert str(place.directory / "cache") in deployment.run("cache").output
    cleared = deployment.run("cache", "--clear", "--json")
    assert cleared.exit_code == 0, cleared.errors
    assert cleared.document["clearedBytes"] == shown["files"]["sizeBytes"] + shown["pages"]["sizeBytes"]
    assert deployment.run("cache", "--json").document["files"]["count"] == 0
    [job] = place.fetch("acme-app").document["jobs"]
    assert job["state"] == "published"
