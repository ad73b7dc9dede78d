"""Each fault of an index, on pages and on files, at each place in the order: who is blamed, for what, and what leaks.

Three indexes have the same projects, each in a version of its own, so that whoever serves one can be told. The one that
misbehaves is first, in the middle or last; those before it do not have the project, those after it must not be asked.
"""

import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from config.settings import IndexSettings
from jobs.errors import ErrorKind
from jobs.traffic import Patience
from tests.support.index_server import (
    LOGIN_PAGE,
    Authority,
    Basic,
    Bearer,
    Body,
    Endless,
    Fault,
    IndexServer,
    Redirect,
    Reset,
    Short,
    Stall,
    Status,
    Trickle,
)
from tests.worker.gateway.conftest import QUICK, LocalGateway, broken, index_settings, page, tiny_wheel
from worker.gateway.record import Incident, Record

TWICE = QUICK.attempts
PLACES = {"first": 0, "middle": 1, "last": 2}
AUTHS: tuple[Basic | Bearer, ...] = (Basic("ada", "planted-0"), Bearer("planted-1"), Basic("eve", "planted-2"))
NEVER_DOWN = Patience(failures=10**6, longest_wish_seconds=0)
"""What is proved here is each fault by itself; ``test_down`` has what many of them do to an index."""

MakeFault = Callable[[str, IndexServer], Fault]


@dataclass(frozen=True)
class Case:
    """A fault and what must come of it."""

    fault: Fault | MakeFault
    kind: ErrorKind
    status: int | None = None
    attempts: int = TWICE
    says: str = ""


@dataclass(frozen=True)
class Elsewhere:
    """A fault of the way there: an index of its own stands in the place, with these settings."""

    settings: Mapping[str, Any]
    kind: ErrorKind
    attempts: int = TWICE
    tls: str | None = None
    """The host that its certificate names."""
    trusted: bool = True
    fault: Fault | None = field(default=None)


OTHER = tiny_wheel("other", "1.0")
"""A sound wheel, but not the one that its name says."""

BOTH = {
    "401": Case(Status(401, {"WWW-Authenticate": "Basic"}), ErrorKind.AUTHENTICATION, 401, 1),
    "403": Case(Status(403), ErrorKind.FORBIDDEN, 403, 1),
    "408": Case(Status(408), ErrorKind.SERVER_ERROR, 408),
    "429": Case(Status(429, {"Retry-After": "0"}), ErrorKind.RATE_LIMITED, 429),
    "429 for an hour": Case(Status(429, {"Retry-After": "3600"}), ErrorKind.RATE_LIMITED, 429, 1),
    "500": Case(Status(500), ErrorKind.SERVER_ERROR, 500),
    "503": Case(Status(503), ErrorKind.SERVER_ERROR, 503),
    "reset before headers": Case(Reset(), ErrorKind.CONNECTION),
    "reset in the body": Case(Reset(after_bytes=20), ErrorKind.TRUNCATED),
    "short body": Case(Short(20), ErrorKind.TRUNCATED),
    "stall before the first byte": Case(Stall(), ErrorKind.CONNECT_TIMEOUT),
    "stall in the body": Case(Stall(after_bytes=20), ErrorKind.READ_TIMEOUT),
    "trickle": Case(Trickle(), ErrorKind.READ_TIMEOUT),
    "headers without end": Case(Status(200, {f"X-{number}": "y" for number in range(300)}), ErrorKind.CONNECTION),
    "a header without end": Case(Status(200, {"X": "y" * 200_000}), ErrorKind.CONNECTION),
    "redirect loop": Case(Redirect(lambda path: path), ErrorKind.SERVER_ERROR, None, 1, "redirected more than"),
    "redirect to a closed door": Case(
        lambda _, elsewhere: Redirect(f"{elsewhere.origin}/closed/"), ErrorKind.FORBIDDEN, 403, 1
    ),
    "redirect to the disk": Case(Redirect("file:///etc/passwd"), ErrorKind.FORBIDDEN, None, 1, "is not an HTTP"),
}
PAGES = {
    "login page": Case(Body(LOGIN_PAGE), ErrorKind.AUTHENTICATION, 200, 1, "login form"),
    "bad JSON": Case(Body(b'{"meta":', "application/vnd.pypi.simple.v1+json"), ErrorKind.SERVER_ERROR, 200, 1),
    "5 GB": Case(Body(b"<", headers={"Content-Length": str(5 * 10**9)}), ErrorKind.SERVER_ERROR, 200, 1, "larger than"),
    "5 GB, not announced": Case(Endless(chunk=b"<!-- -->" * 8192), ErrorKind.SERVER_ERROR, 200, 1, "larger than"),
}
FILES = {
    "404": Case(Status(404), ErrorKind.SERVER_ERROR, 404, 1, "its own page lists"),
    "login page": Case(Body(LOGIN_PAGE), ErrorKind.HASH_MISMATCH, None, 1),
    "wrong hash": Case(Body(b"x" * 100), ErrorKind.HASH_MISMATCH, None, 1, "promises"),
    "wrong wheel": Case(Body(OTHER), ErrorKind.BROKEN_WHEEL, None, 1, "inside it is other 1.0"),
    "5 GB": Case(Body(b"<", headers={"Content-Length": str(5 * 10**9)}), ErrorKind.SERVER_ERROR, None, 1, "may have"),
    "5 GB, not announced": Case(Endless("application/zip"), ErrorKind.HASH_MISMATCH, None, 1, "more than the"),
}
WAYS = {
    "no name": Elsewhere({"url": "http://nowhere.invalid/simple"}, ErrorKind.CONNECTION),
    "refused": Elsewhere({"url": "http://127.0.0.1:{closed}/simple"}, ErrorKind.CONNECTION),
    "TLS unknown authority": Elsewhere({}, ErrorKind.TLS, 1, tls="127.0.0.1", trusted=False),
    "TLS wrong host": Elsewhere({}, ErrorKind.TLS, 1, tls="elsewhere.example"),
    "407 from the proxy": Elsewhere(
        {"url": "http://index.example/simple", "proxy": {"host": "127.0.0.1", "port": "{port}"}},
        ErrorKind.PROXY,
        1,
        fault=Status(407, {"Proxy-Authenticate": "Basic"}),
    ),
    "no proxy": Elsewhere({"proxy": {"host": "127.0.0.1", "port": "{closed}"}}, ErrorKind.PROXY),
}


