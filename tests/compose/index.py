"""A package index behind a bearer token, run in a container by the proof of the Compose deployment.

Slow enough that a worker can be killed in the middle of a batch.
"""

import hashlib
import html
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.wheels import build_wheel

PORT = 8000
_FILE_SECONDS = 2.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, files: Mapping[str, Path], token: str, *arguments: object) -> None:
        self._files, self._token = files, token
        super().__init__(*arguments)  # type: ignore[arg-type]  # as socketserver gives them

    def do_GET(self) -> None:  # the name that http.server looks for
        if self.path == "/healthz":
            self._answer(HTTPStatus.OK, b"")
        elif self.headers["Authorization"] != f"Bearer {self._token}":
            self._answer(HTTPStatus.UNAUTHORIZED, b"")
        elif file := self._files.get(self.path.removeprefix("/files/")):
            time.sleep(_FILE_SECONDS)
            self._answer(HTTPStatus.OK, file.read_bytes(), "application/octet-stream")
        elif links := "".join(map(_link, filter(self._asked_for, self._files.values()))):
            self._answer(HTTPStatus.OK, f"<!doctype html>{links}".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"")

    def _asked_for(self, file: Path) -> bool:
        return self.path in {"/simple/", f"/simple/{file.name.split('-')[0].replace('_', '-')}/"}

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/html") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _link(file: Path) -> str:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return f'<a href="/files/{html.escape(file.name)}#sha256={digest}">{html.escape(file.name)}</a>'


def main(packages: int, token: str) -> None:
    """Serve ``proof-1`` to ``proof-N`` until the process is ended."""
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        wheels = [build_wheel(directory, f"proof-{n}", visualizations=["chart"]) for n in range(1, packages + 1)]
        handler = partial(_Handler, {wheel.name: wheel for wheel in wheels}, token)
        with ThreadingHTTPServer(("0.0.0.0", PORT), handler) as server:  # noqa: S104 - in a container, for the others
            server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]).read_text(encoding="utf-8").strip())
