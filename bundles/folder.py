"""A store that is a folder: for one machine, a shared disk or a mounted bucket.

Not through obstore, whose local store does not bring what it wrote to the disk before it says that it is there.
"""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from bundles.errors import StorageError
from bundles.objects import StoredObject

_COPY_BYTES = 2**20
_STAGED = re.compile(r"#\d+$")
"""The ending of a file that is being written; it gets its name when it is whole. No object is called like that."""
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What file systems answer that know no hard links, such as some that mount a bucket."""
_TRIES = 10


class FolderStore:
    """An ``ObjectStore`` over a folder; what a killed writer left in it can be seen and removed.

    Opening and reading create nothing: a folder that is not there has nothing in it, and listing it says so. When a
    write returns, the object and the folders on the way to it are on the disk, as far as the system promises it: they
    outlive a power cut.
    """

    def __init__(self, root: Path, base_uri: str) -> None:
        self._root = root
        self._base_uri = base_uri

    def size(self, path: str) -> int | None:
        """See ``ObjectStore``."""
        with _translated("look at", path), suppress(*_ABSENT):
            about = self._file(path).stat()
            return about.st_size if self._file(path).is_file() else None
        return None

    def put_file(self, path: str, file: Path) -> None:
        """See ``ObjectStore``."""
        with _translated("write", path), file.open("rb") as source:
            self._write(path, source, _rename)

    def put_bytes(self, path: str, data: bytes, *, settled: bool = True) -> None:
        """See ``ObjectStore``."""
        with _translated("write", path):
            self._write(path, BytesIO(data), _rename, settled=settled)

    def put_new(self, path: str, data: bytes) -> bool:
        """See ``ObjectStore``."""
        with _translated("write", path):
            return self._write(path, BytesIO(data), _link)

    def settle(self, folder: str) -> None:
        """See ``ObjectStore``. Folders behind links, which nobody here makes, are left out."""
        with _translated("write", folder):
            for each, *_ in os.walk(self._file(folder), onerror=_raise):
                _sync(Path(each))
            self._settle_way(folder)

    def read(self, path: str) -> bytes:
        """See ``ObjectStore``."""
        with _translated("read", path):
            return self._file(path).read_bytes()

    def chunks(self, path: str, *, offset_bytes: int = 0) -> Iterator[bytes]:
        """See ``ObjectStore``."""
        with _translated("read", path):
            file = self._file(path).open("rb")
        with file:
            with _translated("read", path):
                if offset_bytes and offset_bytes >= os.fstat(file.fileno()).st_size:
                    raise ValueError(f"it is not longer than {offset_bytes} bytes")
                file.seek(offset_bytes)
            while True:
                # Only the store's side is translated, not what the reader does with a chunk.
                with _translated("read", path):
                    chunk = file.read(_COPY_BYTES)
                if not chunk:
                    return
                yield chunk

    def paths(self, prefix: str) -> Iterator[str]:
        """See ``ObjectStore``."""
        return (found.path for found in self.objects(prefix))

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """See ``ObjectStore``."""
        with _translated("list", prefix):
            yield from (each for each in self._all(prefix) if not _STAGED.search(each.path))

    def unfinished(self) -> Iterator[StoredObject]:
        """See ``ObjectStore``."""
        with _translated("list", ""):
            yield from (each for each in self._all("") if _STAGED.search(each.path))

    def delete(self, path: str) -> None:
        """See ``ObjectStore``."""
        with _translated("delete", path):
            file = self._root.joinpath(*_parts(path))
            with suppress(*_ABSENT):
                file.unlink()
            # Folders are no objects: one without any is gone. Whoever writes into it just now makes it again.
            with suppress(OSError):
                for folder in list(file.parents)[: len(_parts(path)) - 1]:
                    folder.rmdir()

    def uri(self, path: str) -> str:
        """See ``ObjectStore``."""
        return f"{self._base_uri}/{path}"

    def _file(self, path: str) -> Path:
        """Return the place of an object. Raises ValueError."""
        if _STAGED.search(path):
            raise ValueError("a number after # is the ending of files that are being written")
        return self._root.joinpath(*_parts(path))

    def _write(self, path: str, source: BinaryIO, name: Callable[[Path, Path], bool], *, settled: bool = True) -> bool:
        """Write a file beside its final place and bring it to the disk; then ``name`` gives it its name, or not."""
        target = self._file(path)
        # A short name: that of a wheel may be as long as the system allows.
        staged = target.with_name(f"#{secrets.randbits(64)}")
        try:
            with _made(staged) as output:
                shutil.copyfileobj(source, output, _COPY_BYTES)
                output.flush()
                os.fsync(output.fileno())
            named = name(staged, target)
        finally:
            staged.unlink(missing_ok=True)
        if settled:
            self._settle_way(path)
        return named

    def _settle_way(self, path: str) -> None:
        """Bring to the disk what the folders on the way to something hold; any of them may be new."""
        for folder in [*self._file(path).parents][: len(_parts(path)) + 1]:
            _sync(folder)

    def _all(self, prefix: str) -> Iterator[StoredObject]:
        if not self._root.is_dir():
            raise ValueError(f"there is no folder {self._root}; is moderne.agent.visualization.storage.uri right?")
        parts = _parts(prefix.rstrip("/")) if prefix else []
        for path, file in _files(self._root.joinpath(*parts), "/".join(parts), set()):
            try:
                about = file.stat()
            except FileNotFoundError:  # removed, or it has just got its name
                continue
            yield StoredObject(path, about.st_size, datetime.fromtimestamp(about.st_mtime, UTC))


def _parts(path: str) -> list[str]:
    """Return the parts of an object's path. Raises ValueError."""
    parts = path.split("/")
    if any(part in {"", ".", ".."} or not part.isprintable() for part in parts):
        raise ValueError("not a path of plain names")
    return parts


def _files(folder: Path, path: str, seen: set[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield all files below a folder, each with its path, behind links too; of a loop each folder once."""
    try:
        about = folder.stat()
        with os.scandir(folder) as entries:
            inside = list(entries)
    except _ABSENT:
        return
    if (about.st_dev, about.st_ino) in seen:
        return
    seen.add((about.st_dev, about.st_ino))
    for each in inside:
        below = f"{path}/{each.name}" if path else each.name
        if each.is_dir():
            yield from _files(folder / each.name, below, seen)
        elif each.is_file():
            yield below, each


def _made(file: Path) -> BinaryIO:
    """Open a new file, with the folders that it needs; being empty, they may be removed at any moment before."""
    for _ in range(_TRIES):
        # The second is of a folder that went between mkdir's finding it there and its looking what it is.
        with suppress(FileNotFoundError, FileExistsError):
            file.parent.mkdir(parents=True, exist_ok=True)
            return file.open("xb")
    return file.open("xb")


def _rename(staged: Path, target: Path) -> bool:
    """Give a file its name, whatever had it before."""
    staged.replace(target)
    return True


def _link(staged: Path, target: Path) -> bool:
    """Give a file its name unless another has it, and tell whether it got it."""
    try:
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return not target.exists() and _rename(staged, target)
    return True


def _raise(error: OSError) -> None:
    raise error


def _sync(folder: Path) -> None:
    """Bring to the disk which names a folder holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems keep names by themselves and refuse.
        if error.errno not in {errno.EINVAL, errno.EOPNOTSUPP}:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _translated(operation: str, path: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError) as error:
        if operation == "read":
            raise FileNotFoundError(f"the store has no {path}") from error
        raise StorageError(operation, path, _reason(error)) from error
    except (OSError, ValueError) as error:
        raise StorageError(operation, path, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    return str(error)
