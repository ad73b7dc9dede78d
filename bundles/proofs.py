"""Which archives were read to their end and found sound, and what they say, for all processes that share a folder.

Reading them is the longest part of checking a bundle, most wheels are in many bundles, and an agent's processes meet
the same ones at the same moment. What is remembered is bound to the content by its sha256, and to this very code that
checked it. Only good news are kept; losing them costs nothing but work. The folder must be writable by the agent's user
alone.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from io import FileIO
from pathlib import Path

import installer
import packaging

_CHECKERS = ("archive.py", "check.py", "members.py", "placement.py")
"""The sources that say what is sound."""
_PATIENCE_SECONDS = 30.0
"""Who proves something for longer may be frozen: then it is proved beside him."""
_LOOK_EVERY_SECONDS = 0.02
_LIMIT = 20_000
_OTHER_CODE_SECONDS = 30 * 24 * 3600
"""How long what other code proved is kept after its last: an older or newer agent may share the folder."""


class Proof:
    """What is known of one content; None as its file stands for a folder that cannot be used."""

    def __init__(self, file: FileIO | None) -> None:
        self._file = file
        self.known = b"" if file is None else file.read()
        """What was noted, whole or, after a crash, not; nothing where nothing is known."""

    def note(self, known: bytes) -> None:
        """Remember something that shows whether it is whole."""
        self.known = known
        if self._file is not None:
            with suppress(OSError):  # a full disk: it is proved again another time
                self._file.seek(0)
                self._file.write(known)
                self._file.truncate()


class Proofs:
    """The memory in a folder; None remembers nothing."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = None if directory is None else directory / _code()
        if self._directory is not None:
            with suppress(OSError):  # told by whoever else needs the disk; here it is work, no more
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                with suppress(OSError):
                    os.utime(self._directory)
                _prune(self._directory)
                _forget_other_code(self._directory)

    @contextmanager
    def of(self, sha256: str) -> Iterator[Proof]:
        """Yield what is known of a content; others who want to prove it wait until the block is left, for a while."""
        file = self._open(sha256)
        if file is None:
            yield Proof(None)
            return
        with file:
            _lock(file.fileno())
            yield Proof(file)

    def _open(self, sha256: str) -> FileIO | None:
        if self._directory is None:
            return None
        with suppress(OSError):
            # Other code may have taken it for one that nobody uses any more.
            self._directory.mkdir(mode=0o700, exist_ok=True)
            # Neither truncated nor at its end: somebody else may be writing it.
            descriptor = os.open(self._directory / sha256, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            return FileIO(descriptor, "r+")
        return None


def _lock(descriptor: int) -> None:
    """Take the lock, which ends with the process; give up on one that is held for too long."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOOK_EVERY_SECONDS)
        else:
            return


@lru_cache(maxsize=1)
def _code() -> str:
    """Return a name for what checks: its sources, the libraries that read for it, and the interpreter."""
    sources = [Path(__file__).with_name(name).read_bytes() for name in _CHECKERS]
    versions = f"{packaging.__version__} {installer.__version__} {sys.version}"
    return hashlib.sha256(b"".join(sources) + versions.encode()).hexdigest()[:16]


def _prune(directory: Path) -> None:
    """Forget the older half when there are too many."""
    found = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(directory)]
    if len(found) > _LIMIT:
        for _, path in sorted(found)[: len(found) // 2]:
            Path(path).unlink(missing_ok=True)


def _forget_other_code(directory: Path) -> None:
    """Remove what versions have left that nobody runs any more."""
    for other in directory.parent.iterdir():
        if other != directory and time.time() - other.stat().st_mtime > _OTHER_CODE_SECONDS:
            shutil.rmtree(other, ignore_errors=True)
