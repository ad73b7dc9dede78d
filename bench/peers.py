"""What people would use instead, on the same list: two packages at a time, as the agent does today."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

AT_ONCE = 2
_PYTHON = Path(sys.executable).resolve()
"""Of the system, as a user has it; not the development environment's."""
_PIP = sys.executable
"""For strong: it has a pip that is compiled, and that nobody has to install."""
_CACHING = ("--trusted-host", "127.0.0.1")
"""pip keeps nothing in its cache that came without TLS, unless it is told to trust the host."""
_TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
"""Whom the machine's user trusts besides the system's authorities."""
_UV = Path(sys.executable).with_name("uv")


@dataclass(frozen=True)
class Peer:
    """A way to fetch a package into a folder."""

    name: str
    told: str
    """What it runs, for people."""
    commands: Callable[[str, str, Path], Sequence[Sequence[str | Path]]]
    """By index, requirement and folder."""


def _plain(index: str, requirement: str, folder: Path) -> Sequence[Sequence[str | Path]]:
    get = ("download", "--quiet", *_CACHING, "--index-url", index)
    return [
        [_PYTHON, "-m", "venv", folder / "venv"],
        [folder / "venv/bin/pip", *get, "--dest", folder / "wheels", requirement],
    ]


def _strong(index: str, requirement: str, folder: Path) -> Sequence[Sequence[str | Path]]:
    (folder / "in.txt").write_text(requirement + "\n")
    lock = folder / "lock.txt"
    target = ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_35")
    lock_it = ("pip", "compile", "--quiet", "--generate-hashes", *target, "--default-index", index)
    get = ("-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", *_CACHING, "--index-url", index)
    return [
        [_UV, "venv", "--quiet", "--python", _PYTHON, folder / "venv"],
        [_UV, *lock_it, "--python", folder / "venv/bin/python", folder / "in.txt", "--output-file", lock],
        [_PIP, *get, "--requirement", lock, "--dest", folder / "wheels"],
    ]


PLAIN = Peer("plain", "python3 -m venv; pip download REQ", _plain)
STRONG = Peer("strong", "uv venv; uv pip compile --generate-hashes; pip download --no-deps --require-hashes", _strong)


def fetch_all(peer: Peer, index: str, requirements: Sequence[str], place: Path, home: Path) -> list[int]:
    """Fetch all into folders below ``place``; caches of pip and uv are under ``home``.

    Returns how many files each got; 0 where the tool failed, which it may: pip takes yanked releases that uv refuses.
    """
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1"}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_PYTHON_DOWNLOADS": "never"}
    environment |= {name: os.environ[name] for name in _TRUST if name in os.environ}

    def one(requirement: str) -> int:
        folder = place / requirement.replace("==", "-")
        folder.mkdir(parents=True)
        for command in peer.commands(index, requirement, folder):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                print(f"{peer.name} cannot fetch {requirement}: {done.stderr.strip()[-300:]}")
                return 0
        return sum(1 for _ in (folder / "wheels").iterdir())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, requirements))
