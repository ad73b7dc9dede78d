"""A real store that notes what is written, and can be told to fail or to stop."""

from collections.abc import Callable, Iterator
from pathlib import Path

from bundles.store import ObjectStore


class RecordingStore:
    """Passes everything on to ``inner``; ``before_write`` is called with each path and may raise."""

    def __init__(self, inner: ObjectStore, before_write: Callable[[str], None] = lambda _: None) -> None:
        self.inner = inner
        self.written: list[str] = []
        self._before_write = before_write

    def size(self, path: str) -> int | None:
        return self.inner.size(path)

    def put_file(self, path: str, file: Path) -> None:
        self._before_write(path)
        self.inner.put_file(path, file)
        self.written.append(path)

    def put_bytes(self, path: str, data: bytes) -> None:
        self._before_write(path)
        self.inner.put_bytes(path, data)
        self.written.append(path)

    def read(self, path: str) -> bytes:
        return self.inner.read(path)

    def fetch(self, path: str, file: Path) -> None:
        self.inner.fetch(path, file)

    def paths(self, prefix: str) -> Iterator[str]:
        return self.inner.paths(prefix)

    def delete(self, path: str) -> None:
        self.inner.delete(path)

    def uri(self, path: str) -> str:
        return self.inner.uri(path)
