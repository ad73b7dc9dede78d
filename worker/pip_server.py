"""pip without its start: a process of its own that has it imported forks for each download.

Importing pip takes a third of the CPU time of a download. What is run is the same pip in the same surroundings as by
``worker.pip``: its own session, the task's home and temporary files, the scrubbed environment, nothing else to import.
It is for downloads, which run nothing of anybody's; what builds or installs gets an interpreter of its own.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from worker import pip_fork
from worker.pip import LOOK_EVERY_SECONDS, DeadlineExceeded, Outcome, PinnedPip, environment, wait_for

_ANSWER_SECONDS = 60.0
"""For killing a process and telling how it ended, on a machine with much to do. One that takes longer is frozen."""
_GONE_SECONDS = 5.0
_NOWHERE = Path(os.devnull)
"""For a home, since no directory can be made there, as a program that pip asks for its version does in any other."""

_log = structlog.get_logger()


class _Lost(Exception):
    """The server ended, or does not answer."""


class PipServer:
    """Starts the process with the first download, or before it when it is told to, and again when it is gone.

    For one thread, in one process: the kernel ends pip and the server when that thread ends, also by a kill. A context
    manager; leaving it ends the server.
    """

    def __init__(self, pip: PinnedPip) -> None:
        self._pip = pip
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the server."""
        self.close()

    @property
    def pid(self) -> int | None:
        """The server's process id; None when there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Have pip imported meanwhile, so that the first download need not wait for it. Harmless to repeat.

        Where the machine refuses, the first download tries again and tells.
        """
        with suppress(OSError):
            self._running()

    def run(
        self,
        python: Path,
        arguments: Sequence[str],
        *,
        scratch: Path,
        log: Path,
        timeout_seconds: float,
        check: Callable[[], None],
    ) -> Outcome:
        """Run pip to its end as that of the venv which has ``python``; like ``worker.pip.run`` in every respect.

        A server that is killed takes its pip along: the outcome then is that of a pip that was killed.
        """
        log.write_bytes(b"")
        deadline = time.monotonic() + timeout_seconds
        job = {
            "arguments": list(arguments),
            "environment": environment(os.environ, scratch),
            "log": str(log),
            "python": str(python),
            "scratch": str(scratch),
            "venv": str(python.parents[1]),
        }
        pid = None
        try:
            pid = self._ask(json.dumps(job), deadline, check, late=DeadlineExceeded)
            wait_for(pid, deadline, check)
            return Outcome.of(self._ask(pip_fork.END, time.monotonic() + _ANSWER_SECONDS), log)
        except (_Lost, ProcessLookupError):
            _log.warning("pip_server_lost", exit_code=self._abandon(pid))
            check()
            return Outcome.of(-signal.SIGKILL, log)
        except BaseException:
            self._abandon(pid)
            raise

    def close(self) -> None:
        """End the server, and a pip that it may be running. Harmless to repeat."""
        self._abandon(None)

    def _ask(
        self,
        line: str,
        deadline: float,
        check: Callable[[], None] = lambda: None,
        *,
        late: type[Exception] = _Lost,
    ) -> int:
        """Say something and return the number that is the answer. Raises ``_Lost``, and ``late`` after ``deadline``."""
        process = self._running()
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the pip server was started without pipes")
        try:
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise _Lost from error
        while not select.select([process.stdout], [], [], LOOK_EVERY_SECONDS)[0]:
            check()
            if time.monotonic() > deadline:
                raise late
        answer = process.stdout.readline()
        if not answer:
            raise _Lost
        return int(answer)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is not None and self._process.poll() is not None:
            _log.warning("pip_server_died", exit_code=self._abandon(None))
        if self._process is None:
            self._process = self._start()
        return self._process

    def _start(self) -> "subprocess.Popen[bytes]":
        program = Path(pip_fork.__file__)
        return subprocess.Popen(
            # -I and -S: neither the working directory nor any installed package is importable.
            [sys.executable, "-I", "-S", str(program), str(self._pip.directory), str(os.getpid())],
            bufsize=0,
            cwd=self._pip.directory,
            env=environment(os.environ, _NOWHERE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def _abandon(self, pid: int | None) -> int | None:
        """Kill the server with the pip ``pid`` and return the server's exit code; None when there was none."""
        process, self._process = self._process, None
        if process is None:
            return None
        ended = None if pid is None else _pidfd(pid)
        if pid is not None and process.poll() is None:
            # Only while the server lives: it has not waited for this process, so the number is still its own.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        # It leads a session of its own, with what it may have asked just now.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if ended is not None:
            # The kernel kills a pip whose server is gone.
            select.select([ended], [], [], _GONE_SECONDS)
            os.close(ended)
        return process.returncode


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
