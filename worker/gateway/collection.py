"""The files that a task chose, brought into its directory several at once, as links to those of the cache.

A client that is told which files it wants need not carry their bytes over HTTP, write and hash them: they are in the
cache, or on their way into it, verified against what the index promised.
"""

import os
import secrets
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from config.settings import Model
from worker.gateway.descriptors import open_again
from worker.gateway.record import Entry, Incident

if TYPE_CHECKING:
    from worker.gateway.tasks import Task

WAIT_SECONDS = 0.25
"""How long an answer waits for the end: a caller has other things to look after."""
FILES_AT_ONCE = 4
"""Of one task, for which indexes are asked at the same time."""


class Refused(Exception):
    """A task's request failed because of an index; the incident is in its record."""

    def __init__(self, incident: Incident) -> None:
        super().__init__(incident.message)
        self.incident = incident


class Choice(Model):
    """A file by the page that lists it."""

    project: str
    """Normalised (PEP 503)."""
    filename: str


class CollectionRequest(Model):
    """What is wanted, and where."""

    directory: Path
    """Of the task; the gateway runs on the same machine, as the same user."""
    files: tuple[Choice, ...]


class Collected(Entry):
    """How far it is."""

    done: bool
    """Also when an index did not deliver, which the task's record then tells."""
    problem: str | None = None
    """What went wrong on this machine."""
    errno: int | None = None
    """Of the problem, if the system told it."""


class Collection:
    """Begins with its making. Whatever fails, nothing further is begun, and what is on its way is not waited for."""

    def __init__(self, task: "Task", files: Sequence[Choice], directory: Path) -> None:
        self._task = task
        self._directory = directory
        self._stopped = threading.Event()
        self._problem: Exception | None = None
        pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="collect")
        self._running = [pool.submit(self._bring, file) for file in files]
        pool.shutdown(wait=False)

    def state(self, wait_seconds: float = 0) -> Collected:
        """Tell how far it is; wait for the end for so long."""
        done = not wait(self._running, wait_seconds).not_done or self._stopped.is_set()
        if self._problem is None:
            return Collected(done=done)
        told = f"{type(self._problem).__name__}: {self._problem}"
        return Collected(done=done, problem=told, errno=getattr(self._problem, "errno", None))

    def stop(self) -> None:
        """Begin nothing further. What is on its way into the cache arrives there."""
        self._stopped.set()

    def _bring(self, choice: Choice) -> None:
        if self._stopped.is_set():
            return
        try:
            with self._task.bound():
                self._task.bring(choice.project, choice.filename, self._directory, self._stopped)
        except Refused:  # the task's record tells why
            self.stop()
        except Exception as error:  # noqa: BLE001 - the client learns of all of them
            self._problem = error
            self.stop()


def place(descriptor: int, path: Path) -> None:
    """Give an open file a further name, or make a copy where the file system does not allow that. Raises OSError.

    A copy gets its name when it is whole, and is dated as the file is: so it, too, counts as one that nobody writes to.
    """
    with suppress(OSError):  # another file system, no links there, too many of them, or evicted meanwhile
        link(descriptor, path)
        return
    unfinished = path.with_name(f".{secrets.token_hex(8)}")
    with open_again(descriptor).open("rb") as source, unfinished.open("xb") as copy:
        shutil.copyfileobj(source, copy)
    written = os.fstat(descriptor)
    with suppress(OSError):  # where all files belong to a stand-in
        os.utime(unfinished, ns=(written.st_atime_ns, written.st_mtime_ns))
    unfinished.rename(path)


def link(descriptor: int, path: Path) -> None:
    """Give an open file a further name. Raises OSError where the file system does not allow that.

    The very file that is open, whatever its old name stands for now: linkat(2) with AT_SYMLINK_FOLLOW, which Python
    uses only when it is given a directory. With an absolute path that one is of no account.
    """
    os.link(open_again(descriptor), path, src_dir_fd=descriptor, follow_symlinks=True)
