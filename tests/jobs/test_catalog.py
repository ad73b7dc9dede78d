from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr
from redis import Redis

from config.settings import RedisSettings, Target
from jobs.catalog import Catalog
from jobs.connection import connect
from jobs.models import CatalogEntry, Claim, JobSpec, PublishedBundle, Timings
from jobs.store import StatusStore, StatusUnavailable

MADE = datetime(2026, 1, 2, tzinfo=UTC)


def entry(name: str, version: str = "1.0") -> CatalogEntry:
    return CatalogEntry(
        id="0" * 32,
        name=name,
        version=version,
        target=Target(),
        uri=f"file:///bundles/{name}",
        wheels=3,
        size_bytes=9,
        visualizations=2,
        created_at=MADE,
    )


BUNDLE = PublishedBundle(
    id="abc",
    name="acme-charts",
    version="1.0",
    uri="file:///b",
    wheels=("a.whl", "b.whl"),
    size_bytes=7,
    uploaded_bytes=1,
    visualizations=3,
    created_at=MADE,
)


def claimed(store: StatusStore) -> Claim:
    spec = JobSpec(requirement="acme-charts", target=Target(glibc="2.31"))
    store.enqueue("b-1", [spec])
    found = store.claim(spec.id("b-1"), 1, "agent", 30)
    assert found
    return found[0]


def test_a_published_job_is_in_the_catalogue(redis: Redis) -> None:
    store = StatusStore(redis)
    assert "createdAt" not in BUNDLE.as_document()
    assert store.finish_published(claimed(store), BUNDLE, Timings())
    [found] = Catalog(redis).entries()
    assert (found.key, found.wheels, found.size_bytes, found.created_at) == ("acme-charts/1.0/abc", 2, 7, MADE)
    assert found.target.glibc == "2.31"


def test_what_a_fenced_attempt_brought_to_the_store_is_in_the_catalogue_too(redis: Redis) -> None:
    store = StatusStore(redis)
    claim = claimed(store)
    store.cancel([claim.job])
    assert not store.finish_published(claim, BUNDLE, Timings())
    assert [each.id for each in Catalog(redis).entries()] == ["abc"]
    assert store.job(claim.job).bundle is None


def test_replacing_drops_what_is_gone_and_keeps_what_came_meanwhile(redis: Redis) -> None:
    catalog = Catalog(redis)
    catalog.replace(frozenset(), [entry("a"), entry("b")])
    known = catalog.keys()
    catalog.replace(frozenset(), [entry("meanwhile")])
    newer = entry("a").model_copy(update={"created_at": MADE + timedelta(hours=1)})
    catalog.replace(known, [newer, entry("c")])
    assert catalog.entries() == [newer, entry("c"), entry("meanwhile")]


def test_removing_can_be_repeated(redis: Redis) -> None:
    catalog = Catalog(redis)
    catalog.replace(frozenset(), [entry("a"), entry("b")])
    for _ in range(2):
        catalog.remove([entry("a").key])
    catalog.remove([])
    assert catalog.entries() == [entry("b")]


def test_two_deployments_have_catalogues_of_their_own(redis: Redis) -> None:
    Catalog(redis, prefix="one").replace(frozenset(), [entry("a")])
    assert Catalog(redis, prefix="other").entries() == []


def test_a_redis_that_is_down_is_said_to_be_down() -> None:
    catalog = Catalog(connect(RedisSettings(url=SecretStr("redis://127.0.0.1:1/0"))))
    for ask in (catalog.entries, catalog.keys, lambda: catalog.remove(["a"])):
        with pytest.raises(StatusUnavailable):
            ask()
