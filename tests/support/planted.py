"""Planted secrets: tests give secrets that begin with a mark, and nothing that vizfetch leaves may hold the mark.

Searched are all files under the tests' temporary directories, what commands print, what tests print, what Redis
keeps, and the arguments and environments of the processes that are started. What a test itself writes for vizfetch to
read, such as a settings file, goes below a directory named ``given``, which is not searched.
"""

import mmap
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self, cast

from redis import Redis

from tests.support.command import MARK, children

GIVEN = "given"
_FOREIGN = re.compile(r"/seaweed\d*/log-\d+\.txt$")
"""The S3 server's own log, which names the access keys that it does not know."""
_LOOK_EVERY_SECONDS = 0.2


def input_file(directory: Path, name: str, text: str) -> Path:
    """Write a file for vizfetch to read, which may hold planted secrets."""
    path = directory / GIVEN / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def files_with_secrets(directory: Path) -> list[Path]:
    """Return the files below a directory that hold the mark."""
    files = (path for path in directory.rglob("*") if _is_file(path))
    return [path for path in files if GIVEN not in path.parts and not _FOREIGN.search(str(path)) and _holds(path)]


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size > 0


def _holds(path: Path) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(MARK.encode()) >= 0


def keys_with_secrets(redis: Redis) -> list[str]:
    """Return the keys of a Redis whose name or value holds the mark."""
    return [key for key in redis.scan_iter() if MARK in f"{key} {_value(redis, key)}"]


def _value(redis: Redis, key: str) -> object:
    match cast("str", redis.type(key)):
        case "string":
            return redis.get(key)
        case "hash":
            return redis.hgetall(key)
        case "list":
            return redis.lrange(key, 0, -1)
        case "set":
            return redis.smembers(key)
        case "zset":
            return redis.zrange(key, 0, -1)
        case other:
            return other


class ProcessWatch:
    """Looks at all processes that this one has started, again and again, for secrets that everybody could read.

    The ``vizfetch`` commands themselves are left out: they are given their secrets, and what they fork looks like them.
    """

    def __init__(self, mark: str = MARK) -> None:
        self.found: set[str] = set()
        self._mark = mark.encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="process-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_EVERY_SECONDS):
            self.found.update(_processes_with(self._mark))


def _is_command(arguments: list[bytes]) -> bool:
    """Tell whether a process is one of our commands, or setpriv that becomes one in a moment."""
    begin = arguments if arguments[0] == b"setpriv" else arguments[:2]
    return any(argument.endswith(b"/vizfetch") for argument in begin)


def _processes_with(mark: bytes) -> Iterator[str]:
    for pid in children(os.getpid()):
        process = Path(f"/proc/{pid}")
        try:
            environment = (process / "environ").read_bytes()
            arguments = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it ended, or belongs to another user
            continue
        if arguments == [b""]:  # it has ended meanwhile, or begins just now and is met again the next time
            continue
        if _is_command(arguments):
            continue
        for place, content in (("arguments", b"\0".join(arguments)), ("environment", environment)):
            if mark in content:
                yield f"the {place} of {b' '.join(arguments[:4]).decode(errors='replace')}"
