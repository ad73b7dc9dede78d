"""The installed ``vizfetch`` command, run as its users run it."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MARK = "planted-"
"""What every secret in these tests begins with: see ``tests.support.planted``."""
VIZFETCH = Path(sys.executable).with_name("vizfetch")
PROGRAMS = f"{VIZFETCH.parent}{os.pathsep}{os.environ['PATH']}"
"""Where programs are, as in an activated environment: a machine's own python3 may be a script that searches for one and
takes longer than all else that an agent tries when it starts."""
_STOP_WITHIN_SECONDS = 20


@dataclass
class Finished:
    """A command that ended."""

    exit_code: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        """The JSON document on standard output."""
        return json.loads(self.output)


@dataclass
class Service:
    """A service that runs, with what it has logged so far."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def wait_for(self, text: str, seconds: float = 60) -> None:
        """Wait until the log holds ``text``."""
        eventually(lambda: text in self.log.read_text(), seconds, self.log.read_text)

    def kill(self) -> None:
        """Kill the process as a power cut would: SIGKILL, to it alone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """Send SIGTERM and return the exit code."""
        self.process.terminate()
        return self.process.wait(_STOP_WITHIN_SECONDS)


@dataclass
class Deployment:
    """Settings as environment variables, and a directory for logs."""

    variables: Mapping[str, str]
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of a command: nothing of the machine's own settings but where programs are."""
        return {"PATH": PROGRAMS, "HOME": str(self.directory), **self.variables}

    def run(self, *arguments: str, seconds: float = 120, secrets_asked_for: bool = False) -> Finished:
        """Run a command to its end. It prints no secret, unless it was asked to."""
        done = subprocess.run(
            [VIZFETCH, *arguments], env=self.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
        assert secrets_asked_for or MARK not in done.stdout + done.stderr, "a command printed a secret"
        return Finished(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def service(self, *arguments: str, **variables: str) -> Iterator[Service]:
        """Run a service until the block is left, in a session of its own."""
        log = self.directory / f"{arguments[0]}-{time.monotonic_ns()}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [VIZFETCH, *arguments],
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        service = Service(process, log)
        try:
            yield service
        finally:
            if process.poll() is None:
                try:
                    service.stop()
                except subprocess.TimeoutExpired:
                    service.kill()


def eventually(condition: Callable[[], object], seconds: float = 60, explain: Callable[[], str] = lambda: "") -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {explain()}"
        time.sleep(0.05)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def lasting_port() -> int:
    """Return a port that stays free while its server is away: no connection of this machine is given one of these."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = random.SystemRandom().randrange(1024, first)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError(f"no port below {first} is free")


def children(pid: int) -> list[int]:
    """Return the process ids of all descendants that live."""
    direct: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it may end at any moment
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                direct += [int(child) for child in (task / "children").read_text().split()]
    return [descendant for child in direct for descendant in [child, *children(child)]]


def parent(pid: int) -> int:
    """Return the process that a process was started by; 0 when it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def pips(pid: int) -> list[int]:
    """Return the descendants that are a pip at work: what a server with pip imported has forked, or one by itself."""
    return [
        child
        for child in children(pid)
        if b"pip" in words_of(child) or (_serves_pip(child) and _serves_pip(parent(child)))
    ]


def _serves_pip(pid: int) -> bool:
    return any(word.endswith(b"/pip_fork.py") for word in words_of(pid))


def words_of(pid: int) -> list[bytes]:
    """Return the command line of a process; nothing of one that has ended."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return []
