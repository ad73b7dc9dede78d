"""The published visualizations, ready to be searched: what bundles say of them, kept in memory.

A bundle never changes, so each is read once. The newest version of each package is shown.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from urllib.parse import quote

from packaging.version import Version

from bundles.catalog import Entry
from bundles.errors import BrokenBundle, NotPublished, StorageError
from bundles.models import Bundle, Visualization
from jobs.catalog import Catalog
from jobs.models import CatalogEntry
from scheduler.api.models import PREFIX
from scheduler.api.shelf import Shelf
from scheduler.api.waiting import Threads, Waiting

_READS_AT_ONCE = 8
_PATIENCE_SECONDS = 3.0
"""For how long pages wait for bundles that are read for the first time; they show the others."""
_SEARCHES_AT_ONCE = 8
_ANSWER_WITHIN_SECONDS = 8.0
_BROKEN_SECONDS = 60.0
"""After which a broken bundle is read again: it may have been mended."""


@dataclass(frozen=True)
class Card:
    """One visualization of the newest bundle of its package."""

    entry: Entry
    visualization: Visualization
    text: str
    """What is searched, in lower case."""

    @property
    def href(self) -> str:
        """Where the page tells all of it."""
        return href(self.entry, self.visualization.name)

    @property
    def image(self) -> str | None:
        """Where its picture is."""
        return image(self.entry, self.visualization)


@dataclass(frozen=True)
class Found:
    """What a search found."""

    cards: tuple[Card, ...]
    packages: tuple[tuple[str, int], ...]
    """All packages, with how many visualizations each has."""
    total: int
    unread: int
    """How many bundles are still being read."""
    broken: int
    """How many bundles cannot be read."""


@dataclass(frozen=True)
class _Reading:
    """A bundle that is being read."""

    until: float
    """How long pages wait for it. Those of later do not: a store that hangs holds up each only once."""
    cards: Future[tuple[Card, ...]]


class Gallery:
    """Searches what is published. Thread-safe. Raises ``StatusUnavailable`` and ``StorageError``."""

    def __init__(self, catalog: Catalog, shelf: Shelf) -> None:
        self._catalog = catalog
        self._shelf = shelf
        self._lock = threading.Lock()
        self._read: dict[Entry, tuple[Card, ...]] = {}
        self._broken: dict[Entry, float] = {}
        self._reading: dict[Entry, _Reading] = {}
        self._searching = Waiting(_SEARCHES_AT_ONCE, _ANSWER_WITHIN_SECONDS)
        self._pool = Threads(_READS_AT_ONCE, "gallery")

    def close(self) -> None:
        """Read no further bundles. Waits for none."""
        self._searching.close()
        self._pool.close()

    async def search(self, text: str = "", package: str = "") -> Found:
        """Return the visualizations that have all the words, those in whose names they are first."""
        return await self._searching.run(self._search, text, package)

    def _search(self, text: str, package: str) -> Found:
        shown = newest(self._catalog.entries())
        known, unread, broken = self._cards(shown)
        words = text.lower().split()
        cards = [card for entry in shown for card in known.get(entry, ()) if all(word in card.text for word in words)]
        chosen = [card for card in cards if package in {"", card.entry.name}]
        packages = tuple((entry.name, len(known.get(entry, ()))) for entry in shown)
        ordered = sorted(chosen, key=lambda card: _order(card, words))
        return Found(tuple(ordered), packages, sum(count for _, count in packages), unread, broken)

    def _cards(self, entries: Sequence[Entry]) -> tuple[dict[Entry, tuple[Card, ...]], int, int]:
        """Return what is known of bundles after a moment, and how many are not read yet, and cannot be."""
        with self._lock:
            wanted = set(entries)
            self._read = {entry: cards for entry, cards in self._read.items() if entry in wanted}
            self._broken = {entry: until for entry, until in self._broken.items() if until > time.monotonic()}
            for entry in entries:
                if not any(entry in each for each in (self._read, self._broken, self._reading)):
                    until = time.monotonic() + _PATIENCE_SECONDS
                    self._reading[entry] = _Reading(until, self._pool.submit(self._look, entry))
            reading = {entry: self._reading[entry] for entry in entries if entry in self._reading}
        pending = {entry: each.cards for entry, each in reading.items()}
        until = max((each.until for each in reading.values()), default=0.0)
        wait(pending.values(), max(0.0, until - time.monotonic()))
        with self._lock:
            failures = [each for each in map(self._take, pending, pending.values()) if each]
            known, broken = dict(self._read), len(wanted & self._broken.keys())
        if failures and not known:
            raise failures[0]
        unread = sum(not future.done() for future in pending.values())
        return known, unread + len(failures), broken

    def _take(self, entry: Entry, future: "Future[tuple[Card, ...]]") -> StorageError | None:
        """Keep what became of reading a bundle, if that is known; return why the store did not give it."""
        if not future.done():
            return None
        self._reading.pop(entry, None)
        try:
            self._read[entry] = future.result()
        except BrokenBundle:
            self._broken[entry] = time.monotonic() + _BROKEN_SECONDS
        except NotPublished:
            pass  # removed meanwhile
        except StorageError as error:
            return error
        return None

    def _look(self, entry: Entry) -> tuple[Card, ...]:
        bundle = self._shelf.bundle(entry)
        return tuple(Card(entry, each, _text(bundle, each)) for each in bundle.visualizations)


def newest(entries: Iterable[CatalogEntry]) -> list[Entry]:
    """Return the newest bundle of each package, by name; as with pip, a pre-release only if there is nothing else."""
    found: dict[str, CatalogEntry] = {}
    for entry in entries:
        known = found.get(entry.name)
        if known is None or age(entry) > age(known):
            found[entry.name] = entry
    return [place(found[name]) for name in sorted(found)]


def age(entry: CatalogEntry) -> tuple[bool, Version, float]:
    """Return what sorts bundles of a package, oldest first, pre-releases before all."""
    version = Version(entry.version)
    return not version.is_prerelease, version, entry.created_at.timestamp()


def place(entry: CatalogEntry) -> Entry:
    """Return which bundle an entry of the catalogue is."""
    return Entry(entry.name, entry.version, entry.id)


def href(entry: Entry, visualization: str) -> str:
    """Return where the page tells all of a visualization."""
    return (
        "/catalogue/"
        + "/".join(quote(part, safe="") for part in (entry.name, entry.version, entry.id))
        + (f"?name={quote(visualization, safe='')}")
    )


def image(entry: Entry, visualization: Visualization) -> str | None:
    """Return where the API serves a visualization's picture."""
    if visualization.image is None:
        return None
    folder = "/".join(quote(part, safe="") for part in (entry.name, entry.version, entry.id))
    return f"{PREFIX}/bundles/{folder}/files/{quote(visualization.image)}"


def _text(bundle: Bundle, visualization: Visualization) -> str:
    options = (f"{option.name} {option.display_name}" for option in visualization.options)
    parts = (bundle.name, visualization.name, visualization.display_name, visualization.description, *options)
    return " ".join(parts).lower()


def _order(card: Card, words: Sequence[str]) -> tuple[bool, str, str]:
    title = card.visualization.display_name.lower()
    return not all(word in title for word in words), title, card.entry.name
