"""Files by content, shared by all tasks of one agent: fetched once, verified, kept until room is needed.

Layout of the directory::

    files/ab/abcdef…        a file, named by its sha256; read last at its access time, written once
    pages/ab/abcdef…        a page, see ``worker.gateway.pagefiles``
    links/…                 what was found at an address whose index promises no sha256; JSON
    locks                   what keeps two processes from fetching the same, see ``worker.gateway.locks``
    part/<random>/          temporary files of one process, which holds a lock on ``part/<random>/lock``
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextvars import copy_context
from dataclasses import dataclass
from pathlib import Path

import structlog

from jobs.errors import ErrorKind
from worker.gateway import inside
from worker.gateway.addresses import shown
from worker.gateway.descriptors import open_again
from worker.gateway.download import READ_BYTES, Download, disk_error
from worker.gateway.errors import UpstreamError
from worker.gateway.locks import KeyLocks
from worker.gateway.pagefiles import PageFiles
from worker.gateway.upstream import Upstream

_ROOM_LEFT = 0.9
"""How full the cache is after an eviction, so that the next file does not cause another."""

_RECOUNT = 0.05
"""How much of its size the cache may grow by before the files of other processes are counted again."""
MAX_FILE_BYTES = 8 * 2**30
"""Three times the largest wheels in use; a larger cache takes larger files."""
_MAX_METADATA_BYTES = 16 * 2**20
_KEPT_METADATA = 500
_KEPT_METADATA_BYTES = 32 * 2**20
"""Real ones have some kilobytes each; an index may send any."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SETTLED_NS = 10_000_000_000
"""Clocks of file systems stand still for two seconds at most (FAT)."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Wanted:
    """A file of an index, as its page describes it."""

    url: str
    sha256: str | None
    size_bytes: int | None
    filename: str | None = None
    """The name of a wheel or a source distribution, which must hold what it says; None for anything else."""
    other_digest: tuple[str, str] | None = None
    """Algorithm and digest, where the page promises no sha256 but another one that can be computed."""
    is_metadata: bool = False


class Stored:
    """A complete, verified file, open for reading. Close it after use."""

    def __init__(self, descriptor: int, size_bytes: int, sha256: str) -> None:
        self.descriptor = descriptor
        self.size_bytes = size_bytes
        self.sha256 = sha256

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop``."""
        while start < stop and (data := os.pread(self.descriptor, min(READ_BYTES, stop - start), start)):
            yield data
            start += len(data)

    def arrivals(self) -> Iterator[int]:
        """Yield how many bytes have arrived: all of them."""
        yield self.size_bytes

    def close(self) -> None:
        """Let go of the file; it may have been evicted meanwhile."""
        os.close(self.descriptor)


