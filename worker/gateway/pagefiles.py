"""Index pages on the disk, shared by all processes of one machine.

A page lies in ``pages/ab/abcdef…``, named by a digest of the index, the credentials it was asked with and the
project: a line of JSON about the answer, then its body as it was. The file's time is when the index last said that
this is the page.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO

import structlog
from pydantic import ValidationError

from config.settings import Model
from worker.gateway.locks import KeyLocks

_MAX_HEAD_BYTES = 64 * 1024
_MAX_SPOOLED_BYTES = 4 * 2**20
"""Of a page in memory; nearly all are smaller."""

_log = structlog.get_logger()


class Head(Model):
    """What is known of a kept answer besides its body."""

    url: str = ""
    """Where it came from, after redirects."""
    absent: bool = False
    """The index said that it does not have the project; there is no body."""
    content_type: str = ""
    etag: str | None = None
    last_modified: str | None = None
    max_age_seconds: float | None = None
    """How long the index lets it be used without asking again (RFC 9111); None when it does not say."""
    sha256: str = ""
    """Of the body."""

    @property
    def conditions(self) -> dict[str, str]:
        """Return the headers that ask whether this is still the page (RFC 9110, 13.1)."""
        found = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in found.items() if value is not None}


class PageFiles:
    """Reads and writes kept pages. A page that is damaged is not there; a disk that is full keeps nothing."""

    def __init__(
        self, directory: Path, locks: KeyLocks, new_part: Callable[[], Path], added: Callable[[Path, int], None]
    ) -> None:
        """``new_part`` names temporary files on the same disk; ``added`` learns of each file and its bytes."""
        self._directory = directory
        self._locks = locks
        self._new_part = new_part
        self._added = added

    @contextmanager
    def alone(self, key: str, patience_seconds: float) -> Iterator[None]:
        """Keep other processes from fetching the same page for the length of the block."""
        with self._locks.held(f"page {key}", patience_seconds):
            yield

    def head(self, key: str) -> tuple[Head, float] | None:
        """Return what is known of a page, and its age in seconds."""
        try:
            with self._path(key).open("rb") as file:
                age_seconds = time.time() - os.fstat(file.fileno()).st_mtime
                return Head.model_validate_json(file.readline(_MAX_HEAD_BYTES)), age_seconds
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            self._damaged(key)
            return None

    @contextmanager
    def body(self, key: str) -> Iterator[IO[bytes] | None]:
        """Open a page's body for the length of the block; None when the page is damaged or gone."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(self._path(key).open("rb"))
                head = Head.model_validate_json(file.readline(_MAX_HEAD_BYTES))
                start = file.tell()
                sound = hashlib.file_digest(file, "sha256").hexdigest() == head.sha256
                file.seek(start)
            except FileNotFoundError:
                sound, file = True, None
            except (OSError, ValidationError):
                sound = False
            if not sound:
                self._damaged(key)
            yield file if sound else None

    @contextmanager
    def spool(self) -> Iterator[IO[bytes]]:
        """Open a place for a body that is on its way: in memory while it is small, else on the disk."""
        with SpooledTemporaryFile(_MAX_SPOOLED_BYTES, dir=str(self._new_part().parent)) as body:
            yield body

    def keep(self, key: str, head: Head, body: IO[bytes]) -> None:
        """Keep a page in place of the one before."""
        part, path = self._new_part(), self._path(key)
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with part.open("wb") as file:
                file.write(head.model_dump_json(exclude_defaults=True).encode() + b"\n")
                body.seek(0)
                shutil.copyfileobj(body, file)
                size_bytes = file.tell()
            part.rename(path)
            self._added(path, size_bytes)
        except OSError as error:
            part.unlink(missing_ok=True)
            _log.warning("page_not_kept", reason=error.strerror)

    def still_right(self, key: str) -> None:
        """Note that the index just said so."""
        with contextlib.suppress(OSError):  # removed meanwhile: then it is fetched again
            os.utime(self._path(key))

    def forget(self, key: str) -> None:
        """Remove a page."""
        with contextlib.suppress(OSError):
            self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._directory / key[:2] / key

    def _damaged(self, key: str) -> None:
        _log.warning("cache_entry_corrupted", page=key)
        self.forget(key)
