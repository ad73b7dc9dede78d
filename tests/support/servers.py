"""Servers that others wrote, as processes."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from tests.support.command import eventually

_STOP_WITHIN_SECONDS = 10


@contextmanager
def running(*command: str, url: str) -> Iterator[None]:
    """Run a server until the block ends; ``url`` tells when it answers anything at all."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: _answers(url, process), 20)
            yield
        finally:
            process.terminate()
            process.wait(_STOP_WITHIN_SECONDS)


def _answers(url: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "the server ended"
    try:
        requests.get(url, timeout=5)
    except requests.exceptions.SSLError:
        return True  # it answers, if as somebody whom nobody here knows
    except requests.ConnectionError:
        return False
    return True
