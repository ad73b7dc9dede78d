"""Removes bundles by rule, and what no bundle needs."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from bundles.catalog import Entry, Survey, newest_first, place, survey
from bundles.errors import BrokenBundle
from bundles.layout import BUNDLES, MANIFEST, WHEELS, stored_wheel
from bundles.models import Bundle
from bundles.reservations import FORGOTTEN, RESERVATIONS, SWEEPS, reservations, sweeping
from bundles.store import ObjectStore, StoredObject

_DELETES_AT_ONCE = 8


@dataclass(frozen=True)
class Rules:
    """Which bundles may go. Without any rule all of them stay, and only what no bundle needs is removed."""

    keep: int | None = None
    """How many bundles of each package and target stay in any case, the newest versions first; at least 1."""
    older_than: timedelta | None = None
    """Only bundles that were published longer ago are removed. Without ``keep``, the newest one stays nevertheless."""
    grace: timedelta = timedelta(hours=1)
    """How old a wheel has to be that no bundle names: somebody may be copying a bundle into the store just now."""


@dataclass(frozen=True)
class Collection:
    """What was removed, or would be."""

    bundles: tuple[Bundle, ...]
    objects: tuple[str, ...]
    """All objects, those of the bundles included."""
    freed_bytes: int
    broken: tuple[BrokenBundle, ...]
    """Bundles that cannot be understood. While there are any, no wheel is removed: they may need it."""
    spared: int = 0
    """How many objects stayed because somebody publishes or published something with them meanwhile."""
    unfinished: bool = False
    """Whether time ran out; to repeat is harmless and goes on."""


def collect(store: ObjectStore, rules: Rules, *, now: datetime, dry_run: bool = False) -> Collection:
    """Remove the bundles that the rules let go, the wheels that no bundle names, and what killed publishers left.

    Safe beside publishers and other collectors, see ``bundles.reservations``; after an interruption, repeat. With
    ``dry_run`` nothing is written. ``now`` is compared with the store's clock: a difference between the two should be
    well below ``grace``. Raises StorageError.
    """
    found = survey(store)
    plan = _plan(store, found, rules, now)
    if dry_run or not plan.objects:
        return plan.collection(found.broken)
    return _sweep(store, plan, found, now)


@dataclass(frozen=True)
class _Plan:
    """What is to be removed: whole bundles, and single objects."""

    bundles: tuple[Bundle, ...]
    objects: dict[str, StoredObject]
    """Bundles' descriptions first: without it, what is left of a bundle is not taken for one."""

    def collection(self, broken: tuple[BrokenBundle, ...]) -> Collection:
        freed_bytes = sum(each.size_bytes for each in self.objects.values())
        return Collection(self.bundles, tuple(sorted(self.objects)), freed_bytes, broken)

    def without(self, spared: frozenset[str]) -> "_Plan":
        """Return what is left to remove when wheels and bundles' folders are spared."""
        bundles = tuple(each for each in self.bundles if _entry(each).folder not in spared)
        objects = {path: each for path, each in self.objects.items() if _claimed(path) not in spared}
        return _Plan(bundles, objects)


def _entry(bundle: Bundle) -> Entry:
    return Entry(bundle.name, bundle.version, bundle.id)


def _claimed(path: str) -> str:
    """Return what stands in a claim for an object: its bundle's folder, else itself."""
    found = place(path)
    return path if found is None else found[0].folder


def _plan(store: ObjectStore, found: Survey, rules: Rules, now: datetime) -> _Plan:
    doomed = tuple(_doomed(found.bundles, rules, now))
    folders = {_entry(each).folder for each in doomed}
    objects = [
        *_of_bundles(store, folders, now - rules.grace),
        *([] if found.broken else _wheels(store, found.bundles, doomed, now - rules.grace)),
        *(each for each in store.unfinished() if each.modified < now - rules.grace),
        *(each for each in store.objects(SWEEPS) if now - each.modified > FORGOTTEN),
        *(each for each in store.objects(RESERVATIONS) if now - each.modified > FORGOTTEN),
    ]
    return _Plan(doomed, {each.path: each for each in objects})


