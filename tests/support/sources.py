"""Source distributions, and a build backend of ours that does with them what a test wants."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.wheels import build_wheel

BACKEND = "acme_build"

_BACKEND = '''
import json, os, pathlib, shutil, sys, time, tomllib


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    wish = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["tool"]["acme"]
    report = {"environment": dict(os.environ), "pid": os.getpid(), "arguments": arguments()}
    report["showing"] = [] if not wish["seeks"] else showing(wish["seeks"])
    pathlib.Path(wish["report"]).write_text(json.dumps(report))
    if wish["does"] == "fail":
        raise SystemExit("the compiler is missing")
    if wish["does"] == "hang":
        time.sleep(600)
    [wheel] = pathlib.Path("made").iterdir()
    shutil.copy(wheel, wheel_directory)
    return wheel.name


def arguments():
    """The command lines of all processes in this session, as everybody on the machine can read them."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == os.getsid(0):
                found.append((process / "cmdline").read_bytes().replace(b"\\0", b" ").decode())
        except OSError:
            continue
    return found


def showing(text):
    """The command lines of all processes whose environment shows a text to this one."""
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\\0", b" ").decode()
            if text.encode() in (process / "environ").read_bytes():
                found.append(line)
        except OSError:
            continue
    return found
'''


def build_backend(directory: Path) -> Path:
    """Build the wheel of the build backend, which is a build requirement like any other."""
    return build_wheel(directory, BACKEND, "1.0", files={f"{BACKEND}/__init__.py": _BACKEND.encode()})


def build_sdist(
    directory: Path,
    wheel: Path,
    *,
    report: Path,
    does: str = "build",
    requires: Sequence[str] = (f"{BACKEND}>=1",),
    seeks: str = "",
) -> Path:
    """Pack a source distribution from which the backend "builds" ``wheel``; it writes what it saw to ``report``.

    With ``does`` it fails, or hangs, instead. It looks for ``seeks`` in the environments of all processes.
    """
    name, version, *_ = wheel.name.split("-")
    wanted = ", ".join(f'"{each}"' for each in requires)
    project = (
        f'[build-system]\nrequires = [{wanted}]\nbuild-backend = "{BACKEND}"\n'
        f'[tool.acme]\ndoes = "{does}"\nreport = "{report}"\nseeks = "{seeks}"\n'
    )
    files = {
        "PKG-INFO": f"Metadata-Version: 2.2\nName: {name}\nVersion: {version}\n".encode(),
        "pyproject.toml": project.encode(),
        f"made/{wheel.name}": wheel.read_bytes(),
    }
    path = directory / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, content in files.items():
            info = tarfile.TarInfo(f"{name}-{version}/{member}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path
