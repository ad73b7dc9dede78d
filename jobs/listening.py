"""Where a service listens for HTTP: the socket for ``api.host`` and ``api.port``, or the reason why there is none."""

import os
import socket
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import structlog

from config.problems import Problem, SettingsError
from config.settings import ApiSettings

_NAMES = "moderne.agent.visualization.api"
_BACKLOG = 128
_LAST_PORT = 65535

_log = structlog.get_logger()


@contextmanager
def listening(api: ApiSettings) -> Iterator[socket.socket | None]:
    """Yield ``listen``'s socket and close it afterwards."""
    listener = listen(api)
    try:
        yield listener
    finally:
        if listener is not None:
            listener.close()


def listen(api: ApiSettings) -> socket.socket | None:
    """Return a socket that listens where the settings say; None when nothing is to listen. The caller closes it.

    Children that are forked later do not keep it open. A port that nobody chose may be taken, as by another service on
    the same machine: then nothing listens, and the log says so. Raises ``SettingsError``.
    """
    if api.port == 0:
        return None
    family, address = address_of(api)
    try:
        return _bound(family, address)
    except OSError as error:
        another = api.port + 1 if api.port < _LAST_PORT else api.port - 1
        taken = (
            f"{api.host}:{api.port} cannot be listened on ({error.strerror}); where several services share a machine, "
            f"give each a port of its own, such as {another}, or 0 to do without"
        )
        if "port" in api.model_fields_set:
            raise problem("port", taken) from error
        _log.warning("api_not_listening", setting=f"{_NAMES}.port", reason=taken)
        return None


def address_of(api: ApiSettings) -> tuple[int, tuple[str, int]]:
    """Return the family and the numeric address behind the settings. Raises ``SettingsError``."""
    try:
        family, _, _, _, address = socket.getaddrinfo(api.host.strip("[]"), api.port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise problem("host", f"cannot be found ({error.strerror}); name an address of this machine") from error
    return family, (str(address[0]), api.port)


def problem(leaf: str, advice: str) -> SettingsError:
    """Return what is wrong with one of the settings of where to listen."""
    return SettingsError([Problem("settings", f"{_NAMES}.{leaf}", advice)])


def _bound(family: int, address: tuple[str, int]) -> socket.socket:
    # With the protocol named, asyncio sends each answer without waiting for what may follow (TCP_NODELAY).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)  # so that another's listening shows now
    except OSError:
        with suppress(OSError):
            listener.close()
        raise
    _close_in_children(listener)
    return listener


def _close_in_children(listener: socket.socket) -> None:
    """Have forked children close their copy: it would go on taking clients after this process."""
    reference = weakref.ref(listener)

    def close() -> None:
        living = reference()
        if living is not None:
            living.close()

    os.register_at_fork(after_in_child=close)
