import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.deploy.files import ROOT
from tests.support.command import free_port


class Service(BaseHTTPRequestHandler):
    def __init__(self, status: int, *arguments: object) -> None:
        self.status = status
        super().__init__(*arguments)  # type: ignore[arg-type]  # as socketserver gives them

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/actuator/health/readiness" else 404)
        self.end_headers()
        self.wfile.write(b'{"status":"DOWN"}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def service(status: int) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Service, status)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def check(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", str(ROOT / "deploy" / "health.py")],
        env={"MODERNE_AGENT_VISUALIZATION_API_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_ready_service_is_healthy() -> None:
    with service(200) as port:
        assert check(port).returncode == 0


@pytest.mark.parametrize("status", [503, 404, 500])
def test_another_answer_is_told(status: int) -> None:
    with service(status) as port:
        done = check(port)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{status}: ")
    assert done.stderr == ""


def test_no_answer_is_told() -> None:
    done = check(free_port())
    assert done.returncode == 1
    assert "does not answer" in done.stdout
    assert done.stderr == ""
