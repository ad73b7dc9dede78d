"""Each fault of an index, on its pages and on its files: the right kind, the right retries, never another index."""

import socket
from dataclasses import dataclass

import pytest
import requests

from jobs.errors import ErrorKind
from tests.support.index_server import (
    LOGIN_PAGE,
    Body,
    Endless,
    Exchange,
    Fault,
    IndexServer,
    Redirect,
    Reset,
    Short,
    Stall,
    Status,
    Trickle,
)
from tests.worker.gateway.conftest import (
    PURE,
    QUICK,
    MakeGateway,
    MakeIndex,
    broken,
    download,
    index_settings,
    page,
    tiny_wheel,
)

WHEEL = tiny_wheel("demo", "1.0", filler=b"x" * 300_000)
OTHER = tiny_wheel("demo", "1.0", filler=b"y" * 300_000)


@dataclass(frozen=True)
class Case:
    fault: Fault
    kind: ErrorKind
    status: int | None = None
    attempts: int = QUICK.attempts


EVERYWHERE = {
    "401": Case(Status(401), ErrorKind.AUTHENTICATION, 401, 1),
    "403": Case(Status(403), ErrorKind.FORBIDDEN, 403, 1),
    "407": Case(Status(407), ErrorKind.PROXY, 407, 1),
    "408": Case(Status(408), ErrorKind.SERVER_ERROR, 408),
    "418": Case(Status(418), ErrorKind.SERVER_ERROR, 418, 1),
    "429": Case(Status(429), ErrorKind.RATE_LIMITED, 429),
    "429 later": Case(Status(429, {"Retry-After": "3600"}), ErrorKind.RATE_LIMITED, 429, 1),
    "500": Case(Status(500), ErrorKind.SERVER_ERROR, 500),
    "503": Case(Status(503), ErrorKind.SERVER_ERROR, 503),
    "599": Case(Status(599), ErrorKind.SERVER_ERROR, 599),
    "reset before headers": Case(Reset(), ErrorKind.CONNECTION),
    "stall before headers": Case(Stall(), ErrorKind.CONNECT_TIMEOUT),
    "headers trickle": Case(Trickle(headers=True), ErrorKind.CONNECT_TIMEOUT),
    "stall in the body": Case(Stall(after_bytes=100), ErrorKind.READ_TIMEOUT),
    "trickle": Case(Trickle(), ErrorKind.READ_TIMEOUT),
    "reset in the body": Case(Reset(after_bytes=100), ErrorKind.TRUNCATED),
    "short body": Case(Short(100), ErrorKind.TRUNCATED),
    "redirect loop": Case(Redirect(lambda path: path), ErrorKind.SERVER_ERROR, None, 1),
    "redirect nowhere": Case(Redirect("ftp://127.0.0.1/x"), ErrorKind.FORBIDDEN, None, 1),
}
PAGES = {
    "login page": Case(Body(LOGIN_PAGE), ErrorKind.AUTHENTICATION, 200, 1),
    "page for people": Case(Body(b"<html><script src=app.js></script></html>"), ErrorKind.SERVER_ERROR, 200, 1),
    "bad JSON": Case(Body(b'{"meta":', "application/vnd.pypi.simple.v1+json"), ErrorKind.SERVER_ERROR, 200, 1),
    "JSON of something": Case(Body(b'{"a": 1}', "application/json"), ErrorKind.SERVER_ERROR, 200, 1),
    "an image": Case(Body(b"GIF89a", "image/gif"), ErrorKind.SERVER_ERROR, 200, 1),
    "broken gzip": Case(Body(b"no gzip", "text/html", {"Content-Encoding": "gzip"}), ErrorKind.SERVER_ERROR, None),
}
FILES = {
    "404": Case(Status(404), ErrorKind.SERVER_ERROR, 404, 1),
    "410": Case(Status(410), ErrorKind.SERVER_ERROR, 410, 1),
    "wrong wheel, same size": Case(Body(OTHER), ErrorKind.HASH_MISMATCH, None, 1),
    "login page": Case(Body(LOGIN_PAGE), ErrorKind.HASH_MISMATCH, None, 1),
}


@pytest.fixture
def first(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL)
    return server


@pytest.fixture
def second(make_index: MakeIndex) -> IndexServer:
    """What a search that falls through would find."""
    server = make_index()
    server.add("demo-99.0-py3-none-any.whl", tiny_wheel("demo", "99.0"))
    return server


@pytest.mark.parametrize("name", [*EVERYWHERE, *PAGES])
def test_page(name: str, first: IndexServer, second: IndexServer, make_gateway: MakeGateway) -> None:
    case = {**EVERYWHERE, **PAGES}[name]
    first.misbehave("/simple/demo/", case.fault)
    gateway = make_gateway(index_settings(first), index_settings(second, 1))
    with gateway.session() as session:
        answers = [page(session), page(session)]
        record = session.record()
    [incident] = record.incidents
    assert {answer.status_code for answer in answers} <= {502, 504}
    assert incident.message in answers[0].text
    assert (incident.kind, incident.status, incident.attempts) == (case.kind, case.status, case.attempts)
    assert (incident.index, incident.project, incident.step) == ("pypi[0]", "demo", "page")
    assert incident.url == ("ftp://127.0.0.1/x" if name == "redirect nowhere" else f"{first.url}/demo/")
    assert record.projects == ()
    assert second.seen() == []


