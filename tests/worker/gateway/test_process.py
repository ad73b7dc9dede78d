"""The gateway's own process: starts, is watched, keeps its port, ends with its parent, tells no secret."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

import pytest
import requests

from config.settings import CacheSettings, Target
from tests.support.index_server import Basic, Exchange, IndexServer, Stall
from tests.worker.gateway.conftest import PURE, QUICK, MakeIndex, broken, download, index_settings, page, tiny_wheel
from worker.gateway.client import GatewayClient, Session
from worker.gateway.errors import GatewayError, GatewayLost
from worker.gateway.process import GatewayProcess

WHEEL = tiny_wheel("demo", "1.0", filler=b"x" * 300_000)
ADA = Basic("ada", "s3cret-of-ada")


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index(auth=ADA)
    server.add(PURE, WHEEL)
    return server


@pytest.fixture
def gateway(index: IndexServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    settings = index_settings(index, username=ADA.username, password=ADA.password)
    with GatewayProcess(
        (settings,), CacheSettings(directory=tmp_path / "cache"), retries=QUICK, environment=os.environ
    ) as process:
        yield process


def pid_of(gateway: GatewayProcess) -> int:
    deadline = time.monotonic() + 10
    while (pid := gateway.pid) is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pid


def gone(pid: int, within_seconds: float = 5) -> bool:
    """Tell whether a process ended in time; one that only waits to be collected has."""
    deadline = time.monotonic() + within_seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_serves(gateway: GatewayProcess) -> None:
    with GatewayClient(gateway.address).session(Target()) as session:
        assert page(session).status_code == 200
        assert session.progress().files == 0
        assert download(session).content == WHEEL
        assert session.progress().files == 1
        assert session.record().files[0].filename == PURE


def test_listens_on_loopback_only(gateway: GatewayProcess) -> None:
    port = int(gateway.address.url.rpartition(":")[2])
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = [fields[1] for fields in listening if fields[3] == "0A" and fields[1].endswith(f":{port:04X}")]
    assert addresses == [f"0100007F:{port:04X}"]


def test_the_pip_of_each_task_may_wait_and_all_tasks_are_answered(index: IndexServer, tmp_path: Path) -> None:
    """What waits for an index holds a thread; a task that were not answered then would take the gateway for lost."""
    settings = (index_settings(index),)
    with GatewayProcess(settings, CacheSettings(directory=tmp_path / "cache"), tasks=256) as gateway:
        assert len(list(Path(f"/proc/{pid_of(gateway)}/task").iterdir())) > 2 * 256


def test_the_address_can_be_handed_on_and_hides_its_token(gateway: GatewayProcess) -> None:
    address = pickle.loads(pickle.dumps(gateway.address))  # noqa: S301 - our own
    assert address == gateway.address
    assert address.control_token not in f"{address!r} {address}"


def test_secrets_are_neither_arguments_nor_environment(gateway: GatewayProcess) -> None:
    shown = b"".join(Path(f"/proc/{gateway.pid}/{name}").read_bytes() for name in ("cmdline", "environ"))
    assert ADA.password.encode() not in shown
    assert gateway.address.control_token.encode() not in shown


def test_killed_it_is_replaced_on_the_same_port(gateway: GatewayProcess) -> None:
    before = pid_of(gateway)
    client = GatewayClient(gateway.address)
    with client.session(Target()) as session:
        page(session)
        os.kill(before, signal.SIGKILL)
        assert gone(before)
        with pytest.raises(GatewayLost):
            session.record()
        with pytest.raises(GatewayLost):
            session.progress()
        assert page(session).status_code == 404
    with client.session(Target()) as session:  # asked while nobody may be there: it waits in the backlog
        assert download_after_page(session) == WHEEL
    assert pid_of(gateway) != before


def download_after_page(session: Session) -> bytes:
    assert page(session).status_code == 200
    return download(session).content


def test_killed_again_and_again(gateway: GatewayProcess) -> None:
    for _ in range(3):
        os.kill(pid_of(gateway), signal.SIGKILL)
        with GatewayClient(gateway.address).session(Target()) as session:
            assert page(session).status_code == 200


def test_killed_in_the_middle_of_a_download(gateway: GatewayProcess, index: IndexServer, tmp_path: Path) -> None:
    index.misbehave("/files/", Stall(after_bytes=200_000), times=1)
    with GatewayClient(gateway.address).session(Target()) as session, requests.Session() as http:
        page(session)
        url = f"{session.index_url.removesuffix('simple/')}files/demo/{PURE}"
        with http.get(url, stream=True, timeout=10) as answer:
            assert answer.raw.read(50) == WHEEL[:50]
            os.kill(pid_of(gateway), signal.SIGKILL)
            with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
                list(answer.iter_content(1000))
    with GatewayClient(gateway.address).session(Target()) as session:
        assert download_after_page(session) == WHEEL
    assert [path.name for path in (tmp_path / "cache" / "part").glob("*/*")] == ["lock"]


def test_stops_and_leaves_nothing(index: IndexServer, tmp_path: Path) -> None:
    settings = index_settings(index, username=ADA.username, password=ADA.password)
    with GatewayProcess((settings,), CacheSettings(directory=tmp_path / "cache")) as gateway:
        pid, url = pid_of(gateway), gateway.address.url
    assert gone(pid, 0.1)
    assert list((tmp_path / "cache" / "part").iterdir()) == []
    with pytest.raises(requests.ConnectionError):
        requests.get(url, timeout=1)


def test_begun_and_not_waited_for(index: IndexServer, tmp_path: Path) -> None:
    gateway = GatewayProcess(
        (index_settings(index),), CacheSettings(directory=tmp_path / "cache"), environment=os.environ
    )
    gateway.begin()
    gateway.begin()
    pid = pid_of(gateway)
    with gateway:
        assert gateway.pid == pid
    gateway.close()
    assert gone(pid)


def test_one_that_was_never_begun_can_be_closed(tmp_path: Path) -> None:
    GatewayProcess((), CacheSettings(directory=tmp_path / "cache")).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("after_seconds", [None, 0.0, 0.05, 0.3])
def test_closed_while_it_starts(after_seconds: float | None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    gateway = GatewayProcess((), CacheSettings(directory=tmp_path / "cache"), environment=os.environ)
    gateway.begin()
    pid = None
    if after_seconds is not None:
        pid = pid_of(gateway)
        time.sleep(after_seconds)
    gateway.close()
    assert pid is None or gone(pid, 0.1)
    assert "gateway-watcher" not in {thread.name for thread in threading.enumerate()}
    assert "Traceback" not in capfd.readouterr().err


class _SlowInput:
    """A process's standard input; a write to it lasts until that process has ended."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        self._pid = process.pid
        self._pipe = process.stdin
        self._closed = False
        self.begun = threading.Event()
        self.closed_meanwhile: bool | None = None

    def write(self, _data: memoryview) -> int:
        self.begun.set()
        with contextlib.suppress(ChildProcessError):  # who ended it has also collected it
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        self.closed_meanwhile = self._closed
        self._pipe.close()
        raise BrokenPipeError

    def close(self) -> None:
        self._closed = True
        self._pipe.close()


