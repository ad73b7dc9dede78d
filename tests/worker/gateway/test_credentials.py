"""Who sees which credentials: the index's own origin, and nobody else."""

import socket
import threading
from contextlib import suppress
from typing import Any

import pytest

from config.settings import IndexSettings
from jobs.errors import ErrorKind
from tests.support.index_server import Basic, Bearer, Endless, IndexServer, Redirect, Status
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
from worker.gateway.addresses import locality, origin, shown
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


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_not_led_to_this_machine_by_a_name(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names resolve to what their owner likes, so the address that was reached decides, before a byte is sent to it."""
    resolve = socket.getaddrinfo

    def resolved(host: str, *rest: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == "rebound.test" else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    settings = IndexSettings(name="pypi[0]", url="http://index.invalid/simple", connect_timeout_seconds=5)
    upstream = Upstream(settings, retries=QUICK)
    with socket.create_server(("127.0.0.1", 0)) as service:
        with pytest.raises(UpstreamError, match="leads to this machine"):
            upstream.open(f"{scheme}://rebound.test:{service.getsockname()[1]}/", {})
        upstream.close()
        connection, _ = service.accept()
        with connection:
            connection.settimeout(10)
            assert connection.recv(1) == b""


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
        "2130706433",
        "0177.0.0.1",
        "0x7f.1",
        "127.1",
        "127.0.0.1.",
        "LOCALHOST.",
        "2852039166",
        "::",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "::ffff:a9fe:a9fe",
        "\uff11\uff12\uff17.0.0.1",
    ],
)
def test_local_hosts(host: str) -> None:
    assert locality(host) is not None


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "index.example", "localhost.example", "2001:db8::1", "64:ff9b::808:808", "16909060"]
)
def test_other_hosts(host: str) -> None:
    assert locality(host) is None


def test_what_is_shown_of_a_url() -> None:
    assert shown("https://u:p@[2001:db8::1]:8443/a/b.whl?X-Signature=s#f") == "https://[2001:db8::1]:8443/a/b.whl"
    assert shown("http://[bad") == "(not a URL)"


def test_origins() -> None:
    assert origin("HTTPS://Index.Example/x") == ("https", "index.example", 443) == origin("https://index.example:443")
    assert origin("file:///etc/passwd") is None
    assert origin("http://host:port/") is None


@pytest.mark.parametrize(
    "form",
    [
        "http://{evil}\\@{own}/",  # one parser sees the index's host here, the one that connects another
        "http://{evil}\\.{own}/",
        "http://{evil}\\\t@{own}/",
        "http://{evil}#@{own}/",
        "http://{evil}?@{own}/",
        "http://{own}@{evil}/",
        "http://{own}\u2044@{evil}/",
        "http://ada:s3cret@{evil}/",
    ],
)
def test_nobody_can_write_an_address_that_leads_credentials_elsewhere(
    form: str, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index, elsewhere = make_index(auth=TOKEN), make_index()
    hosts = {"evil": elsewhere.origin.removeprefix("http://"), "own": index.origin.removeprefix("http://")}
    index.add(PURE, WHEEL, url=form.format(**hosts) + PURE)
    index.misbehave("/files/moved", Redirect(form.format(**hosts) + PURE))
    index.add("moved-1.0-py3-none-any.whl", tiny_wheel("moved", "1.0"))
    with make_gateway(index_settings(index, bearer_token=TOKEN.token)).session() as session:
        page(session)
        page(session, "moved")
        assert download(session).status_code == 502
        assert download(session, "moved-1.0-py3-none-any.whl").status_code == 502
        told = session.record().model_dump_json()
    assert authorizations(elsewhere) <= {None}
    assert "s3cret" not in told


def test_a_login_in_a_link_does_not_take_the_place_of_the_settings(
    make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index(auth=TOKEN)
    index.add(PURE, WHEEL, url=f"{index.origin.replace('//', '//eve:evil@')}/files/{PURE}")
    with make_gateway(index_settings(index, bearer_token=TOKEN.token)).session() as session:
        assert download_after_page(session) == WHEEL
    assert authorizations(index) == {TOKEN.header}


def test_the_body_of_a_redirect_is_not_taken_in(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    """It may have any size, and nobody wants it."""
    index = make_index()
    index.add(PURE, WHEEL)
    there = f"{index.origin}/simple/demo/"
    index.misbehave("/simple/", Endless(headers={"Location": there}, status=302), times=1)
    with make_gateway(index_settings(index, read_timeout_seconds=20)).session() as session:
        answer = page(session)
    assert answer.status_code == 200
    assert answer.elapsed.total_seconds() < 5


@pytest.mark.parametrize("location", ["http://[bad/", "http://u:s3cret@[::1", "\xe9\xff"])
def test_a_redirect_to_no_address_is_the_fault_of_the_index(
    location: str, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    index = make_index()
    index.misbehave("/simple/", Redirect(location))
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert (incident.kind, incident.attempts) == (ErrorKind.SERVER_ERROR, 1)
    assert "s3cret" not in incident.model_dump_json()


def test_an_index_on_this_machine_does_not_lead_to_its_link(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    """The metadata services of clouds answer there, with the machine's own credentials."""
    index = make_index()
    index.add(PURE, WHEEL, url=f"http://169.254.169.254/latest/{PURE}")
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert download(session).status_code == 502
        [incident] = session.record().incidents
    assert (incident.kind, incident.attempts) == (ErrorKind.FORBIDDEN, 1)
    assert "leads to this machine" in incident.message


def test_credentials_do_not_go_to_the_proxy_that_makes_a_tunnel(make_gateway: MakeGateway) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def answer() -> None:
            with suppress(OSError):  # the client leaves when it has read enough, and the test when it has seen enough
                while True:
                    connection, _address = proxy.accept()
                    with connection:
                        heard.append(connection.recv(65536))
                        connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        settings = IndexSettings.model_validate(
            {
                "name": "pypi[0]",
                "url": "https://index.example/simple",
                "bearer_token": TOKEN.token,
                "proxy": {"host": "127.0.0.1", "port": proxy.getsockname()[1]},
            }
        )
        with make_gateway(settings).session() as session:
            page(session)
            [incident] = session.record().incidents
        proxy.shutdown(socket.SHUT_RDWR)  # ends the accept above
    assert incident.kind is ErrorKind.PROXY
    assert heard[0].startswith(b"CONNECT index.example:443 ")
    assert b"authorization" not in b"".join(heard).lower()
