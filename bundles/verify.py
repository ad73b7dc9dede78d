"""Whether what is published is still what was published: everything is read again."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bundles.catalog import Entry, folder_of, not_published, place, read
from bundles.digest import stream_digest
from bundles.errors import BrokenBundle, printable
from bundles.layout import BUNDLES, MANIFEST, WHEELS, stored_wheel
from bundles.models import Bundle
from bundles.reservations import reservations
from bundles.store import ObjectStore, StoredObject

_READS_AT_ONCE = 4
_WHEEL = re.compile(rf"{WHEELS}/(?P<sha256>[0-9a-f]{{64}})/[^/]+\.whl")


@dataclass(frozen=True)
class Issue:
    """Something that is wrong with one object of the store."""

    object: str
    issue: str


@dataclass(frozen=True)
class Report:
    """What was read, and everything that is wrong with it, by object."""

    bundles: int
    objects: int
    size_bytes: int
    issues: tuple[Issue, ...]


@dataclass(frozen=True)
class Wanted:
    """Which bundles are to be looked at: those of a package, or of one version of it."""

    name: str
    version: str | None = None

    def matches(self, entry: Entry) -> bool:
        """Tell whether a bundle is among them."""
        if entry.name != canonicalize_name(self.name):
            return False
        return self.version is None or _same_version(self.version, entry.version)


def verify(store: ObjectStore, wanted: Sequence[Wanted] = ()) -> Report:
    """Read the bundles that are ``wanted`` from the store, with all their objects, and report every issue.

    Without ``wanted`` it is everything in the store: also the wheels that no bundle names, and what belongs to
    nothing. Bundles that are published or removed meanwhile are no issue. Raises NotPublished when there is nothing
    of what is wanted, and StorageError.
    """
    look = _Look(store)
    for each in wanted:
        look.add_folders(each)
    if not wanted:
        look.add_everything()
    return look.report()


@dataclass(frozen=True)
class _Expected:
    """What an object should be."""

    sha256: str
    size_bytes: int | None
    bundle: Entry | None = None
    """The bundle whose removal explains that the object is gone."""


@dataclass
class _Look:
    """One verification."""

    store: ObjectStore
    issues: list[Issue] = field(default_factory=list)
    folders: dict[Entry, dict[str, StoredObject]] = field(default_factory=dict)
    expected: dict[str, _Expected] = field(default_factory=dict)
    read_bytes: list[int] = field(default_factory=list)

    def add_folders(self, wanted: Wanted) -> None:
        """Take in the folders of some bundles."""
        found = self._folders(folder_of(wanted.name))
        matching = {entry: objects for entry, objects in found.items() if wanted.matches(entry)}
        if not matching:
            raise not_published(self.store, wanted.name, wanted.version)
        self.folders |= matching

    def add_everything(self) -> None:
        """Take in all bundles and all wheels."""
        self.folders |= self._folders(BUNDLES)
        for path in self.store.paths(WHEELS):
            found = _WHEEL.fullmatch(path)
            if found is None:
                self._tell(path, "is not a wheel under its own sha256")
            else:
                self.expected[path] = _Expected(found["sha256"], None)

    def _folders(self, prefix: str) -> dict[Entry, dict[str, StoredObject]]:
        folders: dict[Entry, dict[str, StoredObject]] = {}
        for each in self.store.objects(prefix):
            found = place(each.path)
            if found is None:
                self._tell(each.path, "does not belong to any bundle")
            else:
                entry, name = found
                folders.setdefault(entry, {})[name] = each
        return folders

    def report(self) -> Report:
        """Read everything that was taken in."""
        with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="verify") as pool:
            complete = [entry for entry, objects in self.folders.items() if MANIFEST in objects]
            bundles = list(pool.map(self._manifest, complete))
            for entry, bundle in zip(complete, bundles, strict=True):
                if bundle is not None:
                    self._expect(entry, bundle)
            self._tell_incomplete()
            list(pool.map(self._content, self.expected.items()))
        issues = sorted(set(self.issues), key=lambda issue: (issue.object, issue.issue))
        objects = len(complete) + len(self.expected)
        return Report(len(complete), objects, sum(self.read_bytes), tuple(issues))

    def _manifest(self, entry: Entry) -> Bundle | None:
        try:
            return read(self.store, entry)
        except BrokenBundle as error:
            for issue in error.issues:
                self._tell(entry.manifest, issue)
        except FileNotFoundError:  # removed since it was listed
            pass
        return None

    def _expect(self, entry: Entry, bundle: Bundle) -> None:
        """Note what the objects of a sound description should be, and tell of those it does not name."""
        for wheel in bundle.wheels:
            self.expected[stored_wheel(wheel)] = _Expected(wheel.sha256, wheel.size_bytes, entry)
        for file in bundle.files:
            self.expected[f"{entry.folder}/{file.path}"] = _Expected(file.sha256, file.size_bytes, entry)
        named = {MANIFEST, *(file.path for file in bundle.files)}
        for name in self.folders[entry].keys() - named:
            self._tell(f"{entry.folder}/{name}", "is not named in bundle.json")

    def _tell_incomplete(self) -> None:
        """Tell of folders without a description, unless they are being published just now."""
        incomplete = [entry for entry, objects in self.folders.items() if MANIFEST not in objects]
        if not incomplete:
            return
        published = reservations(self.store, datetime.now(UTC))
        for entry in incomplete:
            if entry.folder not in published and not self.store.size(entry.manifest):
                self._tell(entry.manifest, "is missing, so what is in its folder is no bundle")

    def _content(self, item: tuple[str, _Expected]) -> None:
        path, expected = item
        try:
            sha256, size_bytes = stream_digest(self.store.chunks(path))
        except FileNotFoundError:
            if expected.bundle is not None and self.store.size(expected.bundle.manifest) is not None:
                self._tell(path, "is missing")
            return
        self.read_bytes.append(size_bytes)
        if expected.size_bytes not in {None, size_bytes}:
            self._tell(path, f"has {size_bytes} bytes and not {expected.size_bytes}")
        elif sha256 != expected.sha256:
            self._tell(path, f"has sha256 {sha256} and not {expected.sha256}")

    def _tell(self, path: str, issue: str) -> None:
        self.issues.append(Issue(printable(path), printable(issue)))


def _same_version(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other