@pytest.mark.parametrize("name", [*EVERYWHERE, *FILES])
def test_file(name: str, first: IndexServer, second: IndexServer, make_gateway: MakeGateway) -> None:
    case = {**EVERYWHERE, **FILES}[name]
    first.misbehave("/files/", case.fault)
    gateway = make_gateway(index_settings(first), index_settings(second, 1))
    with gateway.session() as session:
        assert page(session).status_code == 200
        broken(session)
        asked = len(first.seen("/files/"))
        assert broken(session) == "refused"
        record = session.record()
    [incident] = record.incidents
    assert (incident.kind, incident.status, incident.attempts) == (case.kind, case.status, case.attempts)
    assert (incident.index, incident.project, incident.step) == ("pypi[0]", "demo", "file")
    assert len(first.seen("/files/")) == asked, "a client's own retries reach the index"
    assert record.files == ()
    assert second.seen() == []


def test_a_fault_that_passes_is_no_incident(first: IndexServer, make_gateway: MakeGateway) -> None:
    first.misbehave("/simple/demo/", Status(503), times=1)
    first.misbehave("/files/", Reset(), times=1)
    with make_gateway(index_settings(first)).session() as session:
        assert page(session).status_code == 200
        assert download(session).content == WHEEL
        assert session.record().incidents == ()


def test_retry_after_is_obeyed(first: IndexServer, make_gateway: MakeGateway) -> None:
    first.misbehave("/simple/demo/", Status(429, {"Retry-After": "1"}), times=1)
    with make_gateway(index_settings(first)).session() as session:
        answer = page(session)
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() >= 1


class Unfinished:
    """Says 404, and begins a body that does not end."""

    def play(self, exchange: Exchange) -> None:
        exchange.send(404, {"Content-Length": "5000"}, b"x")
        exchange.wait()


def test_the_rest_of_an_answer_that_nobody_wants_is_not_waited_for(
    first: IndexServer, second: IndexServer, make_gateway: MakeGateway
) -> None:
    first.misbehave("/simple/demo/", Unfinished())
    with make_gateway(index_settings(first, read_timeout_seconds=20), index_settings(second, 1)).session() as session:
        answer = page(session)
        first.stopped.set()
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 10
    assert len(second.seen()) == 1


def test_nobody_listens(make_gateway: MakeGateway, first: IndexServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    gateway = make_gateway(index_settings(first, url=f"http://127.0.0.1:{port}/simple"))
    with gateway.session() as session:
        assert page(session).status_code == 502
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.CONNECTION
    assert "moderne.agent.pypi[0].url" in incident.message


def test_unknown_host(make_gateway: MakeGateway, first: IndexServer) -> None:
    with make_gateway(index_settings(first, url="http://nowhere.invalid/simple")).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.CONNECTION


def test_endless_page_is_bounded(
    first: IndexServer, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.gateway.shelf.MAX_PAGE_BYTES", 4 * 2**20)
    first.misbehave("/simple/demo/", Endless())
    with make_gateway(index_settings(first, read_timeout_seconds=20)).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.SERVER_ERROR
    assert "larger than 4 MiB" in incident.message


def test_a_wrong_file_never_reaches_the_client_whole(first: IndexServer, make_gateway: MakeGateway) -> None:
    first.misbehave("/files/", Body(OTHER))
    with make_gateway(index_settings(first)).session() as session:
        page(session)
        assert broken(session) in {"short", "refused"}


def test_a_client_that_gives_up_waiting_does_not_make_a_project_unknown(
    first: IndexServer, make_gateway: MakeGateway
) -> None:
    first.misbehave("/simple/demo/", Stall())
    with make_gateway(index_settings(first, connect_timeout_seconds=3)).session() as session:
        with pytest.raises(requests.ReadTimeout):
            requests.get(f"{session.index_url}demo/", timeout=0.3)
        [incident] = session.record().incidents
        assert (incident.kind, incident.index, incident.step) == (ErrorKind.CONNECT_TIMEOUT, "pypi[0]", "page")
        first.stopped.set()


def test_a_mistake_of_ours_is_an_incident(
    first: IndexServer, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("worker.gateway.shelf.pages.read", mistaken)
    with make_gateway(index_settings(first)).session() as session:
        assert page(session).status_code == 502
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.INTERNAL
    assert "ZeroDivisionError" in incident.message


def test_advice_names_the_setting(first: IndexServer, make_gateway: MakeGateway) -> None:
    first.misbehave("/simple/demo/", Status(401))
    with make_gateway(index_settings(first, bearer_token="hunter2")).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert "moderne.agent.pypi[0].bearerToken" in incident.message
    assert "hunter2" not in incident.message
