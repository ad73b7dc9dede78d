"""What the store holds, told from its objects alone."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from bundles.digest import bundle_id
from bundles.documents import read_document
from bundles.errors import BrokenBundle, NotPublished
from bundles.layout import BUNDLES, MANIFEST
from bundles.manifest import MAX_MANIFEST_BYTES, incoherences, unseal
from bundles.models import Bundle
from bundles.store import ObjectStore

_READS_AT_ONCE = 8
_DEPTH = 4
"""How many folders an object of a bundle lies in: ``bundles``, name, version and id."""


@dataclass(frozen=True)
class Entry:
    """One published bundle, as far as its place tells."""

    name: str
    version: str
    id: str

    @property
    def folder(self) -> str:
        """Where it is."""
        return f"{BUNDLES}/{self.name}/{self.version}/{self.id}"

    @property
    def manifest(self) -> str:
        """Where its ``bundle.json`` is."""
        return f"{self.folder}/{MANIFEST}"


def entries(store: ObjectStore, name: str | None = None) -> Iterator[Entry]:
    """Yield every complete bundle, of one package or of all, in no particular order, without reading any.

    Raises StorageError.
    """
    prefix = BUNDLES if name is None else folder_of(name)
    for path in store.paths(prefix):
        found = place(path)
        if found is not None and found[1] == MANIFEST:
            yield found[0]


def folder_of(name: str) -> str:
    """Return where all bundles of a package are. Raises NotPublished when no package can be called like that."""
    try:
        return f"{BUNDLES}/{canonicalize_name(name, validate=True)}"
    except InvalidName:
        raise NotPublished(name) from None


def not_published(store: ObjectStore, name: str, version: str | None) -> NotPublished:
    """Return the error to raise; it says more when nothing at all is published."""
    return NotPublished(name, version, nothing_in=None if any(entries(store)) else store.uri(""))


def place(path: str) -> tuple[Entry, str] | None:
    """Return the bundle in whose folder an object is, and its path inside; None when it is in none."""
    parts = path.split("/", _DEPTH)
    if len(parts) <= _DEPTH or parts[0] != BUNDLES or not all(parts):
        return None
    return Entry(*parts[1:_DEPTH]), parts[_DEPTH]


def read(store: ObjectStore, entry: Entry) -> Bundle:
    """Return a bundle's description. Raises BrokenBundle, StorageError, or FileNotFoundError."""
    if _version(entry) is None:
        raise BrokenBundle(entry.manifest, [f"{entry.version!r} is not a version"])
    bundle = unseal(read_document(store, entry.manifest, MAX_MANIFEST_BYTES), entry.manifest)
    if (bundle.name, bundle.version, bundle.id) != (entry.name, entry.version, entry.id):
        found = f"{bundle.name}/{bundle.version}/{bundle.id}"
        raise BrokenBundle(entry.manifest, [f"it describes another bundle: {found}"])
    # The id is a digest of names, hashes and target.
    if bundle.id != bundle_id(bundle.wheels, bundle.target):
        raise BrokenBundle(entry.manifest, ["its wheels are not those of its id"])
    if issues := list(incoherences(bundle)):
        raise BrokenBundle(entry.manifest, issues)
    return bundle


@dataclass(frozen=True)
class Survey:
    """Everything that is published, and what looks like a bundle but cannot be used."""

    bundles: tuple[Bundle, ...]
    """By name, then newest version first, then newest first."""
    broken: tuple[BrokenBundle, ...]


def survey(store: ObjectStore, *, known: Mapping[Entry, Bundle] | None = None) -> Survey:
    """Read all bundles, several at once; one that is removed meanwhile is left out. Raises StorageError.

    Those in ``known`` are not read again.
    """
    remembered = known or {}
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="survey") as pool:
        found = list(pool.map(lambda entry: remembered.get(entry) or _read_or_broken(store, entry), entries(store)))
    bundles = [each for each in found if isinstance(each, Bundle)]
    broken = sorted((each for each in found if isinstance(each, BrokenBundle)), key=lambda error: error.path)
    return Survey(tuple(newest_first(bundles)), tuple(broken))


def newest_first(bundles: Iterable[Bundle]) -> list[Bundle]:
    """Return bundles by name, then newest version first (PEP 440), then newest first."""
    newest = sorted(bundles, key=lambda bundle: (Version(bundle.version), bundle.created_at), reverse=True)
    # The sort is stable.
    return sorted(newest, key=lambda bundle: bundle.name)


def _read_or_broken(store: ObjectStore, entry: Entry) -> Bundle | BrokenBundle | None:
    try:
        return read(store, entry)
    except BrokenBundle as error:
        return error
    except FileNotFoundError:
        return None


def find(store: ObjectStore, name: str, version: str | None = None) -> Bundle:
    """Return the bundle of that version, else of the newest version (PEP 440); the newest one if several.

    As with pip, a pre-release is the newest only when there is nothing else. Raises NotPublished,
    BrokenBundle or StorageError.
    """
    candidates = list(entries(store, name))
    try:
        wanted = None if version is None else Version(version)
    except ValueError:  # no version, or one with a number of thousands of digits
        raise NotPublished(name, version) from None
    if wanted is None:
        wanted = _newest([each for each in map(_version, candidates) if each is not None])
    found = [_read_or_broken(store, entry) for entry in candidates if wanted is not None and _version(entry) == wanted]
    for each in found:
        if isinstance(each, BrokenBundle):
            raise each
    for bundle in newest_first(each for each in found if isinstance(each, Bundle)):
        return bundle
    raise not_published(store, name, version)


def _newest(versions: list[Version]) -> Version | None:
    final = [version for version in versions if not version.is_prerelease]
    return max(final or versions, default=None)


def _version(entry: Entry) -> Version | None:
    """Return a bundle's version; None for what is called otherwise, which ``survey`` and ``verify`` tell of."""
    try:
        return Version(entry.version)
    except InvalidVersion:
        return None