def project(name: str) -> str:
    return "p" + "".join(character for character in name.lower() if character.isalnum())


def wheel(name: str, place: int, filler: bytes = b"") -> bytes:
    return tiny_wheel(project(name), f"{place + 1}.0", filler=filler + b"x" * 5000)


def filename(name: str, place: int) -> str:
    return f"{project(name)}-{place + 1}.0-py3-none-any.whl"


def own_settings(server: IndexServer, number: int) -> IndexSettings:
    auth = AUTHS[number]
    given = (
        {"bearer_token": auth.token}
        if isinstance(auth, Bearer)
        else {"username": auth.username, "password": auth.password}
    )
    return index_settings(server, number, **given)


@dataclass
class World:
    """Three indexes with credentials, a fourth place to be led to, and a gateway before them."""

    servers: tuple[IndexServer, ...]
    elsewhere: IndexServer
    gateway: LocalGateway

    def offer(self, name: str, place: int) -> None:
        """Put a project on the index at ``place`` and on all after it, as what a search that goes on would find."""
        for number in range(place, len(self.servers)):
            self.servers[number].add(filename(name, number), wheel(name, number))
        if name == "wrong wheel":
            self.servers[place].add(filename(name, place), OTHER)
        if name == "wrong hash":
            self.servers[place].add(filename(name, place), wheel(name, place), size=None)


@pytest.fixture(scope="module", params=PLACES)
def place(request: pytest.FixtureRequest) -> int:
    return PLACES[request.param]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        servers = tuple(stack.enter_context(IndexServer(auth=auth)) for auth in AUTHS)
        elsewhere = stack.enter_context(IndexServer())
        elsewhere.misbehave("/closed/", Status(403))
        settings = [own_settings(server, number) for number, server in enumerate(servers)]
        gateway = LocalGateway(tmp_path / "cache", *settings, patience=NEVER_DOWN, threads=64)
        yield World(servers, elsewhere, stack.enter_context(gateway))


@pytest.fixture(autouse=True)
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.gateway.shelf.MAX_PAGE_BYTES", 2**20)
    monkeypatch.setattr("worker.gateway.cache.MAX_FILE_BYTES", 2**31)


def planned(case: Case, name: str, world: World) -> Fault:
    return case.fault(name, world.elsewhere) if callable(case.fault) else case.fault


def check(name: str, case: Case | Elsewhere, record: Record, place: int, step: str) -> None:
    [incident] = record.incidents
    found = (incident.kind, incident.attempts, incident.index, incident.project, incident.step)
    assert found == (case.kind, case.attempts, f"pypi[{place}]", project(name), step), (name, incident)
    if isinstance(case, Case):
        assert incident.status == case.status, (name, incident)
        assert case.says in incident.message, (name, incident)
    assert incident.duration_seconds < 20
    assert_nothing_told(incident)


def assert_nothing_told(incident: Incident) -> None:
    assert "planted" not in incident.model_dump_json()


def assert_nothing_leaked(world: World, place: int) -> None:
    """Each index saw its own credentials only, those led to saw none, and nobody after the place was asked."""
    for number, server in enumerate(world.servers):
        seen = {request.headers.get("Authorization") for request in server.seen()}
        assert seen <= {AUTHS[number].header}, number
        if number > place:
            assert server.seen() == []
    assert {request.headers.get("Authorization") for request in world.elsewhere.seen()} <= {None}