def _doomed(bundles: Iterable[Bundle], rules: Rules, now: datetime) -> Iterator[Bundle]:
    if rules.keep is None and rules.older_than is None:
        return
    kept = 1 if rules.keep is None else rules.keep

    def place_of(bundle: Bundle) -> tuple[str, str]:
        return bundle.name, bundle.target.model_dump_json()

    # Stable: inside of each group the order stays that of newest_first.
    for _, group in groupby(sorted(newest_first(bundles), key=place_of), place_of):
        for bundle in list(group)[kept:]:
            if rules.older_than is None or now - bundle.created_at > rules.older_than:
                yield bundle


def _of_bundles(store: ObjectStore, folders: set[str], before: datetime) -> list[StoredObject]:
    """Return the objects in these folders, and those in folders that never became a bundle; descriptions first."""
    grouped: dict[str, list[StoredObject]] = {}
    for each in store.objects(BUNDLES):
        if (found := place(each.path)) is not None:
            grouped.setdefault(found[0].folder, []).append(each)
    chosen = [objects for folder, objects in grouped.items() if folder in folders or _left_over(objects, before)]
    objects = [each for group in chosen for each in group]
    return sorted(objects, key=lambda each: not each.path.endswith(f"/{MANIFEST}"))


def _left_over(objects: Iterable[StoredObject], before: datetime) -> bool:
    return all(not each.path.endswith(f"/{MANIFEST}") and each.modified < before for each in objects)


def _wheels(
    store: ObjectStore, bundles: Iterable[Bundle], doomed: Iterable[Bundle], before: datetime
) -> Iterator[StoredObject]:
    """Yield the wheels that only doomed bundles name, and those that none names once they are old enough."""
    ids = {each.id for each in doomed}
    needed = {stored_wheel(wheel) for each in bundles if each.id not in ids for wheel in each.wheels}
    freed = {stored_wheel(wheel) for each in doomed for wheel in each.wheels}
    for each in store.objects(WHEELS):
        if each.path not in needed and (each.path in freed or each.modified < before):
            yield each


def _sweep(store: ObjectStore, plan: _Plan, found: Survey, now: datetime) -> Collection:
    """Delete what is planned and not spared; see ``bundles.reservations`` for the order of the steps."""
    with sweeping(store, map(_claimed, plan.objects)) as in_time:
        published = reservations(store, now)
        again = survey(store, known={_entry(each): each for each in found.bundles})
        doomed = {_entry(each) for each in plan.bundles}
        needed = {stored_wheel(wheel) for each in again.bundles if _entry(each) not in doomed for wheel in each.wheels}
        # A bundle that is published just now keeps its wheels, also one that the rules would let go.
        kept = {stored_wheel(w) for each in plan.bundles if _entry(each).folder in published for w in each.wheels}
        new = {_entry(each).folder for each in again.bundles} - {_entry(each).folder for each in found.bundles}
        left = plan.without(frozenset(published | needed | kept | new))
        if again.broken:
            left = _Plan(left.bundles, {path: each for path, each in left.objects.items() if not _is_wheel(path)})
        deleted = _delete(store, left, in_time)
    done = _Plan(tuple(each for each in left.bundles if _entry(each).manifest in deleted), deleted)
    collection = done.collection(again.broken)
    return Collection(
        collection.bundles,
        collection.objects,
        collection.freed_bytes,
        collection.broken,
        spared=len(plan.objects) - len(left.objects),
        unfinished=len(deleted) < len(left.objects),
    )


def _is_wheel(path: str) -> bool:
    return path.startswith(f"{WHEELS}/")


def _delete(store: ObjectStore, plan: _Plan, in_time: Callable[[], bool]) -> dict[str, StoredObject]:
    """Delete, the descriptions before everything else, and return what was deleted until time ran out."""

    def delete(each: StoredObject) -> StoredObject | None:
        if not in_time():
            return None
        store.delete(each.path)
        return each

    first = [each for each in plan.objects.values() if each.path.endswith(f"/{MANIFEST}")]
    then = [each for path, each in plan.objects.items() if not path.endswith(f"/{MANIFEST}")]
    with ThreadPoolExecutor(_DELETES_AT_ONCE, thread_name_prefix="collect") as pool:
        deleted = [each for group in (first, then) for each in list(pool.map(delete, group))]
    return {each.path: each for each in deleted if each is not None}
