"""How publishing and collecting at the same moment stay out of each other's way, with nothing but the store.

A publisher relies on wheels that are there already; a collector deletes wheels that no bundle names. Each says what it
is about to do before it looks at what the other does:

* the publisher writes a reservation of its wheels and its folder, then looks for sweeps, and waits for those that
  overlap; only then does it look which wheels are there;
* the collector writes its sweep, the list of what it will delete, then looks for reservations and published bundles,
  and spares what they name; the sweep is taken away when the last object is deleted.

Stores are consistent: a listing shows whatever was written before it. So when both come together, at least one of the
two sees the other, and a wheel that a publisher found is not deleted afterwards.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Literal

from pydantic import ValidationError

from bundles.documents import read_document
from bundles.errors import BrokenBundle, Fenced, StorageError
from bundles.models import Document
from bundles.store import ObjectStore

RESERVATIONS = "publishing"
SWEEPS = "collecting"

SWEEP_SECONDS = 600.0
"""For so long a collector may delete after it has written its sweep; then it stops."""
ABANDONED_SECONDS = 900.0
"""A sweep that does not go away for so long belongs to a collector that died. Longer than SWEEP_SECONDS and the longest
time that one call to delete may take together."""
FORGOTTEN = timedelta(days=1)
"""A reservation of that age belongs to a publisher that died."""

_LOOK_EVERY_SECONDS = 0.2
_MAX_CLAIM_BYTES = 64 * 2**20
"""The paths of half a million objects."""


class Claim(Document):
    """The paths of wheels and of bundles' folders: those reserved, or those to be deleted."""

    schema_version: Literal[1] = 1
    paths: tuple[str, ...]


@contextmanager
def reserved(store: ObjectStore, paths: Iterable[str], fenced: Callable[[], bool]) -> Iterator[None]:
    """Keep collectors away from ``paths`` while the block runs; waits first until none deletes any of them.

    ``fenced`` is asked meanwhile; when it says true, Fenced is raised. Raises StorageError.
    """
    wanted = frozenset(paths)
    if fenced():
        raise Fenced
    with _placed(store, RESERVATIONS, wanted):
        _wait_for_sweeps(store, wanted, fenced)
        yield


@contextmanager
def sweeping(store: ObjectStore, paths: Iterable[str]) -> Iterator[Callable[[], bool]]:
    """Announce that ``paths`` are deleted in the block, which must look at ``reservations`` before it does so.

    Yields what tells whether there is still time to delete. Raises StorageError.
    """
    with _placed(store, SWEEPS, frozenset(paths)):
        end = time.monotonic() + SWEEP_SECONDS
        yield lambda: time.monotonic() < end


def reservations(store: ObjectStore, now: datetime) -> frozenset[str]:
    """Return all paths that publishers rely on at this moment.

    Raises StorageError, also when a reservation cannot be understood: then nothing may be deleted.
    """
    found: set[str] = set()
    for each in store.objects(RESERVATIONS):
        if now - each.modified <= FORGOTTEN:
            with suppress(FileNotFoundError):
                found.update(_read(store, each.path))
    return frozenset(found)


@contextmanager
def _placed(store: ObjectStore, folder: str, paths: frozenset[str]) -> Iterator[None]:
    path = f"{folder}/{secrets.token_hex(8)}.json"
    store.put_bytes(path, Claim(paths=tuple(sorted(paths))).model_dump_json().encode())
    try:
        yield
    finally:
        # What stays behind is found to be abandoned later; it must not hide what happened in the block.
        with suppress(StorageError):
            store.delete(path)


def _wait_for_sweeps(store: ObjectStore, wanted: frozenset[str], fenced: Callable[[], bool]) -> None:
    # Only those of the first look: a later collector sees our reservation and spares what it names.
    sweeps = {path for path in store.paths(SWEEPS) if _overlaps(store, path, wanted)}
    since = time.monotonic()
    while sweeps:
        if fenced():
            raise Fenced
        time.sleep(_LOOK_EVERY_SECONDS)
        sweeps &= set(store.paths(SWEEPS))
        if time.monotonic() - since > ABANDONED_SECONDS:
            for path in sweeps:
                store.delete(path)
            return


def _overlaps(store: ObjectStore, path: str, wanted: frozenset[str]) -> bool:
    try:
        return not wanted.isdisjoint(_read(store, path))
    except FileNotFoundError:
        return False


def _read(store: ObjectStore, path: str) -> tuple[str, ...]:
    try:
        return Claim.model_validate_json(read_document(store, path, _MAX_CLAIM_BYTES)).paths
    except (BrokenBundle, ValidationError) as error:
        raise StorageError(
            "understand", path, "it is not of this version of vizfetch; remove it if it is old"
        ) from error
