"""A published bundle as a folder, or one file, that installs without any index and without the store."""

import errno
import fcntl
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TypeVar

from bundles.catalog import find
from bundles.digest import file_digest
from bundles.errors import BrokenBundle, BundleError, FolderTaken, HashMismatch, StorageError
from bundles.layout import LOCK, MANIFEST, bundle_folder, portable_wheel, stored_wheel
from bundles.lock import pylock
from bundles.manifest import seal
from bundles.models import Bundle, BundledFile, BundledWheel
from bundles.store import ObjectStore

_DOWNLOADS_AT_ONCE = 4
_ZIP_STAMP = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format knows: the same bundle gives the same file."""
_T = TypeVar("_T")


def pull(
    store: ObjectStore,
    name: str,
    version: str | None,
    directory: Path,
    *,
    zip: bool = False,  # noqa: A002 - the command line's word
) -> list[Path]:
    """Write the bundle that ``catalog.find`` finds into ``directory`` and return the files that make it up.

    That is ``wheels/``, ``pylock.toml``, ``requirements.txt``, ``sbom.cdx.json``, ``images/`` and ``bundle.json``, or
    with ``zip`` one file ``NAME-VERSION-ID.zip`` with the same in it. Every object of the bundle is read and verified
    by its sha256. ``pylock.toml`` then gets the portable folder's own paths; all else is as it was published. After
    an interruption, repeat: what is there and right is kept, a wheel that is there in part is continued, and nothing
    is there under its final name that is not whole and right. A ``.partial`` is left only by an interruption or by a
    store that failed, so that repeating continues it. A KeyboardInterrupt is passed on at once: threads that wait for
    the store may live on until it answers, write nothing more then, and end.

    Links below ``directory`` are not followed, and of two pulls into one folder at the same time one is refused.

    Raises NotPublished, HashMismatch, BrokenBundle, FolderTaken or StorageError, and OSError of the disk.
    """
    bundle = find(store, name, version)
    if not zip:
        with _alone(directory):
            return _write_folder(store, bundle, directory)
    label = f"{bundle.name}-{bundle.version}-{bundle.id}"
    archive = directory / f"{label}.zip"
    with _kept_if_interrupted(directory / f".{label}.partial") as unpacked:
        files = _write_folder(store, bundle, unpacked)
        _write_zip(archive, unpacked, files)
    return [archive]


@contextmanager
def _kept_if_interrupted(folder: Path) -> Iterator[Path]:
    """Give a folder for the block, and remove it unless the block was interrupted, or the store failed it.

    Then a repetition finds there what it need not fetch again. What is broken, or has no room, does not mend itself.
    """
    _remove_link(folder)
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    with _alone(folder):
        try:
            yield folder
        except StorageError:
            raise
        except (BundleError, OSError):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # somebody put something there
                for each in made[1:]:
                    each.rmdir()
            raise
        shutil.rmtree(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder and hold it for the block, as far as its file system knows locks. Raises FolderTaken."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderTaken(str(folder)) from None
        except OSError:  # such as some network file systems
            pass
        # Whoever held it may have removed it at his end.
        if not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
            raise FolderTaken(str(folder))
        yield
    finally:
        os.close(descriptor)


def _write_folder(store: ObjectStore, bundle: Bundle, directory: Path) -> list[Path]:
    transfer = _Transfer(store, bundle, directory)
    # Not as a block, which would wait for what has begun.
    pool = ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="pull")
    try:
        # The small ones first: what is wrong with them shows before the long downloads.
        files = _each(pool, transfer.file, bundle.files)
        wheels = _each(pool, transfer.wheel, bundle.wheels)
    except KeyboardInterrupt:
        transfer.stopped.set()
        # A store that is silent keeps its threads for minutes, whoever presses Ctrl-C not.
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()
    documents = {LOCK: pylock(bundle, portable_wheel), MANIFEST: seal(bundle)}
    written = [*wheels, *files]
    for name, content in documents.items():
        _replace(directory / name, content)
        written.append(directory / name)
    return list(dict.fromkeys(written))


def _each(pool: ThreadPoolExecutor, work: Callable[[_T], Path], items: Iterable[_T]) -> list[Path]:
    running = [pool.submit(work, item) for item in items]
    return [each.result() for each in running]


@dataclass(frozen=True)
class _Transfer:
    """The way of a bundle's objects from the store to a folder."""

    store: ObjectStore
    bundle: Bundle
    directory: Path
    stopped: Event = field(default_factory=Event)
    """Set when the user stopped the command: what has begun is continued another time."""

    def wheel(self, wheel: BundledWheel) -> Path:
        """Download a wheel unless it is there."""
        target = self.directory / portable_wheel(wheel)
        self._make_folders(target)
        if target.is_file() and not target.is_symlink() and file_digest(target) == wheel.sha256:
            return target
        partial = target.with_name(f".{target.name}.{wheel.sha256[:16]}.partial")
        _remove_link(partial)
        source = stored_wheel(wheel)
        if (stored_bytes := self.store.size(source)) not in {None, wheel.size_bytes}:
            raise BrokenBundle(source, [f"the wheel has {stored_bytes} bytes and not {wheel.size_bytes}"])
        try:
            actual = self._download(source, partial, wheel.size_bytes, resume=True)
            if actual != wheel.sha256:  # perhaps only the part that was there before
                actual = self._download(source, partial, wheel.size_bytes, resume=False)
        except BrokenBundle:
            partial.unlink()
            raise
        if actual != wheel.sha256:
            partial.unlink()
            raise HashMismatch(wheel.filename, wheel.sha256, actual)
        return partial.replace(target)

    def file(self, file: BundledFile) -> Path:
        """Write an object of the bundle's folder, verified."""
        source, target = f"{bundle_folder(self.bundle)}/{file.path}", self.directory / file.path
        self._make_folders(target)
        partial = _partial(target)
        try:
            actual = self._download(source, partial, file.size_bytes, resume=False)
        except BrokenBundle:
            partial.unlink()
            raise
        if actual != file.sha256:
            partial.unlink()
            raise BrokenBundle(source, ["its content is not what bundle.json says"])
        if file.path == LOCK:  # a portable folder has one of its own
            partial.unlink()
            return target
        return partial.replace(target)

    def _download(self, source: str, partial: Path, size_bytes: int, *, resume: bool) -> str:
        """Write an object's content, after what is there already with ``resume``, and return the sha256 of it all.

        Of one that is larger than ``size_bytes``, no more than a part is written.
        """
        present_bytes = partial.stat().st_size if resume and partial.is_file() else 0
        if present_bytes >= size_bytes:
            present_bytes = 0
        with partial.open("ab") as output:
            output.truncate(present_bytes)
            try:
                for chunk in self.store.chunks(source, offset_bytes=present_bytes):
                    if self.stopped.is_set():
                        raise StorageError("read", source, "the pull was stopped")
                    output.write(chunk)
                    if output.tell() > size_bytes:
                        break
            except FileNotFoundError as error:
                raise BrokenBundle(source, ["it is missing from the store"]) from error
        return file_digest(partial)

    def _make_folders(self, file: Path) -> None:
        """Make the folders of a file. Raises NotADirectoryError for one that is a link, and so may lead anywhere."""
        below = file.relative_to(self.directory).parents
        for folder in (self.directory / each for each in reversed(below[:-1])):
            if folder.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, "is a link, which is not followed: remove it", str(folder))
            folder.mkdir(exist_ok=True)


def _partial(file: Path) -> Path:
    """Return where a file is written until it is whole."""
    partial = file.with_name(f".{file.name}.partial")
    _remove_link(partial)
    return partial


def _remove_link(path: Path) -> None:
    """Remove a link under one of our own names: what it leads to is not ours to write."""
    if path.is_symlink():
        path.unlink()


def _replace(file: Path, content: bytes) -> None:
    partial = _partial(file)
    partial.write_bytes(content)
    partial.replace(file)


def _write_zip(archive: Path, root: Path, files: Iterable[Path]) -> None:
    partial = _partial(root / ".zip")
    with zipfile.ZipFile(partial, "w") as output:
        for file in sorted(files):
            info = zipfile.ZipInfo(file.relative_to(root).as_posix(), _ZIP_STAMP)
            info.external_attr = 0o100644 << 16
            info.file_size = file.stat().st_size
            # Wheels are compressed already: stored, at the speed of the disk.
            with file.open("rb") as source, output.open(info, "w") as target:
                shutil.copyfileobj(source, target, 2**20)
    partial.replace(archive)
