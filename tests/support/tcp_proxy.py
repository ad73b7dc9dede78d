"""A TCP proxy on loopback that can stall or cut what passes through it."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_CHUNK_BYTES = 65536


class TcpProxy:
    """Passes connections on to ``target``, a port of this machine, until it is told to misbehave."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = False

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def stall(self) -> None:
        """Keep every connection open and pass nothing on."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on again, also what came meanwhile."""
        self._flowing.set()

    def cut(self) -> None:
        """Close every connection; new ones are welcome."""
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                continue
            self._sockets.append(near)
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                near.shutdown(socket.SHUT_RDWR)
                continue
            self._sockets.append(far)
            for source, sink in ((near, far), (far, near)):
                self._pumps.append(threading.Thread(target=self._pump, args=(source, sink), daemon=True))
                self._pumps[-1].start()

    def close(self) -> None:
        self._closed = True
        self.flow()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for pump in self._pumps:
            pump.join(5)
        for connection in self._sockets:
            connection.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                self._flowing.wait()
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def tcp_proxy(target: int) -> Iterator[TcpProxy]:
    """Run a proxy to the port ``target`` of this machine."""
    proxy = TcpProxy(target)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(5)
