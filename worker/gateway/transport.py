"""How the gateway's requests reach an index: connections with deadlines, and whom TLS trusts.

requests and urllib3 limit single receives only: an index that sends a byte now and then holds a reader for ever.
Here the limit sits below them, in what the HTTP parser reads from, and counts for headers and body as a whole.
"""

import contextlib
import errno
import http.client
import io
import os
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, LocationParseError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

from worker.background import later

_BUFFER_BYTES = 64 * 1024
_POOLS = 16
_CONNECTIONS = 32
_LEAST_SECONDS = 0.001
"""For a socket, no time at all would mean not to wait for anything."""

Pools = Mapping[str, type[HTTPConnectionPool]]


class TrustError(Exception):
    """The file of authorities that the environment names cannot be used."""


def tls_context(*, skip_ssl: bool, ca_bundle: Path | None) -> ssl.SSLContext:
    """Make the rules for TLS: the system's store plus ``ca_bundle``, or nothing verified at all.

    Raises TrustError when ``ca_bundle`` cannot be read as authorities.
    """
    if skip_ssl:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _trust_system(trusted)
    if ca_bundle is not None:
        _trust(trusted, ca_bundle)
    return trusted


_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # later ones
    "/etc/ssl/ca-bundle.pem",  # SUSE
)


def _trust_system(context: ssl.SSLContext) -> None:
    """Trust whom OpenSSL trusts by itself; a Python from elsewhere may look where this distribution has nobody.

    Read once for each index, since that costs more than all else that a connection takes. Not with truststore, which
    reads them for each connection, and has each wait until the handshakes of the others are done, however they hang.
    """
    context.set_default_verify_paths()
    by_hash = ssl.get_default_verify_paths().capath  # looked into when there is somebody to find
    if context.get_ca_certs() or (by_hash and os.access(by_hash, os.R_OK) and any(Path(by_hash).iterdir())):
        return
    for place in filter(Path.is_file, map(Path, _AUTHORITIES)):
        context.load_verify_locations(place)
        return


def _trust(context: ssl.SSLContext, ca_bundle: Path) -> None:
    try:
        if ca_bundle.is_dir():
            context.load_verify_locations(capath=str(ca_bundle))
        else:
            context.load_verify_locations(cafile=str(ca_bundle))
    except OSError as error:  # ssl.SSLError is one
        raise TrustError(
            f"{ca_bundle}, named by REQUESTS_CA_BUNDLE or SSL_CERT_FILE, cannot be read as certificates: {error}"
        ) from error


class Adapter(HTTPAdapter):
    """Sends requests over connections with deadlines, trusting whom its context trusts and nobody else."""

    def __init__(self, context: ssl.SSLContext, body_seconds: float, guard: "PeerGuard") -> None:
        """``context`` is this adapter's own."""
        self._context = context
        self._sockets = _Sockets()
        context.sslsocket_class = _tls_sockets(self._sockets)
        self._pools = _timed_pools(body_seconds, guard, self._sockets)
        super().__init__(pool_connections=_POOLS, pool_maxsize=_CONNECTIONS)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **options: Any) -> None:  # noqa: ANN401, FBT001, FBT002 - the signature is requests'
        """Make the pools for direct connections."""
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **options)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:  # noqa: ANN401 - the signature is requests'
        """Make the pools for connections through a proxy."""
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **options)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ANN401, ARG002 - the signature is requests'
        """Leave trust to the context. requests would add certifi's authorities to it."""
        conn.cert_reqs = self._context.verify_mode

    def close(self) -> None:
        """Close all connections, also those on which somebody waits: whoever does gets an error. For good."""
        self._sockets.end()
        super().close()


class _Sockets:
    """The sockets that are open, so that what is on its way can be ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._ended = False

    def add(self, sock: socket.socket) -> None:
        """Remember one. Raises OSError when all of them have been ended: then it is the caller's to close."""
        with self._lock:
            if self._ended:
                raise ConnectionAbortedError(errno.ECONNABORTED, "the connection is not wanted any more")
            self._open.add(sock)

    def end(self) -> None:
        """End the conversation on each; whoever owns one closes it."""
        with self._lock:
            self._ended = True
            for sock in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's, which changes what others are using


def _tls_sockets(sockets: _Sockets) -> type[ssl.SSLSocket]:
    """Make the class of an adapter's TLS sockets."""

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the signature is ssl's
            sockets.add(self)
            super().do_handshake(block)

        def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
            """Close it where ssl leaves it open: the peer has reset the connection before the handshake begins.

            ssl asks for data then and forgets the socket if that fails with another error than these two.
            """
            try:
                return super().recv(buflen, flags)
            except OSError as error:
                if self.version() is None and error.errno not in {errno.ENOTCONN, errno.EINVAL}:
                    self.close()
                raise

    return Socket


PeerGuard = Callable[[str], None]
"""Called with the address a connection reached, before anything is sent on it; raises to refuse it."""


