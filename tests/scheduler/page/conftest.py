from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from bundles.layout import bundle_folder
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import open_store
from config.settings import RedisSettings, StorageSettings, Target
from jobs.catalog import Catalog, catalog_entry
from jobs.errors import ErrorKind
from jobs.models import JobError, JobSpec, Timings
from jobs.store import StatusStore
from tests.bundles.factory import bundled
from tests.scheduler.api.service import TOKEN, Api, deployment_for, serving
from tests.support.valkey import valkey
from tests.support.wheels import build_wheel, spec

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}\"'"
"""What a package may say of itself, and a log may hold."""


@dataclass(frozen=True)
class Shown:
    """What is in Redis and the store."""

    batch: str
    failed: str
    """The id of a job that has failed."""
    bundle: Bundle


@pytest.fixture(scope="module")
def redis_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSettings]:
    """A Valkey for these tests alone: the schedulers below would take part in what other tests do with theirs."""
    with valkey(tmp_path_factory.mktemp("valkey")) as settings:
        yield settings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def _closed_site(redis_settings: RedisSettings, place: Path) -> Iterator[Api]:
    with serving(deployment_for(redis_settings, place, TOKEN), token=TOKEN) as api:
        yield api


@pytest.fixture
def site(_closed_site: Api, redis: Redis) -> Api:
    """Where the token is asked for, on an empty Redis; called without one."""
    assert redis.ping()
    return Api(_closed_site.url, _closed_site.scheduler)


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    return StatusStore(redis)


@pytest.fixture
def shown(store: StatusStore, redis: Redis, place: Path, tmp_path: Path) -> Shown:
    """A batch of three jobs, of which one has failed, and a published bundle, all of which try to be markup."""
    requirements = ("acme-charts", "acme-maps", "acme-plain")
    specs = [JobSpec(requirement=each, target=Target(), max_attempts=1) for each in requirements]
    store.enqueue("b-1", specs)
    # Not by way of what is due: that the site's own loop may take first.
    job = specs[0].id("b-1")
    found = store.claim(job, 1, "agent-1", 60)
    assert found
    error = JobError(kind=ErrorKind.CONNECTION, retryable=True, index="pypi[0]", message=f"It broke: {EVIL}")
    assert store.finish_failed(found[0], error, Timings(queued=0.5, download=2.0), ["Collecting", EVIL])
    return Shown("b-1", job, publish_evil(redis, place, tmp_path))


def publish_evil(redis: Redis, place: Path, directory: Path) -> Bundle:
    described = spec(
        "bars", displayName=f"Bars {EVIL}", description=f"Shows {EVIL}", options=[{"top": {"description": EVIL}}]
    )
    files = {"acme_charts/specs/bars.yml": described}
    build_wheel(directory / "made", "acme-charts", "1.0", visualizations=["bars", "pie"], files=files)
    return publish_made(redis, place, directory / "made")


def publish_made(redis: Redis, place: Path, folder: Path) -> Bundle:
    """Publish what was made of acme-charts, as all that there is."""
    objects = open_store(StorageSettings(uri=(place / "store").as_uri()))
    bundle = publish(objects, bundled(folder, "acme-charts"), folder).bundle
    Catalog(redis).replace(frozenset(), [catalog_entry(bundle, objects.uri(bundle_folder(bundle)))])
    return bundle
