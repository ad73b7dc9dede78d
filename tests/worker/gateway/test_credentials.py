"""Who sees which credentials: the index's own origin, and nobody else."""

import socket
from typing import Any

import pytest

from tests.support.index_server import Basic, Bearer, IndexServer, Redirect, Status
from tests.worker.gateway.conftest import (
    PURE,
    QUICK,
    MakeGateway,
    MakeIndex,
    download,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway.addresses import is_local, origin, shown
from worker.gateway.client import Session
from worker.gateway.errors import UpstreamError
from worker.gateway.upstream import Upstream

WHEEL = tiny_wheel("demo", "1.0")
OPEN = tiny_wheel("open", "1.0")
ADA = Basic("ada", "pä ss:word")
TOKEN = Bearer("t0ken")


def authorizations(server: IndexServer) -> set[str | None]:
    return {request.headers.get("Authorization") for request in server.seen()}


@pytest.mark.parametrize("auth", [ADA, TOKEN])
def test_pages_and_files_of_the_index(auth: Basic | Bearer, make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index, other = make_index(auth=auth), make_index()
    index.add(PURE, WHEEL)
    other.add("open-1.0-py3-none-any.whl", OPEN)
    given = (
        {"bearer_token": auth.token}
        if isinstance(auth, Bearer)
        else {"username": auth.username, "password": auth.password}
    )
    with make_gateway(index_settings(index, **given), index_settings(other, 1)).session() as session:
        assert page(session).status_code == 200
        assert page(session, "open").status_code == 200
        assert download(session).content == WHEEL
        assert download(session, "open-1.0-py3-none-any.whl").content == OPEN
    assert authorizations(index) == {auth.header}
    assert authorizations(other) == {None}


def download_after_page(session: Session) -> bytes:
    assert page(session).status_code == 200
    return download(session).content


def test_not_along_a_redirect_of_a_page(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index, elsewhere = make_index(auth=TOKEN), make_index()
    elsewhere.add(PURE, WHEEL)
    index.misbehave("/simple/", Redirect(lambda path: elsewhere.origin + path))
    with make_gateway(index_settings(index, bearer_token=TOKEN.token)).session() as session:
        assert download_after_page(session) == WHEEL
    assert authorizations(index) == {TOKEN.header}
    assert authorizations(elsewhere) == {None}


def test_not_along_a_redirect_of_a_file_and_not_back_again(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index, elsewhere = make_index(auth=TOKEN), make_index()
    index.add(PURE, WHEEL)
    index.misbehave("/files/", Redirect(f"{elsewhere.origin}/there"))
    elsewhere.misbehave("/there", Redirect(f"{index.origin}/back"))
    with make_gateway(index_settings(index, bearer_token=TOKEN.token)).session() as session:
        page(session)
        assert download(session).status_code == 502
    assert authorizations(elsewhere) == {None}
    [back] = index.seen("/back")
    assert "Authorization" not in back.headers


def test_not_to_an_absolute_link_elsewhere(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index, elsewhere = make_index(auth=TOKEN), make_index()
    elsewhere.add(PURE, WHEEL)
    index.add(PURE, WHEEL, url=f"{elsewhere.origin}/files/{PURE}")
    with make_gateway(index_settings(index, bearer_token=TOKEN.token)).session() as session:
        assert download_after_page(session) == WHEEL
    assert authorizations(elsewhere) == {None}


def test_cookies_are_not_kept(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    index = make_index()
    index.misbehave("/simple/a/", Status(404, {"Set-Cookie": "id=1; Path=/"}))
    with make_gateway(index_settings(index)).session() as session:
        page(session, "a")
        page(session, "b")
    assert all("Cookie" not in request.headers for request in index.seen())


def test_the_environment_has_no_say(
    make_index: MakeIndex, make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    index = make_index(auth=TOKEN)
    index.add(PURE, WHEEL)
    netrc = f"{tmp_path}/netrc"
    with open(netrc, "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("machine 127.0.0.1 login eve password evil\n")
    monkeypatch.setenv("NETRC", netrc)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with make_gateway(index_settings(index, bearer_token=TOKEN.token)).session() as session:
        assert download_after_page(session) == WHEEL


def test_not_led_to_this_machine(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    """The index stands elsewhere (behind a proxy), and points at a service on the agent's own machine."""
    proxy, secret_service = make_index(), make_index()
    proxy.add(PURE, WHEEL, url=f"{secret_service.origin}/files/{PURE}")
    settings = index_settings(
        proxy,
        url="http://index.test/simple",
        proxy={"host": "127.0.0.1", "port": origin(proxy.url)[2]},  # type: ignore[index]  # it is a URL
    )
    with make_gateway(settings).session() as session:
        assert page(session).status_code == 200
        assert download(session).status_code == 502
        [incident] = session.record().incidents
    assert "leads to this machine" in incident.message
    assert secret_service.seen() == []


def test_not_led_to_this_machine_by_a_name(make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names resolve to what their owner likes, so the address that was reached decides."""
    service = make_index()
    resolve = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == "rebound.test" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    upstream = Upstream(index_settings(service, url="http://index.invalid/simple"), retries=QUICK)
    with pytest.raises(UpstreamError, match="leads to this machine"):
        upstream.open(service.origin.replace("127.0.0.1", "rebound.test"), {})
    upstream.close()
    assert service.seen() == []


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.9.9.9",
        "localhost",
        "a.localhost",
        "::1",
        "[::1]",
        "169.254.169.254",
        "0.0.0.0",  # noqa: S104 - an address, not a binding
        "::ffff:127.0.0.1",
        "fe80::1%eth0",
    ],
)
def test_local_hosts(host: str) -> None:
    assert is_local(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "index.example", "localhost.example", "2001:db8::1"])
def test_other_hosts(host: str) -> None:
    assert not is_local(host)


def test_what_is_shown_of_a_url() -> None:
    assert shown("https://u:p@[2001:db8::1]:8443/a/b.whl?X-Signature=s#f") == "https://[2001:db8::1]:8443/a/b.whl"
    assert shown("http://[bad") == "(not a URL)"


def test_origins() -> None:
    assert origin("HTTPS://Index.Example/x") == ("https", "index.example", 443) == origin("https://index.example:443")
    assert origin("file:///etc/passwd") is None
    assert origin("http://host:port/") is None
