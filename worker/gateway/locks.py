"""One lock for each key, among all threads and processes that share a directory."""

import fcntl
import hashlib
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FIRST_LOOK_SECONDS = 0.01
_LAST_LOOK_SECONDS = 0.2


class KeyLocks:
    """Locks on single bytes of one file, a byte for each key (fcntl(2), open file description locks).

    Nothing has to be cleaned up: a lock ends with the descriptor that holds it, so also when its process is killed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def held(self, key: str, patience_seconds: float) -> Iterator[bool]:
        """Wait for the lock and hold it for the length of the block.

        Yields False when somebody else held it for all of ``patience_seconds``: the block then runs without it.
        Raises OSError when the file cannot be opened.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield _wait(descriptor, _offset(key), time.monotonic() + patience_seconds)
        finally:
            os.close(descriptor)


def _offset(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")


def _wait(descriptor: int, offset: int, deadline: float) -> bool:
    pause = _FIRST_LOOK_SECONDS
    while not _try(descriptor, offset):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, _LAST_LOOK_SECONDS)
    return True


def _try(descriptor: int, offset: int) -> bool:
    # struct flock: l_type, l_whence, l_start, l_len, l_pid, which must be 0 for this sort of lock.
    wanted = struct.pack("hhqqixxxx", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, wanted)
    except BlockingIOError:
        return False
    return True
