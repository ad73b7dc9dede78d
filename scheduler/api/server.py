"""The life of the HTTP server beside the scheduler's loop, in a thread of the same process."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog
import uvicorn
from starlette.types import ASGIApp

from bundles.store import open_store
from config.problems import Problem, SettingsError
from config.settings import Settings
from jobs.connection import connect
from scheduler.api.application import application
from scheduler.api.connections import BoundedProtocol
from scheduler.api.resources import resources_of
from scheduler.api.security import is_loopback

_NAMES = "moderne.agent.visualization.api"
_LARGEST_HEAD_BYTES = 32 * 2**10
_KEEP_ALIVE_SECONDS = 15
_FINISH_WITHIN_SECONDS = 5
_STOP_WITHIN_SECONDS = 10
_ANSWER_WITHIN_SECONDS = 2.0
"""Of Redis, to the API: callers are told soon that it is away."""

_log = structlog.get_logger()


@contextmanager
def serving(settings: Settings) -> Iterator[None]:
    """Serve the API until the block is left; what is being answered then is finished first.

    Raises SettingsError when the address may not or cannot be used, before anything is asked of Redis or the store.
    A port that nobody chose may be taken, as by another service on the same machine: then there is no API, and the log
    says so.
    """
    listener = _listener(settings)
    if listener is None:
        yield
        return
    stopping = threading.Event()
    with listener, connect(settings.redis, timeout_seconds=_ANSWER_WITHIN_SECONDS) as redis:
        resources = resources_of(settings, redis, open_store(settings.storage), stopping)
        server = _server(application(resources))
        thread = threading.Thread(target=server.run, args=([listener],), name="api", daemon=True)
        thread.start()
        host, port = listener.getsockname()[:2]
        _log.info("api_listening", host=host, port=port)
        try:
            yield
        finally:
            stopping.set()
            server.should_exit = True
            thread.join(_STOP_WITHIN_SECONDS)


def _server(app: ASGIApp) -> uvicorn.Server:
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=BoundedProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_LARGEST_HEAD_BYTES,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=_FINISH_WITHIN_SECONDS,
        )
    )


def _listener(settings: Settings) -> socket.socket | None:
    """Return the socket to serve on; None when there is to be no API."""
    api = settings.api
    if api.port == 0:
        return None
    try:
        address = _address(api.host, api.port)
    except OSError as error:
        raise _problem("host", f"cannot be found ({error.strerror}); name an address of this machine") from error
    if api.token is None and not is_loopback(address[1][0]):
        advice = f"is not loopback, so {_NAMES}.token is needed; set it, or set the host to 127.0.0.1"
        raise _problem("host", advice)
    try:
        return _bound(*address)
    except OSError as error:
        taken = f"{api.host}:{api.port} cannot be listened on ({error.strerror}); set another port, or 0 for no API"
        if "port" in api.model_fields_set:
            raise _problem("port", taken) from error
        _log.warning("api_not_listening", setting=f"{_NAMES}.port", reason=taken)
        return None


def _address(host: str, port: int) -> tuple[int, tuple[str, int]]:
    family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    return family, (str(address[0]), port)


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    # With the protocol named, asyncio sends each answer without waiting for what may follow (TCP_NODELAY).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # so that another's listening shows now
    except OSError:
        with suppress(OSError):
            listener.close()
        raise
    return listener


def _problem(leaf: str, advice: str) -> SettingsError:
    return SettingsError([Problem("settings", f"{_NAMES}.{leaf}", advice)])
