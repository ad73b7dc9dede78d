"""One file on its way from an index to the disk, read by many while it grows."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import ErrorKind
from worker.gateway.addresses import shown
from worker.gateway.errors import UpstreamError, unexpected
from worker.gateway.upstream import Answer, Upstream, gone

READ_BYTES = 256 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}
_PARTIAL = 206
_NO_SUCH_RANGE = 416


class Download:
    """Fetches into ``path``; readers get what has arrived, the last byte only when the whole is verified.

    Resumes after a broken body where the index can, else starts over and skips what is there. Holders are
    counted, whoever makes it being the first: the descriptor is closed when nobody holds it any more.
    """

    def __init__(
        self,
        upstream: Upstream,
        url: str,
        expected_sha256: str | None,
        promised_size: int | None,
        path: Path,
        *,
        max_bytes: int,
        asked_for: bool = True,
        packed: bool = False,
        other_digest: tuple[str, str] | None = None,
    ) -> None:
        """``max_bytes`` is what is taken in at most, whatever the index says or does not say of the size.

        One that nobody has ``asked_for`` yet is given up once it fails or is larger than its page promises.
        ``packed`` is a file that is compressed by itself, and stays so whatever the index says of its encoding.
        ``other_digest`` is what it must have by another algorithm than sha256.
        """
        self.path = path
        self._max_bytes = max_bytes
        self._promised_size = promised_size
        self._asked_for = asked_for
        self._given_up = False
        self.expected_sha256 = expected_sha256
        self._packed = packed
        self._validator: str | None = None
        self._upstream = upstream
        self._url = url
        self._changed = threading.Condition()
        self._received = 0
        self._total = promised_size
        self._told: int | None = None
        """The size that readers go by."""
        self._answered = False
        self._verified = False
        self.sha256 = ""
        """Once all has arrived."""
        self._error: UpstreamError | None = None
        self._hash = hashlib.sha256()
        self._other_digest = other_digest
        # Not for security where the algorithm is weak: it is what the index has.
        self._other_hash = other_digest and hashlib.new(other_digest[0], usedforsecurity=False)
        self._holders = 1
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def hold(self, *, asked_for: bool = True) -> bool:
        """Keep the bytes readable until ``release``; false for one that was given up before anybody asked for it."""
        with self._changed:
            if self._given_up:
                return False
            self._asked_for = self._asked_for or asked_for
            self._holders += 1
            return True

    def release(self) -> None:
        """End one hold."""
        with self._changed:
            self._holders -= 1
            if self._holders == 0:
                os.close(self.descriptor)

    def size_bytes(self) -> int:
        """Wait until the index delivers, and return the file's size. Raises UpstreamError.

        When the index does not tell the size, that is when all has arrived.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or self._verified or (self._answered and self._total is not None)
            )
            self._raise_error()
            self._told = self._received if self._total is None else self._total
            return self._told

    def wait_beyond(self, start: int) -> int:
        """Wait for bytes after ``start``, and return how far one may read. Raises UpstreamError, also at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._verified or self._readable() > start)
            if self._readable() <= start:
                self._raise_error()
                raise self._error_of(ErrorKind.TRUNCATED, f"ended after {self._received} bytes")
            return self._readable()

    def wait_for_all(self) -> int:
        """Wait until all has arrived and is verified, and return how much that is. Raises UpstreamError."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._verified)
            self._raise_error()
            return self._received

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes that have arrived."""
        while start < stop and (data := os.pread(self.descriptor, min(READ_BYTES, stop - start), start)):
            yield data
            start += len(data)

    def run(self, keep: Callable[[str], None]) -> None:
        """Download everything, verify it and call ``keep`` with its sha256, before readers get the last byte.

        Called within ``failing``.
        """
        self._upstream.retrying(self._attempt, self._goes_on)
        sha256 = self._verify()
        keep(sha256)
        self._complete(sha256)

    def _goes_on(self) -> bool:
        with self._changed:
            self._given_up = not self._asked_for
            return self._asked_for

    def adopt(self, descriptor: int, size_bytes: int, sha256: str) -> None:
        """Be the complete, verified file behind ``descriptor`` instead. Nothing may have been downloaded yet."""
        os.dup2(descriptor, self.descriptor, inheritable=False)
        self.path.unlink(missing_ok=True)
        self._received = self._total = size_bytes
        self._complete(sha256)

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Have all errors of the block go to the readers. Leaves no file behind when there is one."""
        try:
            yield
        except UpstreamError as error:
            self._fail(error)
        except OSError as error:
            self._fail(disk_error(error, self._url))
        except BaseException as error:  # noqa: BLE001 - readers must learn of everything, or wait for ever
            self._fail(unexpected(error, self._url))

    @property
    def patience_seconds(self) -> float:
        """How long another process may take over the same file before this one goes ahead."""
        return self._upstream.patience_seconds

    def _complete(self, sha256: str) -> None:
        with self._changed:
            self.sha256 = sha256
            self._answered = True
            self._verified = True
            self._changed.notify_all()

    def _readable(self) -> int:
        """How far readers may go: one byte less than everything until the whole is verified."""
        if self._verified:
            return self._received
        end = self._received if self._total is None else min(self._received, self._total)
        return max(0, end - 1) if self._total is None or end == self._total else end

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _fail(self, error: UpstreamError) -> None:
        try:
            self.path.unlink(missing_ok=True)
        finally:  # whatever happens: readers wait for it
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _attempt(self) -> None:
        """Ask for what is missing, and take in what comes."""
        # Identity: ranges and lengths then count the file's own bytes.
        headers = {"Accept-Encoding": "identity"}
        # Without a promised hash nothing else would tell that what comes now belongs to another file.
        if self._received and (self.expected_sha256 or self._other_digest or self._validator):
            headers["Range"] = f"bytes={self._received}-"
            headers |= {"If-Range": self._validator} if self._validator else {}
        answer = self._open(headers)
        try:
            self._take(answer)
        finally:
            answer.close()

    def _open(self, headers: Mapping[str, str]) -> Answer:
        """Ask, and once more where nothing was asked as nobody had asked for it, and now somebody has."""
        quietly = not self._asked_for
        try:
            return self._upstream.open(self._url, headers, quiet=lambda: not self._asked_for)
        except UpstreamError as error:
            if error.asked or not quietly or not self._goes_on():
                raise
            return self._upstream.open(self._url, headers)

    def _take(self, answer: Answer) -> None:
        if gone(answer):
            raise self._error_of(
                ErrorKind.SERVER_ERROR,
                f"answered {answer.status} for a file that its own page lists",
                status=answer.status,
                worth_retrying=False,
            )
        if self._packed:
            answer.leave_encoded()
        position = self._received if self._resumes(answer) else 0
        if not position:
            self._validator = _strong(answer.headers.get("ETag"))
        self._announce(None if position else answer.size_bytes)
        for chunk in answer.chunks():
            fresh = self._skip(chunk, position)
            position += len(chunk)
            self._append(fresh)
        if self._total is not None and self._received < self._total:
            raise self._error_of(ErrorKind.TRUNCATED, f"sent {self._received} of {self._total} bytes")
        if position < self._received:
            raise self._less()

    def _resumes(self, answer: Answer) -> bool:
        """Tell whether the answer goes on where the last one broke off (RFC 9110, 14.4)."""
        if answer.status == _NO_SUCH_RANGE:
            raise self._less()
        if answer.status != _PARTIAL:
            return False
        if answer.headers.get("Content-Range", "").replace(" ", "").startswith(f"bytes{self._received}-"):
            return True
        raise self._error_of(ErrorKind.TRUNCATED, "sent another part of the file than the one asked for")

    def _announce(self, announced: int | None) -> None:
        """Let readers begin: the index delivers. What it says of the size now counts more than its page.

        Not any more once somebody was told a size, who would wait for what does not come, or miss the rest.
        """
        if announced is not None:
            self._check_bound(announced)
        with self._changed:
            if announced is not None and not self._received:
                if self._told not in {None, announced}:
                    reason = f"announced {announced} bytes after {self._told} the time before"
                    raise self._error_of(ErrorKind.TRUNCATED, reason)
                self._total = announced
            self._answered = True
            self._changed.notify_all()

    def _skip(self, chunk: bytes, position: int) -> bytes:
        """Return what is new in a chunk that starts at ``position``; what readers already have must be the same."""
        known = min(max(0, self._received - position), len(chunk))
        if known and os.pread(self.descriptor, known, position) != chunk[:known]:
            raise self._error_of(ErrorKind.TRUNCATED, "sent other bytes than before", worth_retrying=False)
        return chunk[known:]

    def _append(self, data: bytes) -> None:
        if not data:
            return
        if self._total is not None and self._received + len(data) > self._total:
            raise self._error_of(ErrorKind.HASH_MISMATCH, f"sent more than the {self._total} bytes it promised")
        self._check_bound(self._received + len(data))
        written = 0
        while written < len(data):
            written += os.pwrite(self.descriptor, data[written:], self._received + written)
        self._hash.update(data)
        if self._other_hash:
            self._other_hash.update(data)
        with self._changed:
            self._received += len(data)
            self._changed.notify_all()

    def _check_bound(self, size_bytes: int) -> None:
        if size_bytes > self._max_bytes:
            reason = f"sends more than the {self._max_bytes} bytes that such a file may have"
            raise self._error_of(ErrorKind.SERVER_ERROR, reason, worth_retrying=False)
        if not self._asked_for and size_bytes > (self._promised_size or 0):
            raise self._error_of(ErrorKind.TRUNCATED, f"sends more than the {self._promised_size} bytes of its page")

    def _verify(self) -> str:
        actual = self._hash.hexdigest()
        if self.expected_sha256 not in {None, actual}:
            raise self._error_of(
                ErrorKind.HASH_MISMATCH,
                f"sent a file with sha256 {actual}, but its page promises {self.expected_sha256}",
            )
        if self._other_digest and self._other_hash:
            name, promised = self._other_digest
            if self._other_hash.hexdigest() != promised:
                found = self._other_hash.hexdigest()
                raise self._error_of(
                    ErrorKind.HASH_MISMATCH, f"sent a file with {name} {found}, but its page promises {promised}"
                )
        return actual

    def _less(self) -> UpstreamError:
        return self._error_of(ErrorKind.TRUNCATED, "sent less than before", worth_retrying=False)

    def _error_of(
        self, kind: ErrorKind, reason: str, *, status: int | None = None, worth_retrying: bool | None = None
    ) -> UpstreamError:
        return UpstreamError(kind, reason, url=shown(self._url), status=status, worth_retrying=worth_retrying)


def _strong(etag: str | None) -> str | None:
    """Return a validator that promises the same bytes (RFC 9110, 8.8.1), or None for any other."""
    return etag if etag is not None and etag.startswith('"') else None


def disk_error(error: OSError, url: str) -> UpstreamError:
    """Say that the cache could not take a file in."""
    kind = ErrorKind.DISK_FULL if error.errno in _FULL else ErrorKind.INTERNAL
    return UpstreamError(kind, f"could not be kept in the cache: {error.strerror or error}", url=shown(url))
