"""Published bundles as the API hands them out: only what a bundle's own description names."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from bundles.catalog import Entry, read
from bundles.errors import NotPublished
from bundles.layout import MANIFEST, WHEELS, bundle_folder, stored_wheel
from bundles.models import Bundle
from bundles.store import ObjectStore, open_store
from config.settings import StorageSettings

_REMEMBERED = 64
_FOR_SECONDS = 60.0
"""A bundle never changes, but it may be removed."""


@dataclass(frozen=True)
class StoredFile:
    """One file of a bundle: where the store has it, and its size if that is known."""

    path: str
    size_bytes: int | None


class Shelf:
    """Reads bundles from a store and remembers a few descriptions. Thread-safe.

    The store is opened when something is asked of it: jobs go on without it. Raises NotPublished, BrokenBundle or
    StorageError.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._read: dict[Entry, tuple[float, Bundle]] = {}

    @cached_property
    def _store(self) -> ObjectStore:
        return open_store(self._settings)

    def bundle(self, entry: Entry) -> Bundle:
        """Return a bundle's description."""
        found = self._read.get(entry)
        if found and time.monotonic() - found[0] < _FOR_SECONDS:
            return found[1]
        try:
            bundle = read(self._store, entry)
        except FileNotFoundError:
            raise NotPublished(entry.name, entry.version) from None
        # Replaced and not changed, since other threads may read it.
        kept = list(self._read.items())[-_REMEMBERED + 1 :]
        self._read = dict(kept) | {entry: (time.monotonic(), bundle)}
        return bundle

    def uri(self, bundle: Bundle) -> str:
        """Return where a bundle is in the store."""
        return self._store.uri(bundle_folder(bundle))

    def file(self, entry: Entry, path: str) -> StoredFile:
        """Return the file of a bundle that is at ``path`` in a portable folder (``wheels/…``, ``images/…``)."""
        bundle = self.bundle(entry)
        stored = {
            MANIFEST: StoredFile(entry.manifest, None),
            **{f"{WHEELS}/{each.filename}": StoredFile(stored_wheel(each), each.size_bytes) for each in bundle.wheels},
            **{each.path: StoredFile(f"{entry.folder}/{each.path}", each.size_bytes) for each in bundle.files},
        }
        if path not in stored:
            raise NotPublished(entry.name, entry.version)
        return stored[path]

    def content(self, entry: Entry, file: StoredFile) -> Iterator[bytes]:
        """Return the content, the first of which has been read: so all errors but a broken line come now."""
        chunks = self._store.chunks(file.path)
        try:
            first = next(chunks, b"")
        except FileNotFoundError:
            raise NotPublished(entry.name, entry.version) from None
        return _after(first, chunks)


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest
