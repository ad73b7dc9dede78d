"""A TCP proxy on loopback that can stall or cut what passes through it."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CHUNK_BYTES = 65536


class TcpProxy:
    """Passes connections on to ``target``, a port of this machine, until it is told to misbehave."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._passing: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        self._left_bytes: int | None = None
        self.passed_back_bytes = 0
        """How many bytes came from the target, of all connections together."""

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def open(self) -> int:
        """How many connections there are."""
        with self._lock:
            return len(self._sockets) // 2

    def stall(self) -> None:
        """Keep every connection open and pass nothing on."""
        self._flowing.clear()

    def stall_after(self, size_bytes: int) -> None:
        """Pass on so many bytes more from the target, then stall."""
        with self._lock:
            self._left_bytes = size_bytes

    def flow(self) -> None:
        """Pass on again, also what came meanwhile."""
        with self._lock:
            self._left_bytes = None
        self._flowing.set()

    def cut(self) -> int:
        """Close every connection and return how many there were; new ones are welcome."""
        with self._lock:
            connections = list(self._sockets)
        for connection in connections:
            _shut(connection)
        return len(connections) // 2

    def serve(self) -> None:
        while not self._closed:
            try:
                near, _ = self._listener.accept()
            except OSError:
                continue
            passing = threading.Thread(target=self._pass, args=(near,), daemon=True)
            self._passing = [each for each in self._passing if each.is_alive()] + [passing]
            passing.start()

    def close(self) -> None:
        self._closed = True
        self.flow()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for passing in self._passing:
            passing.join(5)

    def _pass(self, near: socket.socket) -> None:
        """Pass everything on, both ways, until either side ends."""
        with near:
            try:
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            with far:
                with self._lock:
                    self._sockets |= {near, far}
                back = threading.Thread(target=self._pump, args=(far, near, self._count_back), daemon=True)
                back.start()
                self._pump(near, far)
                back.join()
                with self._lock:
                    self._sockets -= {near, far}

    def _count_back(self, size_bytes: int) -> None:
        with self._lock:
            self.passed_back_bytes += size_bytes
            if self._left_bytes is not None:
                self._left_bytes -= size_bytes
                if self._left_bytes <= 0:
                    self._flowing.clear()

    def _pump(self, source: socket.socket, sink: socket.socket, count: Callable[[int], None] = lambda _: None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                self._flowing.wait()
                sink.sendall(data)
                count(len(data))
        for end in (source, sink):
            _shut(end)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


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
