from collections.abc import Iterator

import pytest
from redis import Redis

from config.settings import RedisSettings, Target
from jobs.models import JobSpec
from jobs.store import StatusStore
from tests.scheduler.api.service import TOKEN, Api, deployment_for, serving
from tests.support.valkey import valkey


@pytest.fixture(scope="session")
def redis_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSettings]:
    """A Valkey for these tests alone: the schedulers below would take part in what other tests do with theirs."""
    with valkey(tmp_path_factory.mktemp("valkey")) as settings:
        yield settings


@pytest.fixture(scope="session")
def _open_api(redis_settings: RedisSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(deployment_for(redis_settings, tmp_path_factory.mktemp("api"))) as api:
        yield api


@pytest.fixture(scope="session")
def _closed_api(redis_settings: RedisSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    directory = tmp_path_factory.mktemp("api")
    with serving(deployment_for(redis_settings, directory, TOKEN), token=TOKEN) as api:
        yield api


@pytest.fixture
def api(_open_api: Api, redis: Redis) -> Api:
    """The API without a token, of a scheduler that serves all tests, on an empty Redis."""
    assert redis.dbsize() <= 2  # what the scheduler itself may write at any moment, also that all is gone
    return _open_api


@pytest.fixture
def closed_api(_closed_api: Api, redis: Redis) -> Api:
    """The same with a token."""
    assert redis.dbsize() <= 2
    return _closed_api


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    return StatusStore(redis)


@pytest.fixture
def batch(store: StatusStore) -> str:
    """A batch of 25 jobs, in no order of their names."""
    numbers = [number * 7 % 25 for number in range(25)]
    store.enqueue("b-1", [JobSpec(requirement=f"acme-{number:02}", target=Target()) for number in numbers])
    return "b-1"
