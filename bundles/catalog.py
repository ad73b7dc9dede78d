"""What the store holds, told from its objects alone."""

from collections.abc import Iterator
from dataclasses import dataclass

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from bundles.errors import BrokenBundle, NotPublished
from bundles.layout import BUNDLES, MANIFEST
from bundles.models import Bundle
from bundles.store import ObjectStore


@dataclass(frozen=True)
class Entry:
    """One published bundle, as far as its place tells."""

    name: str
    version: str
    id: str

    @property
    def manifest(self) -> str:
        """Where its ``bundle.json`` is."""
        return f"{BUNDLES}/{self.name}/{self.version}/{self.id}/{MANIFEST}"


def entries(store: ObjectStore, name: str | None = None) -> Iterator[Entry]:
    """Yield every complete bundle, of one package or of all, in no particular order, without reading any.

    Raises StorageError.
    """
    prefix = BUNDLES if name is None else f"{BUNDLES}/{canonicalize_name(name)}"
    for path in store.paths(prefix):
        parts = path.split("/")
        if len(parts) == len((BUNDLES, "name", "version", "id", MANIFEST)) and parts[-1] == MANIFEST:
            yield Entry(*parts[1:-1])


def read(store: ObjectStore, entry: Entry) -> Bundle:
    """Return a bundle's description. Raises BrokenBundle, StorageError, or FileNotFoundError."""
    try:
        bundle = Bundle.model_validate_json(store.read(entry.manifest))
    except ValidationError as error:
        issues = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors(include_url=False)]
        raise BrokenBundle(entry.manifest, issues) from error
    if (bundle.name, bundle.version, bundle.id) != (entry.name, entry.version, entry.id):
        found = f"{bundle.name}/{bundle.version}/{bundle.id}"
        raise BrokenBundle(entry.manifest, [f"it describes another bundle: {found}"])
    return bundle


def published(store: ObjectStore) -> Iterator[Bundle]:
    """Yield every published bundle, by name, then newest version first, then newest first.

    Reads them all. Raises BrokenBundle or StorageError; one that is removed meanwhile is left out.
    """
    groups: dict[tuple[str, Version], list[Entry]] = {}
    for entry in entries(store):
        groups.setdefault((entry.name, _version(entry)), []).append(entry)
    # Two stable sorts, since a version cannot be negated.
    ordered = sorted(groups, key=lambda group: group[1], reverse=True)
    for group in sorted(ordered, key=lambda group: group[0]):
        yield from _newest_first(store, groups[group])


def find(store: ObjectStore, name: str, version: str | None = None) -> Bundle:
    """Return the bundle of that version, else of the newest version (PEP 440); the newest one if several.

    As with pip, a pre-release is the newest only when there is nothing else. Raises NotPublished,
    BrokenBundle or StorageError.
    """
    candidates = list(entries(store, name))
    try:
        wanted = None if version is None else Version(version)
    except InvalidVersion:
        raise NotPublished(name, version) from None
    if wanted is None:
        wanted = _newest([_version(entry) for entry in candidates])
    matching = [entry for entry in candidates if _version(entry) == wanted]
    for bundle in _newest_first(store, matching):
        return bundle
    raise NotPublished(name, version)


def _newest(versions: list[Version]) -> Version | None:
    final = [version for version in versions if not version.is_prerelease]
    return max(final or versions, default=None)


def _newest_first(store: ObjectStore, same_version: list[Entry]) -> list[Bundle]:
    bundles = []
    for entry in same_version:
        try:
            bundles.append(read(store, entry))
        except FileNotFoundError:
            continue
    return sorted(bundles, key=lambda bundle: bundle.created_at, reverse=True)


def _version(entry: Entry) -> Version:
    try:
        return Version(entry.version)
    except InvalidVersion:
        raise BrokenBundle(entry.manifest, [f"{entry.version!r} is not a version"]) from None
