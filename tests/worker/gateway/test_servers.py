"""Indexes that others wrote, besides those of ``test_installers``: devpi with a login, and directories behind TLS."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from config.settings import IndexSettings
from jobs.errors import ErrorKind
from tests.support.command import free_port
from tests.support.devpi import PASSWORD, USERNAME, devpi
from tests.support.index_server import Authority
from tests.support.servers import running
from tests.worker.gateway.conftest import MakeGateway, broken, download, page, tiny_wheel
from tests.worker.gateway.test_installers import pip

DEMO = "demo-1.0-py3-none-any.whl"
NEEDED = "needed-2.0-py3-none-any.whl"
FILES = {
    DEMO: tiny_wheel("demo", "1.0", requires=("needed>=1",), filler=os.urandom(200_000)),
    NEEDED: tiny_wheel("needed", "2.0"),
}


def test_devpi_with_a_login(make_gateway: MakeGateway, tmp_path: Path) -> None:
    with devpi(tmp_path, FILES) as server:
        right = IndexSettings.model_validate(
            {"name": "pypi[0]", "url": server.url, "username": USERNAME, "password": PASSWORD}
        )
        with make_gateway(right).session() as session:
            done = pip(session, tmp_path / "got", "demo")
            assert done.returncode == 0, done.stderr
            assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == FILES
            assert session.record().incidents == ()
        wrong = right.model_copy(update={"username": None, "password": None})
        # Its pages are for everybody, its files are not.
        with make_gateway(wrong, directory=tmp_path / "other").session() as session:
            assert page(session).status_code == 200
            assert broken(session, DEMO) == "refused"
            [incident] = session.record().incidents
        assert (incident.kind, incident.step, incident.status) == (ErrorKind.FORBIDDEN, "file", 403)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A simple repository as plain directories, whose listings the server makes."""
    for filename, content in FILES.items():
        place = tmp_path / "www" / "simple" / filename.split("-", maxsplit=1)[0]
        place.mkdir(parents=True)
        (place / filename).write_bytes(content)
    return tmp_path / "www"


PYTHON_SERVER = """
import http.server, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2])
handler = lambda *given: http.server.SimpleHTTPRequestHandler(*given, directory=sys.argv[1])
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[3])), handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""

CADDY = """
{{
  admin off
  auto_https off
  storage file_system {place}/caddy
}}
https://127.0.0.1:{port} {{
  tls {pem} {pem}
  root * {root}
  encode gzip
  file_server browse
}}
"""


@contextmanager
def serving(server: str, tree: Path, pem: Path, port: int) -> Iterator[None]:
    if server == "python":
        command = [sys.executable, "-c", PYTHON_SERVER, str(tree), str(pem), str(port)]
    else:
        config = pem.with_name("Caddyfile")
        config.write_text(CADDY.format(place=pem.parent, port=port, pem=pem, root=tree))
        caddy = str(Path(sys.executable).with_name("caddy"))
        command = [caddy, "run", "--adapter", "caddyfile", "--config", str(config)]
    with running(*command, url=f"https://127.0.0.1:{port}/"):
        yield


@pytest.mark.parametrize("server", ["python", "caddy"])
def test_a_static_index_behind_tls(server: str, tree: Path, make_gateway: MakeGateway, tmp_path: Path) -> None:
    authority = Authority()
    pem, bundle = authority.write_server(tmp_path / "server.pem"), authority.write(tmp_path / "ca.pem")
    port = free_port()
    settings = IndexSettings.model_validate({"name": "pypi[0]", "url": f"https://127.0.0.1:{port}/simple"})
    with serving(server, tree, pem, port):
        with make_gateway(settings, ca_bundle=bundle).session() as session:
            done = pip(session, tmp_path / "got", "demo")
            assert done.returncode == 0, done.stderr
            assert {path.name: path.read_bytes() for path in (tmp_path / "got").iterdir()} == FILES
            assert page(session, "absent").status_code == 404
            assert all(file.sha256 is None for file in session.record().files), "a listing promises no digest"
        with make_gateway(settings, directory=tmp_path / "other").session() as session:
            assert page(session).status_code == 502
            [incident] = session.record().incidents
        assert incident.kind is ErrorKind.TLS


def test_uv_and_ranges_over_a_page_without_metadata(tree: Path, make_gateway: MakeGateway, tmp_path: Path) -> None:
    """uv reads metadata by ranges where there is none to ask for; the gateway makes it from the wheel."""
    authority = Authority()
    pem, bundle = authority.write_server(tmp_path / "server.pem"), authority.write(tmp_path / "ca.pem")
    port = free_port()
    settings = IndexSettings.model_validate({"name": "pypi[0]", "url": f"https://127.0.0.1:{port}/simple"})
    with serving("python", tree, pem, port), make_gateway(settings, ca_bundle=bundle).session() as session:
        options = ["--no-config", "--no-cache", "--target", str(tmp_path / "site"), "--index-url", session.index_url]
        uv = Path(sys.executable).with_name("uv")
        done = subprocess.run(
            [str(uv), "pip", "install", "--python", sys.executable, *options, "demo"],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "site" / "needed" / "__init__.py").exists()
        assert download(session, DEMO, Range="bytes=0-1").content == b"PK"
