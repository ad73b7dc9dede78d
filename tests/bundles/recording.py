"""A real store that notes what is written, and can be told to fail or to stop."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bundles.store import ObjectStore, StoredObject

_Hook = Callable[[str], None]


class RecordingStore:
    """Passes everything on to ``inner``; what is given as ``before_…`` is called with each path, and may raise."""

    def __init__(
        self,
        inner: ObjectStore,
        before_write: _Hook = lambda _: None,
        *,
        before_read: _Hook = lambda _: None,
        before_range: _Hook = lambda _: None,
        before_delete: _Hook = lambda _: None,
    ) -> None:
        self.inner = inner
        self.written: list[str] = []
        self.deleted: list[str] = []
        self.unsettled: set[str] = set()
        self._before_write = before_write
        self._before_read = before_read
        self._before_range = before_range
        self._before_delete = before_delete

    def size(self, path: str) -> int | None:
        self._before_read(path)
        return self.inner.size(path)

    def put_file(self, path: str, file: Path) -> None:
        self._before_write(path)
        self.inner.put_file(path, file)
        self.written.append(path)

    def put_bytes(self, path: str, data: bytes, *, settled: bool = True) -> None:
        self._before_write(path)
        self.inner.put_bytes(path, data, settled=settled)
        self.written.append(path)
        if not settled:
            self.unsettled.add(path)

    def settle(self, folder: str) -> None:
        self.inner.settle(folder)
        self.unsettled = {path for path in self.unsettled if not path.startswith(f"{folder}/")}

    def put_new(self, path: str, data: bytes) -> bool:
        self._before_write(path)
        new = self.inner.put_new(path, data)
        self.written.append(path)
        return new

    def read(self, path: str) -> bytes:
        self._before_read(path)
        return self.inner.read(path)

    def chunks(self, path: str, *, offset_bytes: int = 0) -> Iterator[bytes]:
        self._before_read(path)
        self._before_range(f"{path} from {offset_bytes}")
        return self.inner.chunks(path, offset_bytes=offset_bytes)

    def paths(self, prefix: str) -> Iterator[str]:
        return (found.path for found in self.objects(prefix))

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        self._before_read(prefix)
        return self.inner.objects(prefix)

    def unfinished(self) -> Iterator[StoredObject]:
        return self.inner.unfinished()

    def delete(self, path: str) -> None:
        self._before_delete(path)
        self.inner.delete(path)
        self.deleted.append(path)

    def uri(self, path: str) -> str:
        return self.inner.uri(path)
