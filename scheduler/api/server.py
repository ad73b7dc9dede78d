"""The life of the HTTP server beside the scheduler's loop, in a thread of the same process."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import uvicorn
from starlette.types import ASGIApp

from config.settings import Settings
from jobs.actuator import Actuator
from jobs.connection import connect
from jobs.listening import address_of, listen, problem
from scheduler.api.application import application
from scheduler.api.connections import BoundedProtocol
from scheduler.api.resources import resources_of
from scheduler.api.security import is_loopback

_LARGEST_HEAD_BYTES = 32 * 2**10
_KEEP_ALIVE_SECONDS = 15
_FINISH_WITHIN_SECONDS = 5
_STOP_WITHIN_SECONDS = 10
_ANSWER_WITHIN_SECONDS = 2.0
"""Of Redis, to the API: callers are told soon that it is away."""
_SHORTEST_TOKEN = 16
"""Whoever guesses is held back by nothing else: see ``scheduler.api.security.Door``."""

_log = structlog.get_logger()


@contextmanager
def serving(settings: Settings, actuator: Actuator) -> Iterator[None]:
    """Serve the API, health and metrics until the block is left; what is being answered then is finished first.

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
        resources = resources_of(settings, redis, stopping)
        server = _server(application(resources, actuator))
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
            resources.at_end.close()


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
    if api.port and api.token is None and not is_loopback(address_of(api)[1][0]):
        raise problem("host", "is not loopback, so an api.token is needed; set it, or set the host to 127.0.0.1")
    # Also on loopback, where what listens to others stands in front.
    if api.port and api.token is not None and len(api.token.get_secret_value()) < _SHORTEST_TOKEN:
        short = f"has less than {_SHORTEST_TOKEN} characters, and others may guess; set a long random one"
        raise problem("token", short)
    return listen(api)