class Growing:
    """A file that is being downloaded. Close it after use."""

    def __init__(self, download: Download) -> None:
        self._download = download
        self.size_bytes = download.size_bytes()

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes as they come; the last one comes when the whole is verified. Raises UpstreamError."""
        while start < stop:
            available = min(self._download.wait_beyond(start), stop)
            for data in self._download.read(start, available):
                yield data
                start += len(data)

    def arrivals(self) -> Iterator[int]:
        """Yield how many bytes have arrived since the last time, to the end, when the whole is verified.

        Raises UpstreamError.
        """
        seen = 0
        while seen < self.size_bytes - 1:
            now = min(self._download.wait_beyond(seen), self.size_bytes - 1)
            yield now - seen
            seen = now
        yield self._download.wait_for_all() - seen

    @property
    def descriptor(self) -> int:
        """What the bytes are read from."""
        return self._download.descriptor

    @property
    def sha256(self) -> str:
        """Of the whole, once it has arrived."""
        return self._download.sha256

    def close(self) -> None:
        """Let go of the download; it goes on for others, and for the cache."""
        self._download.release()


class Made:
    """Content that stands in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size_bytes = len(content)

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from ``start`` up to ``stop``."""
        yield self._content[start:stop]

    def close(self) -> None:
        """Nothing is held."""


Content = Stored | Growing | Made


class FileCache:
    """The cache of one process in a directory that several processes may use at once."""

    def __init__(self, directory: Path, max_size_bytes: int, link_ttl_seconds: float) -> None:
        """Prepare the directory and remove what dead processes left. Raises OSError when it is not usable."""
        self._files = directory / "files"
        self._links = directory / "links"
        self.max_size_bytes = max_size_bytes
        self._link_ttl_seconds = link_ttl_seconds
        self._lock = threading.Lock()
        self._downloads: dict[_Flight, Download] = {}
        self._verified: dict[str, _Identity] = {}
        self._metadata: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._metadata_bytes = 0
        self._pages = directory / "pages"
        for path in (directory, self._files, self._links, self._pages):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._parts = _own_parts(directory / "part")
        for path in (self._files, self._links, self._pages, directory / "part"):
            _require_own(path, self._parts.stat().st_uid)
        self._locks = KeyLocks(directory / "locks")
        self.pages = PageFiles(self._pages, self._locks, self._new_part, self._added)
        self._size_bytes = 0
        self._uncounted_bytes = 0
        with self._lock:
            self._evict()

    def open(self, upstream: Upstream, wanted: Wanted, *, asked_for: bool = True) -> Stored | Growing:
        """Return a file's content, from the cache or as it arrives. Blocks until its size is known.

        What nobody has ``asked_for`` yet is tried once, and its failure says nothing of the index.
        Raises UpstreamError when the index does not deliver. Close the content after use.
        """
        link = self._link(upstream, wanted)
        try:
            return self._content(upstream, wanted, link, asked_for=asked_for)
        except OSError as error:
            raise disk_error(error, wanted.url) from error

    def holds(self, sha256: str) -> bool:
        """Tell whether a file is at hand, as far as this process knows."""
        return sha256 in self._verified

    def metadata(self, upstream: Upstream, wanted: Wanted) -> Made:
        """Return a wheel's metadata (PEP 658), made from the wheel itself, which is fetched if it is not there.

        That costs the index nothing more: a client that is told of no metadata fetches the whole wheel for it.
        Raises UpstreamError.
        """
        with contextlib.closing(self.open(upstream, wanted)) as content:
            for _ in content.arrivals():
                pass
            return Made(self.inside(content, wanted))

    def inside(self, content: "Stored | Growing", wanted: Wanted) -> bytes:
        """Return what counts of the metadata in a file that has arrived.

        Raises UpstreamError when the file is not what its name says.
        """
        return self._checked(content.sha256, open_again(content.descriptor), wanted)

    def has(self, upstream: Upstream, wanted: Wanted) -> bool:
        """Tell whether a file is kept, as far as can be told without reading it."""
        sha256 = wanted.sha256 or self._linked(self._link(upstream, wanted))
        return sha256 is not None and self._path(sha256).exists()

    def close(self) -> None:
        """Remove this process's temporary files. Downloads under way fail."""
        shutil.rmtree(self._parts, ignore_errors=True)

    def _content(self, upstream: Upstream, wanted: Wanted, link: Path, *, asked_for: bool) -> Stored | Growing:
        while True:
            sha256 = wanted.sha256 or self._linked(link)
            stored = self._stored(sha256) if sha256 else None
            if stored is not None:
                self._check_name(stored, wanted)
                return stored
            download = self._download(upstream, wanted, link, asked_for=asked_for)
            if download is not None:
                return _growing(download)

    def _download(self, upstream: Upstream, wanted: Wanted, link: Path, *, asked_for: bool) -> Download | None:
        """Join the download of this file, or start it; None when it has just ended well.

        Joined by those who would ask the same index for it, under the same name: who has it from another index must
        neither wait for this one nor be told of its failures.
        """
        key = _Flight(wanted.sha256 or link.name, upstream.name, upstream.asker(), wanted.filename)
        with self._lock:
            download = self._downloads.get(key)
            if download is None or not download.hold(asked_for=asked_for):
                if wanted.sha256 and self._path(wanted.sha256).exists():
                    return None
                download = Download(
                    upstream,
                    wanted.url,
                    wanted.sha256,
                    wanted.size_bytes,
                    self._new_part(),
                    max_bytes=_MAX_METADATA_BYTES if wanted.is_metadata else max(self.max_size_bytes, MAX_FILE_BYTES),
                    packed=wanted.filename is not None and wanted.filename.endswith(".gz"),
                    other_digest=wanted.other_digest,
                    asked_for=asked_for,
                )
                self._begin(key, download, wanted, link)
            return download

    def _begin(self, key: "_Flight", download: Download, wanted: Wanted, link: Path) -> None:
        """Have a thread of its own do it, and hold it for the caller, who has the lock.

        Only what has begun may be joined: whoever waits for what does not would wait for ever.
        """
        # For whoever asked first it is logged and traced.
        work = (self._run, key, download, wanted, link)
        download.hold(asked_for=False)  # changes nothing of that; it may be given up as soon as the thread runs
        try:
            threading.Thread(target=copy_context().run, args=work, daemon=True).start()
        except RuntimeError:  # the machine has no room for another thread
            download.release()  # the thread's
            download.release()  # the caller's
            download.path.unlink(missing_ok=True)
            raise
        self._downloads[key] = download

    def _new_part(self) -> Path:
        return self._parts / secrets.token_hex(8)

    def _run(self, key: "_Flight", download: Download, wanted: Wanted, link: Path) -> None:
        """Download, keep, and only then stop being the place to ask: nobody fetches it a second time."""
        try:
            with download.failing(), self._locks.held(f"file {key.content} {key.asker}", download.patience_seconds):
                # Another process may have fetched it while this one waited, or this one under another name.
                sha256 = wanted.sha256 or self._linked(link)
                stored = self._stored(sha256) if sha256 else None
                if stored is None:
                    download.run(lambda sha256: self._keep(download, sha256, wanted, link))
                else:
                    with contextlib.closing(stored):
                        self.inside(stored, wanted)
                        download.adopt(stored.descriptor, stored.size_bytes, stored.sha256)
        finally:
            with self._lock:
                if self._downloads.get(key) is download:  # else another took the place of this one, which was given up
                    del self._downloads[key]
            download.release()  # only now: nobody can join it any more

    def _keep(self, download: Download, sha256: str, wanted: Wanted, link: Path) -> None:
        path = self._path(sha256)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._checked(sha256, download.path, wanted)
        _settle(download.path)
        status = download.path.stat()
        download.path.rename(path)
        if download.expected_sha256 is None:
            self._write_link(link, sha256)
        with self._lock:
            self._verified[sha256] = _identity(status)
        self._added(path, status.st_size)

    def _added(self, path: Path, size_bytes: int) -> None:
        """Count a new entry, and make room if need be."""
        with self._lock:
            self._size_bytes += size_bytes
            self._uncounted_bytes += size_bytes
            if self._size_bytes > self.max_size_bytes or self._uncounted_bytes > self.max_size_bytes * _RECOUNT:
                self._evict(spare=path)

    def _check_name(self, stored: Stored, wanted: Wanted) -> None:
        try:
            self.inside(stored, wanted)
        except BaseException:
            stored.close()
            raise

    def _checked(self, sha256: str, path: Path, wanted: Wanted) -> bytes:
        """Return of a file's metadata what counts, read once for each name; nothing for what is metadata itself.

        Raises UpstreamError when the file is not what its name says.
        """
        if wanted.filename is None:
            return b""
        key = sha256, wanted.filename
        with self._lock:
            if key in self._metadata:
                self._metadata.move_to_end(key)
                return self._metadata[key]
        try:
            content = inside.essentials(inside.metadata(path, wanted.filename))
        except inside.NotThisFile as error:
            reason = f"is not what its name says: {error}"
            raise UpstreamError(ErrorKind.BROKEN_WHEEL, reason, url=shown(wanted.url)) from error
        self._remember(key, content)
        return content

    def _remember(self, key: tuple[str, str], content: bytes) -> None:
        with self._lock:
            self._metadata_bytes += len(content) - len(self._metadata.get(key, b""))
            self._metadata[key] = content
            while self._metadata_bytes > _KEPT_METADATA_BYTES or len(self._metadata) > _KEPT_METADATA:
                self._metadata_bytes -= len(self._metadata.popitem(last=False)[1])

    def _path(self, sha256: str) -> Path:
        return self._files / sha256[:2] / sha256

    def _stored(self, sha256: str) -> Stored | None:
        """Open a kept file if it is there and still what it should be; remove it if it is not."""
        path = self._path(sha256)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        status = os.fstat(descriptor)
        if not self._sound(sha256, descriptor, status):
            _log.warning("cache_entry_corrupted", sha256=sha256)
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        with contextlib.suppress(OSError):  # not ours to touch
            os.utime(descriptor, ns=(time.time_ns(), status.st_mtime_ns))  # only a write moves the other time
        return Stored(descriptor, status.st_size, sha256)

    def _sound(self, sha256: str, descriptor: int, status: os.stat_result) -> bool:
        """Compare with what was verified before; hash what this process has not verified yet."""
        identity = _identity(status)
        with self._lock:
            if self._verified.get(sha256) == identity:
                return True
        with open(descriptor, "rb", closefd=False) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                return False
        with self._lock:
            self._verified[sha256] = identity
        return True

    def _link(self, upstream: Upstream, wanted: Wanted) -> Path:
        """Where it is noted what an address held, apart for each index, credentials and what was promised."""
        asked = f"{upstream.name} {upstream.asker()} {wanted.url} {wanted.other_digest or ''}"
        return self._links / hashlib.sha256(asked.encode()).hexdigest()

    def _linked(self, link: Path) -> str | None:
        try:
            if time.time() - link.stat().st_mtime > self._link_ttl_seconds:
                return None
            sha256 = json.loads(link.read_bytes())["sha256"]
            return sha256 if _SHA256.fullmatch(sha256) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write_link(self, link: Path, sha256: str) -> None:
        part = self._new_part()
        part.write_text(json.dumps({"sha256": sha256}), encoding="ascii")
        part.rename(link)

    def _entries(self) -> Iterator["Entry"]:
        yield from entries(self._files)
        yield from entries(self._pages)

    def _evict(self, spare: Path | None = None) -> None:
        """Remove the least recently used entries if there are too many.

        Who has one open keeps reading it: its bytes stay until then. Counts anew, since other processes add and
        remove too. Called with the lock held.
        """
        found = sorted(self._entries(), key=lambda entry: entry.used_at)
        size_bytes = sum(entry.size_bytes for entry in found)
        for entry in found if size_bytes > self.max_size_bytes else ():
            if size_bytes <= self.max_size_bytes * _ROOM_LEFT:
                break
            if entry.path != spare:
                entry.path.unlink(missing_ok=True)
                self._verified.pop(entry.path.name, None)
                size_bytes -= entry.size_bytes
        self._size_bytes = size_bytes
        self._uncounted_bytes = 0
        self._forget_links()

    def _forget_links(self) -> None:
        """Remove notes that are too old to be used: addresses that are signed anew each time leave one for each."""
        oldest = time.time() - self._link_ttl_seconds
        for link in self._links.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if link.stat().st_mtime < oldest:
                    link.unlink()


