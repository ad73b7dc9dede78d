from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from config.settings import RedisSettings
from jobs.store import StatusStore
from tests.integration.packages import PASSWORD, USERNAME, offer_packages
from tests.support.command import Deployment
from tests.support.index_server import Basic, IndexServer


@pytest.fixture
def index(tmp_path: Path) -> Iterator[IndexServer]:
    """A private index with the packages of ``tests.integration.packages``."""
    with IndexServer(auth=Basic(USERNAME, PASSWORD)) as server:
        offer_packages(server, tmp_path / "made")
        yield server


@pytest.fixture
def machine(tmp_path: Path, index: IndexServer) -> Deployment:
    """Settings for one machine and the private index alone."""
    directory = tmp_path / "machine"
    directory.mkdir()
    return Deployment(
        {
            "MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED": "true",
            "MODERNE_AGENT_VISUALIZATION_CACHE_DIRECTORY": str(directory / "cache"),
            "MODERNE_AGENT_VISUALIZATION_TEMPORARYDIRECTORY": str(tmp_path),
            "MODERNE_AGENT_VISUALIZATION_RETRY_MINBACKOFF": "100ms",
            "MODERNE_AGENT_VISUALIZATION_RETRY_MAXBACKOFF": "200ms",
            "MODERNE_AGENT_VISUALIZATION_MINFREESPACE": "1MiB",
            "MODERNE_AGENT_PYPI_0_URL": index.url,
            "MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "3s",
            "MODERNE_AGENT_PYPI_0_USERNAME": USERNAME,
            "MODERNE_AGENT_PYPI_0_PASSWORD": PASSWORD,
        },
        directory,
    )


@pytest.fixture
def deployment(tmp_path: Path, machine: Deployment, redis: Redis, redis_settings: RedisSettings) -> Deployment:
    """Settings for services: the same index, a real Valkey, emptied, and a local directory as the store."""
    assert redis.dbsize() == 0
    services = {
        "MODERNE_AGENT_VISUALIZATION_REDIS_URL": redis_settings.url.get_secret_value(),
        "MODERNE_AGENT_VISUALIZATION_STORAGE_URI": (tmp_path / "store").as_uri(),
        "MODERNE_AGENT_VISUALIZATION_LEASE": "2s",
        "MODERNE_AGENT_VISUALIZATION_API_PORT": "0",
    }
    return Deployment({**machine.variables, **services}, machine.directory)


@pytest.fixture
def store(redis: Redis) -> StatusStore:
    return StatusStore(redis)
