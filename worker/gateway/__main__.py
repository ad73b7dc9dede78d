"""The gateway's own process: one for each agent, started and watched by ``worker.gateway.process``."""

import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
import warnings
from contextlib import closing
from typing import NoReturn

import pypi_simple
import structlog

from config.garbage import search_less
from config.logging import configure_logging
from config.privacy import hide_from_neighbours
from config.secrets import secret_values
from config.tracing import Tracing
from jobs.metrics import Meter, meter_for
from worker.gateway.cache import FileCache
from worker.gateway.server import Application, Server
from worker.gateway.shelf import Shelf
from worker.gateway.startup import Startup
from worker.gateway.tasks import Tasks
from worker.gateway.traffic import traffic
from worker.gateway.transport import TrustError
from worker.gateway.upstream import Upstream

READY = "ready"
_PR_SET_PDEATHSIG = 1
_PARENT_DIED = signal.SIGUSR1


def main() -> None:
    """Serve until standard input ends or the parent dies, whichever is noticed first.

    Always ends by ``os._exit``: threads may be waiting for an index, and nothing they hold outlives the process.
    """
    hide_from_neighbours()
    search_less()
    configure_logging()  # standard output is for the parent
    try:
        parent_died = _take_signals()
        document = sys.stdin.buffer.readline()
        if not document:  # the parent has ended, or does not want us any more
            os._exit(0)
        startup = Startup.model_validate_json(document)
        _die_with(startup.parent_pid)
        _set_up_logging(startup)
        _run(startup, parent_died)
    except BaseException:  # noqa: BLE001 - else those threads would keep a gateway alive that serves nobody
        structlog.get_logger().exception("gateway_failed")
        os._exit(1)
    os._exit(0)


def _run(startup: Startup, parent_died: int) -> None:
    try:
        cache = FileCache(startup.cache.directory, startup.cache.max_size_bytes, startup.cache.page_ttl_seconds)
    except OSError as error:
        _refuse(f"The cache directory {startup.cache.directory} cannot be used: {error.strerror or error}")
    with closing(cache), _traces(startup), closing(_meter(startup)) as meter:
        try:
            server = _server(startup, cache, meter)
        except TrustError as error:
            cache.close()
            _refuse(str(error))
        server.prepare()
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        _tell(READY)
        _wait_for_the_end(parent_died)


def _serve(server: Server) -> None:
    try:
        server.serve()
    finally:
        os._exit(1)  # the parent starts another one; a process that does not serve would hold its place


def _take_signals() -> int:
    """Leave it to the parent to end us: a terminal sends Ctrl-C to the whole group, while tasks still finish.

    Returns a descriptor that becomes readable when the parent has died.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    told, tell = os.pipe()
    # No exception: it could come in the middle of cleaning up.
    signal.signal(_PARENT_DIED, lambda _number, _frame: os.write(tell, b".") and None)
    return told


def _die_with(parent_pid: int) -> None:
    """Have the kernel signal us when the thread that started us ends, in case standard input stays open."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(_PARENT_DIED), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # it died before we asked
        os._exit(0)


def _set_up_logging(startup: Startup) -> None:
    """Log to standard error, which the worker shares, without the secrets now known."""
    configure_logging(secrets={*secret_values(startup), *startup.traces.secrets()}, agent=startup.agent)
    # It warns of headers that it cannot read, with the whole URL, and signed ones are keys for whoever reads them.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # An index may speak a newer minor version of the protocol: it is compatible by definition (PEP 629).
    warnings.simplefilter("ignore", pypi_simple.UnexpectedRepoVersionWarning)


def _traces(startup: Startup) -> Tracing:
    """Return what sends this process's traces. Its end does not wait for that as long as its parent waits for it."""
    return Tracing(startup.traces, service="vizfetch-gateway", instance=startup.agent, secrets=secret_values(startup))


def _meter(startup: Startup) -> Meter:
    if startup.redis is None or startup.agent is None:
        return Meter()
    meter = meter_for(startup.redis, startup.agent)
    if startup.restarted:
        meter.add("vizfetch_gateway_restarts")
    return meter


def _server(startup: Startup, cache: FileCache, meter: Meter) -> Server:
    known = traffic(startup.redis, startup.patience)
    upstreams = tuple(
        Upstream(settings, ca_bundle=startup.ca_bundle, retries=startup.retries, traffic=known, meter=meter)
        for settings in startup.indexes
    )
    shelf = Shelf(startup.cache.page_ttl_seconds, cache.pages)
    tasks = Tasks(upstreams, shelf, cache, startup.session_idle_seconds, startup.rules)
    application = Application(tasks, startup.control_token.get_secret_value())
    return Server(socket.socket(fileno=startup.listen_fd), application, startup.threads)


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _refuse(reason: str) -> NoReturn:
    _tell(" ".join(reason.split()))
    os._exit(1)


def _wait_for_the_end(parent_died: int) -> None:
    """Wait for either sign. Nothing follows the document on standard input, so it is readable at its end."""
    select.select([sys.stdin.fileno(), parent_died], [], [])


if __name__ == "__main__":
    main()
