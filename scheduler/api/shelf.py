"""Published bundles as the API hands them out: only what a bundle's own description names."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import cached_property

from bundles.catalog import Entry, read
from bundles.errors import NotPublished
from bundles.layout import MANIFEST, WHEELS, bundle_folder, stored_wheel
from bundles.models import Bundle
from bundles.store import ANSWERING, ObjectStore, open_store
from config.settings import StorageSettings
from scheduler.api.waiting import Waiting

_READS_AT_ONCE = 16
_ANSWER_WITHIN_SECONDS = 8.0
"""More than the patience with an S3 server, for the sake of what waits for a thread; a folder may hang for ever."""
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

    The store is opened when something is asked of it: jobs go on without it. So does everything that asks nothing of
    it, also while it hangs: what is awaited here waits in threads of its own, and not for long. Raises NotPublished,
    BrokenBundle or StorageError. Whoever made it closes it.
    """

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._read: dict[Entry, tuple[float, Bundle]] = {}
        self._waiting = Waiting(_READS_AT_ONCE, _ANSWER_WITHIN_SECONDS)

    @cached_property
    def _store(self) -> ObjectStore:
        return open_store(self._settings, patience=ANSWERING)

    def close(self) -> None:
        """Read no more."""
        self._waiting.close()

    async def look(self, entry: Entry) -> Bundle:
        """Return a bundle's description, as ``bundle``."""
        known = self._known(entry)
        return await self._waiting.run(self.bundle, entry) if known is None else known

    def _known(self, entry: Entry) -> Bundle | None:
        found = self._read.get(entry)
        return found[1] if found and time.monotonic() - found[0] < _FOR_SECONDS else None

    def bundle(self, entry: Entry) -> Bundle:
        """Return a bundle's description. Waits for the store in the caller's thread."""
        if known := self._known(entry):
            return known
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

    async def open(self, entry: Entry, path: str) -> tuple[StoredFile, AsyncIterator[bytes]]:
        """Return the file of a bundle that is at ``path`` in a portable folder (``wheels/…``, ``images/…``).

        Of its content the first has been read: so all errors but a broken line come now.
        """
        file = _files(entry, await self.look(entry)).get(path)
        if file is None:
            raise NotPublished(entry.name, entry.version)
        try:
            first, rest = await self._waiting.run(self._begin, file)
        except FileNotFoundError:
            raise NotPublished(entry.name, entry.version) from None
        return file, self._content(first, rest)

    def _begin(self, file: StoredFile) -> tuple[bytes | None, Iterator[bytes]]:
        chunks = self._store.chunks(file.path)
        return next(chunks, None), chunks

    async def _content(self, chunk: bytes | None, rest: Iterator[bytes]) -> AsyncIterator[bytes]:
        while chunk is not None:
            yield chunk
            chunk = await self._waiting.run(next, rest, None)


def _files(entry: Entry, bundle: Bundle) -> dict[str, StoredFile]:
    return {
        MANIFEST: StoredFile(entry.manifest, None),
        **{f"{WHEELS}/{each.filename}": StoredFile(stored_wheel(each), each.size_bytes) for each in bundle.wheels},
        **{each.path: StoredFile(f"{entry.folder}/{each.path}", each.size_bytes) for each in bundle.files},
    }
