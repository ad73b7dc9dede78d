"""Sessions: each task its own token, seen by nobody else, gone when it should be."""

import socket
import threading
from contextlib import suppress
from unittest.mock import create_autospec

import pytest
import requests

from config.settings import Target
from jobs.models import Progress as Shown
from tests.support.index_server import Exchange, Fault, IndexServer, Reset, Short, Stall
from tests.worker.gateway.conftest import PURE, MakeGateway, MakeIndex, download, get, index_settings, page, tiny_wheel
from worker.fetch import _Watch
from worker.gateway.client import GatewayAddress, GatewayClient, Session
from worker.gateway.errors import GatewayError, GatewayLost
from worker.gateway.record import Progress, Record
from worker.heartbeat import Heartbeat

WHEEL = tiny_wheel("demo", "1.0")


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL, yanked="old")
    return server


def test_a_task_ends_with_its_block(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index))
    with gateway.session() as session:
        assert page(session).status_code == 200
    assert page(session).status_code == 404
    assert download(session).status_code == 404


def test_progress_and_record(index: IndexServer, make_gateway: MakeGateway) -> None:
    with make_gateway(index_settings(index)).session() as session:
        page(session)
        assert session.progress().model_dump() == {"files": 0, "size_bytes": 0}
        download(session)
        download(session)
        assert session.progress().model_dump() == {"files": 1, "size_bytes": 2 * len(WHEEL)}
        [served] = session.record().files
        assert (served.filename, served.index, served.size_bytes, served.yanked) == (
            PURE,
            "pypi[0]",
            len(WHEEL),
            "old",
        )


def test_records_do_not_mix(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index))
    with gateway.session() as one, gateway.session() as other:
        page(one)
        assert len(one.record().projects) == 1
        assert other.record().projects == ()
        assert download(other, "absent-1.0-py3-none-any.whl").status_code == 404


def test_what_strangers_send_is_bounded(index: IndexServer, make_gateway: MakeGateway) -> None:
    """Anybody on the machine can connect, and is asked for a token only when the headers are complete."""
    gateway = make_gateway(index_settings(index))
    port = int(gateway.address.url.rpartition(":")[2])
    for piece in (b"X-Header: y\r\n", b"x" * 1000):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as line, suppress(ConnectionError):
            line.sendall(b"GET /x/simple/demo/ HTTP/1.1\r\n")
            for _ in range(20_000_000 // len(piece)):
                line.sendall(piece)
            pytest.fail("twenty megabytes of headers are taken in")
    with gateway.session() as session:
        assert page(session).status_code == 200


def test_guessing_leads_nowhere(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index))
    url = gateway.address.url
    for path in ("/", "/x/simple/demo/", "/control/sessions", "/control/sessions/x/record", "/simple/demo/"):
        assert requests.get(url + path, timeout=5).status_code in {403, 404}
    assert requests.post(f"{url}/control/sessions", data="{}", timeout=5).status_code == 403
    with gateway.session() as session:
        control = session.index_url.replace("/simple/", "/record").replace(url, f"{url}/control/sessions")
        assert requests.get(control, timeout=5).status_code == 403
        assert requests.post(session.index_url + "demo/", timeout=5).status_code == 405
    assert index.seen() == []


def test_only_files_of_pages(index: IndexServer, make_gateway: MakeGateway) -> None:
    with make_gateway(index_settings(index)).session() as session:
        for path in ("files/demo/../../etc/passwd", "files/demo/absent-1.0-py3-none-any.whl", f"files/other/{PURE}"):
            assert get(session, path).status_code == 404
    assert index.seen("/files/") == []


def test_a_client_that_vanished_expires(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index), idle_seconds=0)
    with gateway.session() as vanished, gateway.session(), pytest.raises(GatewayLost):
        vanished.record()


def test_nobody_there_is_lost() -> None:
    address = GatewayAddress(url="http://127.0.0.1:9", control_token="x")
    with pytest.raises(GatewayLost), GatewayClient(address).session(Target()):
        pass


class Answers:
    """What a gateway says of a task, as it would."""

    def play(self, exchange: Exchange) -> None:
        document = Record() if exchange.path.endswith("/record") else Progress(files=1, size_bytes=2)
        exchange.send(200, {"Content-Type": "application/json"}, document.model_dump_json().encode())


@pytest.mark.parametrize("fault", [Stall(), Reset(), Short(5)])
def test_a_gateway_that_does_not_answer_is_asked_again(
    fault: Fault, make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that has too much to do is no reason to give a job up."""
    monkeypatch.setattr("worker.gateway.client.TIMEOUT_SECONDS", 0.2)
    busy = make_index()
    busy.misbehave("/control/", fault, times=2)
    busy.misbehave("/control/", Answers())
    with requests.Session() as http:
        session = Session(GatewayAddress(url=busy.origin, control_token="x"), "token", http)
        assert session.record() == Record()
        assert len(busy.seen("/control/")) == 3
        busy.behave()
        busy.misbehave("/control/", fault)
        with pytest.raises(GatewayLost):
            session.record()


def test_progress_that_is_late_is_no_reason_to_end_a_job(
    make_index: MakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.gateway.client.PROGRESS_SECONDS", 0.2)
    monkeypatch.setattr("worker.fetch._PROGRESS_EVERY_SECONDS", 0)
    busy = make_index()
    busy.misbehave("/control/", Stall(), times=1)
    busy.misbehave("/control/", Answers())
    heartbeat = create_autospec(Heartbeat, instance=True)
    with requests.Session() as http:
        watch = _Watch(Session(GatewayAddress(url=busy.origin, control_token="x"), "token", http), heartbeat)
        watch.look()
        assert heartbeat.report.mock_calls == []
        watch.look()
    heartbeat.report.assert_called_once_with(Shown(step="download", wheels=1, size_bytes=2))


def test_lost_is_a_gateway_error() -> None:
    assert issubclass(GatewayLost, GatewayError)


def test_a_wrong_control_token_is_refused(index: IndexServer, make_gateway: MakeGateway) -> None:
    address = make_gateway(index_settings(index)).address
    wrong = GatewayClient(GatewayAddress(url=address.url, control_token="ü"))
    with pytest.raises(GatewayError, match="403"), wrong.session(Target()):
        pass


def test_head(index: IndexServer, make_gateway: MakeGateway) -> None:
    with make_gateway(index_settings(index)).session() as session, requests.Session() as http:
        page(session)
        url = session.index_url.removesuffix("simple/")
        answer = http.head(f"{url}files/demo/{PURE}", timeout=5)
        assert answer.headers["Content-Length"] == str(len(WHEEL))
        assert http.head(f"{url}simple/demo/", timeout=5).content == b""
        assert http.get(f"{url}files/demo/{PURE}", timeout=5).content == WHEEL
        assert len(session.record().files) == 1


def test_many_slow_clients_do_not_stop_the_control_side(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/simple/slow/", Waits())
    gateway = make_gateway(index_settings(index, connect_timeout_seconds=3))
    with gateway.session() as session:
        waiting = [threading.Thread(target=page, args=(session, "slow")) for _ in range(6)]
        for thread in waiting:
            thread.start()
        assert session.progress().files == 0
        for thread in waiting:
            thread.join()


class Waits:
    def play(self, exchange: Exchange) -> None:
        exchange.wait(0.5)
        exchange.send(404, {}, b"")
