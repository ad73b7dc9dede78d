"""Directories of processes that may be killed: each is locked while its process lives, and swept when that is gone."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

TASK = "vizfetch-task-"
CONTRACT = "vizfetch-contract-"
"""What ``worker.contract`` makes while it looks at the machine."""
_LOCK = "lock"
_MADE_WITHIN_SECONDS = 60

_log = structlog.get_logger()


@contextmanager
def locked_directory(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a directory with the lock that ``sweep`` looks at, and remove it; in a forked process, only lock it."""
    owner = os.getpid()
    root = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        with (root / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield root
    finally:
        if os.getpid() == owner:
            shutil.rmtree(root, ignore_errors=True)


def sweep(parent: Path, prefixes: Sequence[str] = (TASK, CONTRACT)) -> list[Path]:
    """Remove and return the directories of ours under ``parent`` whose process is gone. Harmless to repeat.

    Those of another user are left alone, and so are those in use. Several workers may sweep at once.
    """
    removed = []
    for root in (root for prefix in prefixes for root in parent.glob(f"{prefix}*")):
        if _is_own(root) and _abandoned(root):
            shutil.rmtree(root, ignore_errors=True)
            removed.append(root)
    return removed


def sweep_tasks(parent: Path) -> None:
    """Remove what tasks left under ``parent`` that were killed, and log each. Harmless to repeat."""
    for left in sweep(parent):
        _log.info("task_directory_swept", directory=str(left))


def _is_own(root: Path) -> bool:
    try:
        return root.stat(follow_symlinks=False).st_uid == os.getuid() and not root.is_symlink()
    except FileNotFoundError:  # another worker was faster
        return False


def _abandoned(root: Path) -> bool:
    try:
        with (root / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        # Either its maker died before the lock was there, or it is being made just now.
        return _age_seconds(root) > _MADE_WITHIN_SECONDS
    except BlockingIOError:
        return False
    return True


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0