def _timed_pools(body_seconds: float, guard: PeerGuard, sockets: _Sockets) -> Pools:
    """Make connection pools whose bodies have a deadline.

    A connection finds its classes by attributes of classes, hence classes made here. Until the headers are
    complete the limit is what is left of the connection's own timeout, which urllib3 counts from connecting on.
    """

    class Response(_TimedResponse):
        limit_seconds = body_seconds

    class Plain(HTTPConnection):
        response_class = Response

        def _new_conn(self) -> socket.socket:
            return _checked(_connected(self), self, guard, sockets)

    class Secure(HTTPSConnection):
        response_class = Response

        def _new_conn(self) -> socket.socket:
            return _checked(_connected(self), self, guard, sockets)

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class SecurePool(HTTPSConnectionPool):
        ConnectionCls = Secure

    return {"http": PlainPool, "https": SecurePool}


def _connected(connection: HTTPConnection) -> socket.socket:
    """Connect to whichever address of the host answers, all within the connection's timeout.

    urllib3 gives all of it to each address, and to looking the name up as long as the system takes. Here each address
    gets its share of what is left. The errors are urllib3's.
    """
    deadline = time.monotonic() + float(connection.timeout or 0)
    failure: OSError = OSError("the host has no address")
    addresses = _resolved(connection, deadline)
    for number, (family, kind, protocol, _, address) in enumerate(addresses):
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:  # a family that this machine does not have
            failure = error
            continue
        try:
            for option in connection.socket_options or ():
                sock.setsockopt(*option)
            sock.settimeout(max(_left(deadline) / (len(addresses) - number), _LEAST_SECONDS))
            sock.connect(address)
        except OSError as error:
            failure = error
            sock.close()
        else:
            sock.settimeout(max(_left(deadline), _LEAST_SECONDS))
            return sock
    if isinstance(failure, TimeoutError):
        raise ConnectTimeoutError(connection, f"{connection.host} did not take a connection in time") from failure
    raise NewConnectionError(connection, str(failure)) from failure


def _resolved(connection: HTTPConnection, deadline: float) -> list[Any]:
    """Return what ``getaddrinfo`` does, which cannot be told how long it may take."""
    # With its last dot, which tells the resolver that the name is whole.
    host, family = connection._dns_host.strip("[]"), allowed_gai_family()  # noqa: SLF001 - urllib3 has no other

    def look_up(flags: int = 0) -> list[Any]:
        return socket.getaddrinfo(host, connection.port, family, socket.SOCK_STREAM, flags=flags)

    try:
        with contextlib.suppress(socket.gaierror):
            return look_up(socket.AI_NUMERICHOST)  # an address stands for itself
        return later(look_up).result(max(_left(deadline), _LEAST_SECONDS))
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"{connection.host} was not looked up in time") from error
    except UnicodeError as error:
        raise LocationParseError(f"{host!r}, a label is empty or too long") from error


def _left(deadline: float) -> float:
    return deadline - time.monotonic()


def _checked(sock: socket.socket, connection: HTTPConnection, guard: PeerGuard, sockets: _Sockets) -> socket.socket:
    try:
        sockets.add(sock)
        if connection.proxy is None:  # else the peer is the proxy, which the user chose
            guard(sock.getpeername()[0])
    except BaseException:
        sock.close()
        raise
    return sock


class _TimedResponse(http.client.HTTPResponse):
    """An HTTP answer whose headers and whose body each have one deadline."""

    limit_seconds: float

    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:  # noqa: ANN401 - the signature is http.client's
        super().__init__(sock, *args, **options)
        self.fp.close()
        self._reader = _DeadlineReader(sock)
        self.fp = io.BufferedReader(self._reader, _BUFFER_BYTES)

    def begin(self) -> None:
        """Read the headers; the body's time starts when they are complete."""
        super().begin()
        self._reader.limit(self.limit_seconds)

    def hurry(self, seconds: float) -> None:
        """Give what is left of the body no longer than this."""
        self._reader.limit(seconds)


def hurry(response: urllib3.BaseHTTPResponse, seconds: float) -> None:
    """Give what is left of an answer's body no longer than ``seconds``."""
    # The only way from urllib3's answer to the one of ours that it reads from; requests takes it too.
    inner = getattr(response, "_original_response", None)
    if isinstance(inner, _TimedResponse):
        inner.hurry(seconds)


class _DeadlineReader(io.RawIOBase):
    """Reads from a socket until a deadline, however the bytes trickle in."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        # The socket counts its files: http.client closes it early for answers that end with the connection.
        self._file = sock.makefile("rb", buffering=0)
        timeout = sock.gettimeout()
        self._deadline = None if timeout is None else time.monotonic() + timeout

    def limit(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # noqa: ANN401 - any writable buffer
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("timed out")
            self._socket.settimeout(left)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def first_byte_limit(seconds: float) -> Any:  # noqa: ANN401 - requests passes it on, but its types do not know it
    """Limit connecting and waiting for the first byte together, as users mean ``connectTimeout``."""
    return urllib3.Timeout(total=seconds)
