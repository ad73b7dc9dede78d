"""A real HTTP proxy on loopback."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.command import eventually


@dataclass(frozen=True)
class Proxy:
    """Where it listens, and its log, which has a line for each connection that has ended."""

    port: int
    log: Path

    def carried(self, what: str) -> bool:
        """Whether it has carried such a request: ``GET host:port`` or ``CONNECT host:port``."""
        return what in self.log.read_text()


@contextmanager
def proxy(directory: Path, *options: str) -> Iterator[Proxy]:
    """Run proxy.py on a free port."""
    log, port_file = directory / "proxy.log", directory / "proxy.port"
    log.touch()
    command = [
        *(sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", "0", "--port-file", str(port_file)),
        *("--num-workers", "1", "--num-acceptors", "1", "--log-level", "i", "--log-file", str(log), *options),
    ]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: port_file.exists() and port_file.read_text().strip(), explain=log.read_text)
        yield Proxy(int(port_file.read_text()), log)
    finally:
        process.terminate()
        process.wait(10)
