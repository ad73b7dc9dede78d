from collections.abc import Iterator

import pytest
from redis import Redis

from config.settings import RedisSettings
from jobs.connection import connect
from tests.support.seaweed import S3Server, seaweed
from tests.support.valkey import valkey


@pytest.fixture(scope="session")
def redis_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisSettings]:
    with valkey(tmp_path_factory.mktemp("valkey")) as settings:
        yield settings


@pytest.fixture
def redis(redis_settings: RedisSettings) -> Iterator[Redis]:
    """An empty Valkey, emptied again for the next test."""
    client = connect(redis_settings)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server
