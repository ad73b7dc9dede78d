"""The audit record: who did what, from where, and how it ended; one JSON object for each line.

Written twice for each thing done, at its start and at its end, as the platform does. It holds no credentials: values
are masked as in logs, and of errors only their kind is told.
"""

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from config.logging import logger
from config.secrets import Masker, secret_values
from config.settings import Settings

STDOUT = "stdout"
_STDOUT_FD = 1
_STDERR_FD = 2
_MODE = 0o640


@dataclass(frozen=True)
class Actor:
    """Who does something."""

    name: str
    """The user of a command, the credential shown to the API, or the nickname of an agent."""
    address: str
    """Where from: a host, or the address of whoever called the API."""
    by: Literal["command", "api", "agent", "scheduler"]


def user() -> Actor:
    """Return whoever runs this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without an entry, as containers have them
        name = f"uid {os.getuid()}"
    return Actor(name, socket.gethostname(), "command")


def service(settings: Settings, by: Literal["agent", "scheduler"]) -> Actor:
    """Return the service with these settings."""
    return Actor(settings.nickname, socket.gethostname(), by)


@dataclass
class Audit:
    """Where records go. Never raises and never waits: work goes on without it, and the log says so once.

    A file is opened for each record, so that one that was moved away is made anew, and so that threads, children and
    other processes may write to the same: each record is one write at the end of the file.
    """

    place: Path | Literal["stdout"] | None = None
    """None: nothing is recorded."""
    agent: str = ""
    masker: Masker = field(default_factory=lambda: Masker(()))
    descriptor: int = _STDOUT_FD
    """What ``stdout`` is."""
    _failed: bool = False

    def record(self, actor: Actor, action: str, outcome: str, **what: object) -> None:
        """Write one record. ``outcome`` is ``started`` or how it ended."""
        if self.place is None:
            return
        told = {name: value for name, value in what.items() if value is not None}
        document = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "action": action,
            "outcome": outcome,
            "who": actor.name,
            "from": actor.address,
            "by": actor.by,
            "instance": self.agent,
        }
        line = json.dumps(self.masker.values(document | told)).encode() + b"\n"
        try:
            self._write(line if not self._failed else b"\n" + line)
        except OSError as error:
            if not self._failed:
                logger().error("audit_unwritten", place=str(self.place), reason=error.strerror)
            self._failed = True
        else:
            self._failed = False

    @contextmanager
    def recorded(self, actor: Actor, action: str, **what: object) -> Iterator[dict[str, object]]:
        """Record the start of the block and its end: ``succeeded``, or ``failed`` with the kind of the error.

        What is put into the dictionary is told at the end as well.
        """
        self.record(actor, action, "started", **what)
        try:
            yield what
        except BaseException as error:
            self.record(actor, action, "failed", reason=type(error).__name__, **what)
            raise
        self.record(actor, action, "succeeded", **what)

    def _write(self, line: bytes) -> None:
        if not isinstance(self.place, Path):
            _whole(self.descriptor, line)
            return
        # Not to wait for a reader, should it be a pipe.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        descriptor = os.open(self.place, flags, _MODE)
        try:
            _whole(descriptor, line)
        finally:
            os.close(descriptor)


def audit_of(settings: Settings, *, command: bool = False) -> Audit:
    """Return where ``settings`` want records; a ``command`` has its result on standard output, and says it beside."""
    descriptor = _STDERR_FD if command else _STDOUT_FD
    return Audit(settings.audit, settings.nickname, Masker(secret_values(settings)), descriptor)


def _whole(descriptor: int, line: bytes) -> None:
    if os.write(descriptor, line) != len(line):
        raise OSError(0, "only a part could be written: the disk is full")