def test_the_input_is_not_closed_while_it_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs: list[_SlowInput] = []
    spawn = GatewayProcess._spawn  # noqa: SLF001

    def slow(gateway: GatewayProcess, descriptor: int) -> subprocess.Popen[bytes]:
        process = spawn(gateway, descriptor)
        inputs.append(_SlowInput(process))
        process.stdin = cast("IO[bytes]", inputs[0])
        return process

    monkeypatch.setattr(GatewayProcess, "_spawn", slow)
    gateway = GatewayProcess((), CacheSettings(directory=tmp_path / "cache"), environment=os.environ)
    gateway.begin()
    pid_of(gateway)
    assert inputs[0].begun.wait(10)
    gateway.close()
    assert inputs[0].closed_meanwhile is False


def test_a_forked_child_does_not_close_it(gateway: GatewayProcess) -> None:
    child = os.fork()
    if child == 0:
        gateway.close()
        os._exit(0)
    os.waitpid(child, 0)
    with GatewayClient(gateway.address).session(Target()) as session:
        assert page(session).status_code == 200


def test_ignores_signals_of_the_terminal(gateway: GatewayProcess) -> None:
    pid = pid_of(gateway)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    with GatewayClient(gateway.address).session(Target()) as session:
        assert page(session).status_code == 200
    assert gateway.pid == pid


PARENT = """
import json, os, sys, time
from config.settings import CacheSettings
from config.logging import configure_logging
from worker.gateway.process import GatewayProcess
configure_logging()
with GatewayProcess((), CacheSettings(directory=sys.argv[1])) as gateway:
    child = os.fork() if sys.argv[2] == "forks" else None
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(json.dumps([gateway.pid, child]), flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["forks", "alone"])
def test_ends_when_its_parent_is_killed(how: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path / "cache"), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid, child = json.loads(parent.stdout.readline())
        parent.kill()
        try:
            assert gone(pid)
        finally:
            if child is not None:
                os.kill(child, signal.SIGKILL)
    assert list((tmp_path / "cache" / "part").iterdir()) == []


def test_ends_with_its_standard_input_alone(index: IndexServer, tmp_path: Path) -> None:
    """The second way, for when the kernel's signal does not come."""
    settings = index_settings(index)
    with GatewayProcess((settings,), CacheSettings(directory=tmp_path / "cache")) as gateway:
        before = pid_of(gateway)
        process = gateway._process  # noqa: SLF001 - the pipe is nobody else's business
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        assert gone(before)


def test_a_forked_child_that_unwinds_does_not_stop_it(gateway: GatewayProcess) -> None:
    child = os.fork()
    if child == 0:
        try:
            gateway.__exit__(None, None, None)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with GatewayClient(gateway.address).session(Target()) as session:
        assert page(session).status_code == 200


def test_a_cache_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(GatewayError, match=r"file/cache cannot be used: Not a directory"),
        GatewayProcess((), CacheSettings(directory=tmp_path / "file" / "cache")),
    ):
        pass


def test_authorities_that_cannot_be_read(index: IndexServer, tmp_path: Path) -> None:
    process = GatewayProcess(
        (index_settings(index),), CacheSettings(directory=tmp_path / "cache"), ca_bundle=tmp_path / "ca.pem"
    )
    with pytest.raises(GatewayError, match=r"ca\.pem, named by REQUESTS_CA_BUNDLE"), process:
        pass
    assert list((tmp_path / "cache" / "part").iterdir()) == []


def test_without_a_sound_document_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "worker.gateway"]
    done = subprocess.run(command, input=b"{}\n", cwd=tmp_path, capture_output=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stdout == b""


class Unreadable:
    """Answers with a header that is none."""

    def play(self, exchange: Exchange) -> None:
        exchange.write(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 3\r\n\r\nabc")
        exchange.hang_up()


def test_signed_addresses_do_not_stand_in_the_log(
    gateway: GatewayProcess, index: IndexServer, capfd: pytest.CaptureFixture[str]
) -> None:
    index.add(PURE, WHEEL, url=f"../../files/{PURE}?X-Signature=s3cret")
    index.misbehave("/files/", Unreadable())
    with GatewayClient(gateway.address).session(Target()) as session:
        page(session)
        broken(session)
        told = session.record().model_dump_json()
    assert "s3cret" not in told + capfd.readouterr().err
