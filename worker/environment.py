"""Where fetches run: the machine's fitness for them, and a directory with a venv for each task."""

import os
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings
from worker.contract import examine
from worker.directories import TASK, locked_directory
from worker.errors import UnfitEnvironment
from worker.pip import PinnedPip

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
    def report(self) -> Path:
        """What pip chose."""
        return self.root / "report.json"

    @property
    def ahead(self) -> Path:
        """Where wheels are brought that pip may choose, so that they are checked meanwhile."""
        return self.root / "ahead"

    @property
    def wheels(self) -> Path:
        """Where the wheels are brought."""
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
    with locked_directory(parent, TASK) as root:
        task = TaskDirectory(root)
        task.ahead.mkdir()
        task.wheels.mkdir()
        task.scratch.mkdir()
        _make_venv(root / "venv", pip)
        yield task


def _make_venv(place: Path, pip: PinnedPip) -> None:
    venv.EnvBuilder(symlinks=True, with_pip=False).create(place)
    packages = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "vizfetch_guard.py").write_text(_GUARD.format(parent=os.getpid()))
    # https://docs.python.org/3/library/site.html: each line a directory to import from, or a line to run.
    (packages / "vizfetch.pth").write_text(f"{pip.directory}\nimport vizfetch_guard\n")


def check_environment(settings: Settings) -> None:
    """Raise ``UnfitEnvironment`` with every reason for which fetches cannot run on this machine."""
    problems = tuple(finding for finding in examine(settings) if not finding.holds)
    if problems:
        raise UnfitEnvironment(problems)
