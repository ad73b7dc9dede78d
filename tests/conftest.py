import signal
from collections.abc import Generator, Iterator

import pytest
from redis import Redis

from config.settings import RedisSettings
from jobs.connection import connect
from tests.support.command import MARK
from tests.support.planted import ProcessWatch, files_with_secrets, keys_with_secrets
from tests.support.seaweed import S3Server, seaweed
from tests.support.valkey import valkey

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As in what a shell runs in the background. Commands would inherit it, and tests interrupt them.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _no_planted_secret_is_found_anywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Search all that the tests of this process leave behind, and the processes that they start."""
    with ProcessWatch() as watch:
        yield
    assert sorted(watch.found) == [], "secrets that everybody on the machine could read"
    assert files_with_secrets(tmp_path_factory.getbasetemp()) == [], "secrets in files"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test whose output holds a planted secret."""
    report = yield
    if report.passed and any(MARK in text for name, text in report.sections if "log" not in name):
        report.outcome = "failed"
        report.longrepr = "what this test printed or logged holds a planted secret"
    return report


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
    assert keys_with_secrets(client) == [], "secrets in Redis"
    client.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with seaweed(tmp_path_factory.mktemp("seaweed")) as server:
        yield server