def _growing(download: Download) -> Growing:
    """Wait for the size; a holder that gives up must not keep the descriptor open."""
    try:
        return Growing(download)
    except BaseException:
        download.release()
        raise


@dataclass(frozen=True)
class _Flight:
    """What all who want it at the same time can share."""

    content: str
    index: str
    asker: str
    filename: str | None


_Identity = tuple[int, int, int]


def _identity(status: os.stat_result) -> _Identity:
    """Return what changes when somebody writes to a file or puts another in its place."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _settle(path: Path) -> None:
    """Date a file that is complete further back than any clock's tick, so that whatever is written later shows at once.

    Whoever hashes it may then remember the digest without waiting for the clock to go on.
    """
    now = time.time_ns()
    with contextlib.suppress(OSError):  # where all files belong to a stand-in
        os.utime(path, ns=(now, now - _SETTLED_NS))


@dataclass(frozen=True)
class Entry:
    """A kept file."""

    used_at: float
    size_bytes: int
    path: Path


def entries(directory: Path) -> Iterator[Entry]:
    """Yield what is kept below ``files`` or ``pages``."""
    for path in directory.glob("??/*"):
        with contextlib.suppress(FileNotFoundError):  # evicted by another process
            status = path.stat()
            yield Entry(max(status.st_atime, status.st_mtime), status.st_size, path)


def _require_own(path: Path, owner: int) -> None:
    """Raise PermissionError for a directory of somebody else: they made it first, and could put anything into it.

    ``owner`` is whom what this process makes belongs to, which on a network share may be a stand-in.
    """
    if path.stat().st_uid != owner:
        raise PermissionError(errno.EPERM, f"{path} belongs to another user", str(path))


def _own_parts(parts: Path) -> Path:
    """Make a directory for this process's temporary files, and remove those of processes that are gone.

    A lock tells who is alive, also across containers that share the directory, where process ids tell nothing.
    It is held until the process ends.
    """
    parts.mkdir(mode=0o700, exist_ok=True)
    remove_dead_parts(parts)
    own = parts / secrets.token_hex(8)
    own.mkdir(mode=0o700)
    _locked(own / "lock")
    return own


def remove_dead_parts(parts: Path) -> None:
    """Remove the temporary files of processes that are gone."""
    with contextlib.suppress(FileNotFoundError):
        for other in parts.iterdir():
            _remove_if_dead(other)


def _remove_if_dead(parts: Path) -> None:
    descriptor = _locked(parts / "lock")
    if descriptor is not None:
        shutil.rmtree(parts, ignore_errors=True)
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Take the lock, creating it if need be; None when somebody else has it, or its directory has just gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in {errno.EAGAIN, errno.EACCES}:
            raise
        return None
    return descriptor
