"""Where fetches run: the machine's fitness for them, and a directory with a venv for each task."""

import fcntl
import os
import shutil
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings
from worker.contract import examine
from worker.errors import UnfitEnvironment
from worker.pip import PinnedPip

_TASK, _WORKER = "vizfetch-task-", "vizfetch-worker-"
_SWEPT = (_TASK, _WORKER, "vizfetch-contract-")
"""Also what a worker leaves that was killed while it looked at the machine (``worker.contract``)."""
_LOCK = "lock"
_MADE_WITHIN_SECONDS = 60

# pip must not outlive the worker that started it, not even when that is killed with -9. The interpreter asks the kernel
# itself (PR_SET_PDEATHSIG, prctl(2)), since a preexec_fn is not safe beside the worker's threads. A worker that died
# before the question was asked is noticed by its number. What pip starts to build a package ends with pip, and what
# that starts in turn with the process group.
_GUARD = """\
import ctypes, os, signal
pip = os.environ.setdefault("VIZFETCH_PIP", str(os.getpid()))
if pip == str(os.getpid()):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() != {parent}:
        os._exit(1)
elif pip == str(os.getppid()):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
"""


@dataclass(frozen=True)
class TaskDirectory:
    """Everything one attempt keeps on the disk; gone when the attempt ends."""

    root: Path

    @property
    def python(self) -> Path:
        """The interpreter of the task's venv."""
        return self.root / "venv" / "bin" / "python"

    @property
    def requirements(self) -> Path:
        """What pip is asked for, and where."""
        return self.root / "requirements.txt"

    @property
    def wheels(self) -> Path:
        """Where pip leaves the wheels."""
        return self.root / "wheels"

    @property
    def scratch(self) -> Path:
        """Home and temporary directory of pip."""
        return self.root / "scratch"

    @property
    def log(self) -> Path:
        """What pip printed."""
        return self.root / "pip.log"


@contextmanager
def task_directory(parent: Path, pip: PinnedPip) -> Iterator[TaskDirectory]:
    """Make a directory under ``parent`` with a venv that has ``pip``, and remove it whatever happens.

    It is readable by this user alone, and locked while its process lives, so that ``sweep`` can tell a task's directory
    from what a killed worker left behind.
    """
    with _locked_directory(parent, _TASK) as root:
        task = TaskDirectory(root)
        task.wheels.mkdir()
        task.scratch.mkdir()
        _make_venv(root / "venv", pip)
        yield task


@contextmanager
def own_temporary_files(parent: Path) -> Iterator[Path]:
    """Have this process and those that it forks make their own temporary files in a directory under ``parent``.

    Celery's pool makes some by Python's default, which a worker that is killed would leave behind for ever: this
    directory is locked and swept like that of a task.
    """
    before = tempfile.tempdir
    with _locked_directory(parent, _WORKER) as root:
        tempfile.tempdir = str(root)
        try:
            yield root
        finally:
            tempfile.tempdir = before


@contextmanager
def _locked_directory(parent: Path, prefix: str) -> Iterator[Path]:
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


def _make_venv(place: Path, pip: PinnedPip) -> None:
    venv.EnvBuilder(symlinks=True, with_pip=False).create(place)
    packages = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "vizfetch_guard.py").write_text(_GUARD.format(parent=os.getpid()))
    # https://docs.python.org/3/library/site.html: each line a directory to import from, or a line to run.
    (packages / "vizfetch.pth").write_text(f"{pip.directory}\nimport vizfetch_guard\n")


def sweep(parent: Path) -> list[Path]:
    """Remove and return the directories of ours under ``parent`` whose process is gone. Harmless to repeat.

    Those of another user are left alone, and so are those in use. Several workers may sweep at once.
    """
    removed = []
    for root in (root for prefix in _SWEPT for root in parent.glob(f"{prefix}*")):
        if _is_own(root) and _abandoned(root):
            shutil.rmtree(root, ignore_errors=True)
            removed.append(root)
    return removed


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


def check_environment(settings: Settings) -> None:
    """Raise ``UnfitEnvironment`` with every reason for which fetches cannot run on this machine."""
    problems = tuple(finding for finding in examine(settings) if not finding.holds)
    if problems:
        raise UnfitEnvironment(problems)