def test_pages(place: int, world: World) -> None:
    cases = {**BOTH, **PAGES}
    for name, case in cases.items():
        world.offer(name, place)
        world.servers[place].misbehave(f"/simple/{project(name)}/", planned(case, name, world))

    def ask(name: str) -> Record:
        with world.gateway.session() as session:
            assert {page(session, project(name)).status_code for _ in range(2)} <= {502, 504}
            return session.record()

    with ThreadPoolExecutor(len(cases)) as pool:
        for name, record in zip(cases, pool.map(ask, cases), strict=True):
            check(name, cases[name], record, place, "page")
            assert record.projects == ()
            asked = len(world.servers[place].seen(f"/simple/{project(name)}/"))
            assert asked == (cases[name].attempts if "loop" not in name else 6), name
    assert_nothing_leaked(world, place)


def test_files(place: int, world: World, tmp_path: Path) -> None:
    cases = {**BOTH, **FILES}
    for name, case in cases.items():
        world.offer(name, place)
        world.servers[place].misbehave(f"/files/{project(name)}-", planned(case, name, world))

    def ask(name: str) -> Record:
        with world.gateway.session() as session:
            assert page(session, project(name)).status_code == 200
            broken(session, filename(name, place))
            assert broken(session, filename(name, place)) == "refused"
            return session.record()

    with ThreadPoolExecutor(len(cases)) as pool:
        for name, record in zip(cases, pool.map(ask, cases), strict=True):
            check(name, cases[name], record, place, "file")
            assert record.files == ()
    assert_nothing_leaked(world, place)
    assert list((tmp_path / "cache" / "files").glob("*/*")) == []


def test_ways(place: int, tmp_path: Path) -> None:
    with ExitStack() as stack:
        authority = Authority()
        bundle = authority.write(tmp_path / "ca.pem")
        plain = [stack.enter_context(IndexServer(auth=auth)) for auth in AUTHS]
        with socket.create_server(("127.0.0.1", 0)) as unused:
            closed = unused.getsockname()[1]
        for name, way in WAYS.items():
            tls = None if way.tls is None else (authority if way.trusted else Authority()).context(way.tls)
            server = stack.enter_context(IndexServer(tls=tls, auth=AUTHS[place]))
            if way.fault is not None:
                server.misbehave("/", way.fault)
            servers = [*plain[:place], server, *plain[place + 1 :]]
            for number in range(place + 1, 3):
                servers[number].add(filename(name, number), wheel(name, number))
            settings = [own_settings(each, number) for number, each in enumerate(servers)]
            port = server.origin.rpartition(":")[2]
            changed = settings[place].model_dump() | filled(way.settings, closed=str(closed), port=port)
            settings[place] = IndexSettings.model_validate(changed)
            gateway = LocalGateway(tmp_path / project(name), *settings, ca_bundle=bundle, patience=NEVER_DOWN)
            with stack.enter_context(gateway).session() as session:
                assert page(session, project(name)).status_code == 502
                check(name, way, session.record(), place, "page")
            assert all(each.seen() == [] for each in plain[place + 1 :]), name
            if way.fault is None:
                assert server.seen() == [], name


def filled(settings: Mapping[str, Any], **values: str) -> dict[str, Any]:
    return {
        name: value.format(**values) if isinstance(value, str) else filled(value, **values)
        for name, value in settings.items()
    }


@pytest.mark.parametrize(
    "name", ["no name", "refused", "TLS unknown authority", "TLS wrong host", "407 from the proxy"]
)
def test_ways_to_files(name: str, place: int, tmp_path: Path) -> None:
    """The page is there; its links lead to another host, or the proxy lets files not through."""
    way = WAYS[name]
    with ExitStack() as stack:
        authority = Authority()
        servers = [stack.enter_context(IndexServer(auth=auth)) for auth in AUTHS]
        tls = None if way.tls is None else (authority if way.trusted else Authority()).context(way.tls)
        elsewhere = stack.enter_context(IndexServer(tls=tls))
        with socket.create_server(("127.0.0.1", 0)) as unused:
            closed = unused.getsockname()[1]
        hosts = {"no name": "http://nowhere.invalid", "refused": f"http://127.0.0.1:{closed}"}
        link = f"{hosts.get(name, elsewhere.origin)}/files/{filename(name, place)}"
        settings = [own_settings(server, number) for number, server in enumerate(servers)]
        for number in range(place, 3):
            servers[number].add(filename(name, number), wheel(name, number))
        if way.fault is None:
            servers[place].add(filename(name, place), wheel(name, place), url=link)
        else:
            servers[place].misbehave("/files/", way.fault)
            port = servers[place].origin.rpartition(":")[2]
            changed = settings[place].model_dump() | filled(way.settings, closed=str(closed), port=port)
            settings[place] = IndexSettings.model_validate(changed)
        gateway = LocalGateway(tmp_path / "cache", *settings, ca_bundle=authority.write(tmp_path / "ca.pem"))
        with stack.enter_context(gateway).session() as session:
            assert page(session, project(name)).status_code == 200
            assert broken(session, filename(name, place)) == "refused"
            check(name, way, session.record(), place, "file")
        assert elsewhere.seen() == []
        assert all(each.seen() == [] for each in servers[place + 1 :])
