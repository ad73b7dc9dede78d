"""The gateway's own process: one for each agent, started and watched by ``worker.gateway.process``."""

import ctypes
import os
import signal
import socket
import sys
import threading
import warnings
from typing import NoReturn

import pypi_simple

from config.logging import configure_logging
from config.secrets import secret_values
from worker.gateway.cache import FileCache
from worker.gateway.server import Application, Server
from worker.gateway.shelf import Shelf
from worker.gateway.startup import Startup
from worker.gateway.tasks import Tasks
from worker.gateway.transport import TrustError
from worker.gateway.upstream import Upstream

READY = "ready"
_PR_SET_PDEATHSIG = 1
_PARENT_DIED = signal.SIGUSR1


class _ParentDied(BaseException):
    """Raised in the main thread by the signal; nothing on the way up may hold it."""


def main() -> None:
    """Serve until standard input ends or the parent dies, whichever is noticed first."""
    _take_signals()
    startup = Startup.model_validate_json(sys.stdin.buffer.readline())
    _die_with(startup.parent_pid)
    _set_up_logging(startup)
    try:
        cache = FileCache(startup.cache.directory, startup.cache.max_size_bytes, startup.cache.page_ttl_seconds)
    except OSError as error:
        _refuse(f"The cache directory {startup.cache.directory} cannot be used: {error.strerror or error}")
    try:
        server = _server(startup, cache)
        server.prepare()
        threading.Thread(target=server.serve, daemon=True).start()
        _tell(READY)
        _wait_for_the_end()
    except TrustError as error:
        cache.close()
        _refuse(str(error))
    finally:
        cache.close()
    # Threads may be waiting for an index; nothing they hold outlives the process.
    os._exit(0)


def _take_signals() -> None:
    """Leave it to the parent to end us: a terminal sends Ctrl-C to the whole group, while tasks still finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(_PARENT_DIED, _raise_parent_died)


def _raise_parent_died(_number: int, _frame: object) -> None:
    signal.signal(_PARENT_DIED, signal.SIG_IGN)
    raise _ParentDied


def _die_with(parent_pid: int) -> None:
    """Have the kernel signal us when the thread that started us ends, in case standard input stays open."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(_PARENT_DIED), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(0)


def _set_up_logging(startup: Startup) -> None:
    """Log to standard error, which the worker shares; standard output is for the parent."""
    configure_logging(secrets=secret_values(startup))
    # An index may speak a newer minor version of the protocol: it is compatible by definition (PEP 629).
    warnings.simplefilter("ignore", pypi_simple.UnexpectedRepoVersionWarning)


def _server(startup: Startup, cache: FileCache) -> Server:
    upstreams = tuple(
        Upstream(settings, ca_bundle=startup.ca_bundle, retries=startup.retries) for settings in startup.indexes
    )
    shelf = Shelf(startup.cache.page_ttl_seconds)
    tasks = Tasks(upstreams, shelf, cache, startup.session_idle_seconds)
    application = Application(tasks, startup.control_token.get_secret_value())
    return Server(socket.socket(fileno=startup.listen_fd), application, startup.threads)


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _refuse(reason: str) -> NoReturn:
    _tell(" ".join(reason.split()))
    os._exit(1)


def _wait_for_the_end() -> None:
    try:
        while os.read(sys.stdin.fileno(), 4096):
            pass
    except _ParentDied:
        pass


if __name__ == "__main__":
    main()
