"""The catalogue: what is published, told by Redis without asking the store.

One key: ``PREFIX:catalog``, a hash of bundles (JSON) by NAME/VERSION/ID, kept until the bundle is collected. The store
is the truth: whoever publishes a bundle adds it here, and everything can be made again from the store.
"""

from collections.abc import Iterable
from typing import cast

from redis import Redis

from bundles.models import Bundle
from jobs.models import CatalogEntry
from jobs.store import PREFIX, translated


class Catalog:
    """The catalogue on one Redis. Every method raises ``StatusUnavailable`` when Redis does not answer."""

    def __init__(self, redis: Redis, *, prefix: str = PREFIX) -> None:
        self._redis = redis
        self._key = f"{prefix}:catalog"

    def entries(self) -> list[CatalogEntry]:
        """Return all entries, by their keys."""
        with translated():
            found = cast("dict[str, str]", self._redis.hgetall(self._key))
        return [CatalogEntry.model_validate_json(found[key]) for key in sorted(found)]

    def keys(self) -> frozenset[str]:
        """Return the keys of all entries."""
        with translated():
            return frozenset(cast("list[str]", self._redis.hkeys(self._key)))

    def replace(self, known: frozenset[str], entries: Iterable[CatalogEntry]) -> None:
        """Hold ``entries``, and none of ``known`` that is not among them.

        ``known`` are the keys from before the store was read, so that what is published meanwhile stays. Idempotent.
        """
        fresh = {entry.key: entry.as_json() for entry in entries}
        with translated(), self._redis.pipeline() as pipe:
            for key, entry in fresh.items():
                pipe.hset(self._key, key, entry)
            if gone := known - fresh.keys():
                pipe.hdel(self._key, *gone)
            pipe.execute()

    def remove(self, keys: Iterable[str]) -> None:
        """Forget entries; harmless when they are not there."""
        if gone := list(keys):
            with translated():
                self._redis.hdel(self._key, *gone)


def catalog_entry(bundle: Bundle, uri: str) -> CatalogEntry:
    """Return what the catalogue knows of a bundle that is published at ``uri``."""
    return CatalogEntry(
        id=bundle.id,
        name=bundle.name,
        version=bundle.version,
        target=bundle.target,
        uri=uri,
        wheels=len(bundle.wheels),
        size_bytes=bundle.size_bytes,
        visualizations=len(bundle.visualizations),
        created_at=bundle.created_at,
    )
