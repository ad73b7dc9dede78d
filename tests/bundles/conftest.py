from collections.abc import Iterator
from itertools import count

import pytest

from bundles.store import ObjectStore, open_store
from config.settings import StorageSettings
from tests.support.seaweed import S3Server, seaweed

_PREFIXES = count()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> StorageSettings:
    """Settings of an empty store; every test that takes it runs over local files and over S3."""
    if request.param == "file":
        return StorageSettings(uri=f"file://{tmp_path_factory.mktemp('store')}")
    server: S3Server = request.getfixturevalue("s3_server")
    return server.storage(f"prefix-{next(_PREFIXES)}")


@pytest.fixture
def store(storage: StorageSettings) -> ObjectStore:
    return open_store(storage)


@pytest.fixture
def local_store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    return open_store(StorageSettings(uri=f"file://{tmp_path_factory.mktemp('store')}"))
