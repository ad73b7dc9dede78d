"""The same source gives the same bundle, also tomorrow: what is built here can be compared, and is stored once."""

import io
import json
import tarfile
import time
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from tests.support.command import Deployment
from tests.support.index_server import IndexServer

PROJECT = b"""
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "acme-source"
version = "1.5"
"""
PKG_INFO = b"Metadata-Version: 2.2\nName: acme-source\nVersion: 1.5\n"


def installed(name: str, directory: Path) -> Path:
    """Pack an installed distribution into a wheel again."""
    found = distribution(name)
    path = directory / f"{name}-{found.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in found.files or ():
            if "__pycache__" not in file.parts and file.parts[0] != "..":
                archive.write(str(file.locate()), str(file))
    return path


def source() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in (
            ("PKG-INFO", PKG_INFO),
            ("pyproject.toml", PROJECT),
            ("acme_source/__init__.py", b"x = 1\n"),
        ):
            member = tarfile.TarInfo(f"acme_source-1.5/{name}")
            member.size, member.mtime = len(content), int(time.time())
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def built(machine: Deployment, out: Path) -> dict[str, Any]:
    own = {"SDISTS": "acme-source", "REQUIRESPECS": "false", "RETRY_MAXATTEMPTS": "1"}
    settings = {f"MODERNE_AGENT_VISUALIZATION_{name}": value for name, value in own.items()}
    run = Deployment({**machine.variables, **settings}, machine.directory)
    [job] = run.run("fetch", "acme-source", "--out", str(out), "--json").document["jobs"]
    assert job["state"] == "published", job["error"]
    [document] = out.rglob("bundle.json")
    described: dict[str, Any] = json.loads(document.read_text())
    return described


def test_two_builds_are_one(index: IndexServer, machine: Deployment, tmp_path: Path) -> None:
    backend = installed("setuptools", tmp_path)
    index.add(backend.name, backend)
    bundles = []
    for number in range(2):
        # Packed anew, at another time; the archive's own times must not count either.
        index.add("acme_source-1.5.tar.gz", source(), sha256=None)
        bundles.append(built(machine, tmp_path / f"out{number}"))
    first, second = bundles
    [wheel] = first["wheels"]
    assert wheel["built"]
    assert first["wheels"] == second["wheels"]
    assert first["id"] == second["id"]
