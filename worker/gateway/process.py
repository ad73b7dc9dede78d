"""The gateway's process as the worker's main process sees it: started, watched, started again, stopped."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from pydantic import SecretStr

from config.settings import CacheSettings, IndexSettings, RedisSettings
from config.tracing import TracingSettings
from jobs.traffic import Patience
from worker.gateway.client import GatewayAddress
from worker.gateway.errors import GatewayError, GatewayRefused
from worker.gateway.startup import Retries, Rules, Startup

READY = "ready"
_BACKLOG = 256
_STOP_SECONDS = 3.0
_LEAST_THREADS = 40
_THREADS_PER_TASK = 2
"""For its pip, which may wait for an index, and for the task itself, which must not wait for that."""
_SPARE_THREADS = 8
_MAX_RESTART_PAUSE_SECONDS = 5.0
_HEALTHY_SECONDS = 30.0
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "SSL_CERT_DIR")

_log = structlog.get_logger()


class GatewayProcess:
    """Owns the listening socket and one gateway process at a time.

    The socket belongs to the parent: a gateway that died is replaced on the same port, and connections made
    meanwhile wait in the backlog. A context manager; entering raises GatewayRefused when the gateway cannot
    start (a cache directory that cannot be used, a file of authorities that cannot be read). Whoever has other
    things to do meanwhile calls ``begin`` before.
    """

    def __init__(
        self,
        indexes: tuple[IndexSettings, ...],
        cache: CacheSettings,
        *,
        ca_bundle: Path | None = None,
        retries: Retries | None = None,
        rules: Rules | None = None,
        redis: RedisSettings | None = None,
        patience: Patience | None = None,
        agent: str | None = None,
        session_idle_seconds: float = 3600,
        tasks: int = 1,
        environment: Mapping[str, str] | None = None,
        traces: TracingSettings | None = None,
    ) -> None:
        """Take settings; nothing is started yet.

        ``environment`` is this process's, of which the gateway gets a few harmless variables. ``ca_bundle`` is
        what ``worker.gateway.startup.ca_bundle`` finds there. Through ``redis`` the gateways of all workers know
        which indexes are down; ``agent`` is the name under which there is counted what is asked of them.
        ``traces`` says where it is told to; ``tasks`` is how many are fetched at the same time.
        """
        self._indexes = indexes
        self._cache = cache
        self._ca_bundle = ca_bundle
        self._retries = retries or Retries()
        self._rules = rules or Rules()
        self._redis = redis
        self._patience = patience or Patience()
        self._agent = agent
        self._session_idle_seconds = session_idle_seconds
        self._threads = max(_LEAST_THREADS, _THREADS_PER_TASK * tasks + _SPARE_THREADS)
        self._traces = traces or TracingSettings()
        self._environment = {name: value for name, value in (environment or {}).items() if name in _KEPT_VARIABLES}
        self._control_token = secrets.token_urlsafe(32)
        self._listener: socket.socket | None = None
        self._address: GatewayAddress | None = None
        self._owner_pid = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._introduced = False
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._refusal: str | None = None
        self._watcher = threading.Thread(target=self._watch, name="gateway-watcher", daemon=True)
        _let_go_after_fork(self)

    @property
    def address(self) -> GatewayAddress:
        """Where the gateway listens and what opens its control side; hand it to the prefork children."""
        if self._address is None:
            raise GatewayError("The index gateway is not started.")
        return self._address

    @property
    def pid(self) -> int | None:
        """The id of the process that serves now; None between two of them."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def begin(self) -> None:
        """Have the process start, and do not wait for it. Harmless to repeat."""
        if self._listener is not None:
            return
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        port = self._listener.getsockname()[1]
        self._address = GatewayAddress(url=f"http://127.0.0.1:{port}", control_token=self._control_token)
        self._watcher.start()

    def __enter__(self) -> Self:
        self.begin()
        self._ready.wait()
        if self._refusal is not None:
            self.close()
            raise GatewayRefused(self._refusal)
        _log.info("gateway_started", pid=self.pid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, unless it was never begun. Harmless to repeat; does nothing in a forked child."""
        if os.getpid() != self._owner_pid or self._listener is None:
            return
        with self._lock:
            self._stopping.set()
            process, introduced = self._process, self._introduced
        if process is not None and introduced:
            _stop(process, _STOP_SECONDS)
        elif process is not None:
            # It looks for the end of its input only later; what it has made is swept by the next one. And that
            # input is being written to: closed now, its descriptor might be another file's before the next write.
            _kill(process)
        if self._watcher.ident is not None:
            self._watcher.join()
        self._listener.close()
        self._listener = None

    def _watch(self) -> None:
        """Keep one gateway running.

        All of them are started here, since the kernel takes the end of the thread that started a process for
        the death of its parent (prctl(2), PR_SET_PDEATHSIG).
        """
        pause = 0.0
        while not self._stopping.wait(pause):
            started = time.monotonic()
            process = self._start()
            if process is None:
                return
            code = process.wait()
            _close_pipes(process)
            if self._stopping.is_set() or self._refusal is not None:
                return
            lived = time.monotonic() - started
            pause = 0.0 if lived > _HEALTHY_SECONDS else min(max(0.1, pause * 2), _MAX_RESTART_PAUSE_SECONDS)
            _log.error("gateway_died", exit_code=code, lived_seconds=round(lived, 1), restart_in_seconds=pause)

    def _start(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._stopping.is_set() or self._listener is None:
                return None
            process = self._spawn(self._listener.fileno())
            self._process, self._introduced = process, False
        said = _introduce(process, self._startup(self._listener.fileno()))
        with self._lock:
            self._introduced = True
        if said == READY and self._ready.is_set():
            _log.info("gateway_started", pid=process.pid)
        elif said != READY and not self._ready.is_set():  # a later one is started again: what it lacks may come back
            self._refusal = said or "The index gateway ended while it started; its log tells why."
        self._ready.set()
        return process

    def _spawn(self, descriptor: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            # -P: a directory named "worker" where the agent was started is not ours.
            [sys.executable, "-P", "-m", "worker.gateway"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # no buffer, no lock that a fork could leave locked
            pass_fds=(descriptor,),
            env=self._environment,
        )

    def _startup(self, descriptor: int) -> Startup:
        return Startup(
            indexes=self._indexes,
            cache=self._cache,
            control_token=SecretStr(self._control_token),
            listen_fd=descriptor,
            parent_pid=os.getpid(),
            ca_bundle=self._ca_bundle,
            retries=self._retries,
            rules=self._rules,
            redis=self._redis,
            patience=self._patience,
            agent=self._agent,
            restarted=self._ready.is_set(),
            session_idle_seconds=self._session_idle_seconds,
            threads=self._threads,
            traces=self._traces,
        )

    def _let_go(self) -> None:
        """Close what a forked child must not hold: the pipe's end tells of our death, the socket takes clients."""
        if self._process is not None:
            _close_pipes(self._process)
        if self._listener is not None:
            self._listener.close()


def _let_go_after_fork(owner: GatewayProcess) -> None:
    reference = weakref.ref(owner)

    def in_child() -> None:
        living = reference()
        if living is not None:
            living._let_go()  # noqa: SLF001 - part of the class, kept out of it to hold no reference

    os.register_at_fork(after_in_child=in_child)


def _introduce(process: subprocess.Popen[bytes], startup: Startup) -> str:
    """Hand over the document, and return the one line that the gateway answers; empty when it just ended."""
    if process.stdin is None or process.stdout is None:
        raise GatewayError("the gateway was started without pipes")
    left = memoryview(startup.reveal().encode() + b"\n")
    with contextlib.suppress(BrokenPipeError):  # it has ended, and what it said before tells why
        while left:
            left = left[process.stdin.write(left) :]
    return process.stdout.readline().decode("utf-8", "replace").strip()


def _stop(process: subprocess.Popen[bytes], patience_seconds: float) -> None:
    """End its standard input, which it takes as the end; if it does not in time, kill it."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(patience_seconds)
    except subprocess.TimeoutExpired:
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def _close_pipes(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
