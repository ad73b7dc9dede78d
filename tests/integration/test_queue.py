"""What may lie in the queue: a worker takes what is ours and lives through the rest."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from kombu import Message
from redis import Redis
from structlog.testing import capture_logs

from config.settings import RedisSettings, Target
from jobs.models import FetchMessage, JobSpec, Priority
from jobs.queue import celery_app, declare, lengths, publish, queue_for, queues_of
from jobs.store import StatusStore
from jobs.transport import TASK, NotOurs, read
from tests.integration.services import READY, submit
from tests.support.command import Deployment, eventually

QUEUE = queue_for(JobSpec(requirement="x", target=Target()))
KEY = f"vizfetch:celery:{QUEUE}"
MESSAGE = FetchMessage(job="j-1", attempt=1)


@pytest.fixture
def right(redis: Redis, redis_settings: RedisSettings) -> dict[str, Any]:
    """A message as Celery writes it."""
    app = celery_app(redis_settings)
    publish(app, MESSAGE, QUEUE, Priority.HIGH)
    app.close()
    found: dict[str, Any] = json.loads(str(redis.rpop(KEY)))
    return found


def changed(message: Mapping[str, Any], place: str, value: object) -> bytes:
    copy: Any = json.loads(json.dumps(message))
    part = copy
    *path, last = place.split("/")
    for name in path:
        part = part[name]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return json.dumps(copy).encode()


def body(*parts: object) -> str:
    return base64.b64encode(json.dumps(parts).encode()).decode()


PARTS: list[object] = [[], {"version": 1, "job": "j-1", "attempt": 1}, {}]
WRONG: list[tuple[str, object]] = [
    ("headers/task", "os.system"),
    ("headers/task", None),
    ("headers", None),
    ("headers", []),
    ("headers/id", None),
    ("headers/eta", "2030-01-01T00:00:00"),
    ("headers/expires", "soon"),
    ("headers/timelimit", [1, 1]),
    ("headers/compression", "application/x-bz2"),
    ("properties", None),
    ("properties/delivery_tag", None),
    ("properties/delivery_info", None),
    ("properties/delivery_info", {}),
    ("properties/body_encoding", "rot13"),
    ("content-type", "application/x-python-serialize"),
    ("content-type", "application/x-yaml"),
    ("content-encoding", "binary"),
    ("body", "not base64 !"),
    ("body", base64.b64encode(b"\xff\xfe").decode()),
    ("body", body()),
    ("body", body(1, 2, 3)),
    ("body", body([], {}, {})),
    ("body", body([1], PARTS[1], {})),
    ("body", body([], {"version": 2, "job": "j-1", "attempt": 1}, {})),
    ("body", body([], {"version": 1, "job": "j-1", "attempt": 1, "extra": 1}, {})),
    ("body", body([], {"version": 1, "job": 1, "attempt": "x"}, {})),
    ("body", {"job": "j-1"}),
]
RAW = [b"", b"x", b"\xff\x00", b"null", b"[1]", b'"text"', b"5", b"{}", b"{" * 5000, b"[" * 60_000, b" " * 70_000]


def test_what_the_scheduler_publishes_is_ours(right: dict[str, Any]) -> None:
    assert read(json.dumps(right).encode()) == MESSAGE


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_what_differs_in_one_point_is_not(right: dict[str, Any], place: str, value: object) -> None:
    with pytest.raises(NotOurs):
        read(changed(right, place, value))


@pytest.mark.parametrize("raw", RAW)
def test_what_is_no_message_at_all_is_not(raw: bytes) -> None:
    with pytest.raises(NotOurs):
        read(raw)


def test_a_worker_drops_all_of_it_with_a_reason_and_goes_on(
    deployment: Deployment, store: StatusStore, redis: Redis, right: dict[str, Any], redis_settings: RedisSettings
) -> None:
    garbage = [*RAW, *(changed(right, place, value) for place, value in WRONG)]
    with deployment.service("scheduler"), deployment.service("worker") as worker:
        worker.wait_for(READY)
        pid = worker.process.pid
        for entry in garbage:
            redis.lpush(KEY, entry)
        redis.lpush(KEY, json.dumps(right))  # of a job that does not exist
        batch = submit(deployment, "acme-charts==1.0")
        eventually(lambda: store.batch(batch).finished, explain=worker.log.read_text)
        assert store.batch(batch).succeeded
        eventually(lambda: lengths(redis, redis_settings.prefix, [QUEUE], Priority.HIGH)[QUEUE] == 0)
        assert worker.process.poll() is None
        assert worker.process.pid == pid
    log = worker.log.read_text()
    assert log.count("message_refused") == len(garbage)
    assert "Traceback" not in log


def test_a_pinned_job_has_a_queue_of_its_own() -> None:
    target = Target()
    deployments = [
        queue_for(JobSpec(requirement="x", target=target)),
        queue_for(JobSpec(requirement="x", target=Target(python="3.12"))),
        queue_for(JobSpec(requirement="x", target=target, index="pypi[0]")),
        queue_for(JobSpec(requirement="x", target=target, index="pypi[0]", index_url="https://a/simple")),
        queue_for(JobSpec(requirement="x", target=target, index="pypi[0]", index_url="https://b/simple")),
    ]
    assert len(set(deployments)) == 5
    assert queue_for(JobSpec(requirement="x", target=Target(glibc="2.28"))) == deployments[0]
    assert queues_of(target, ()) == (deployments[0],)
    assert TASK == "vizfetch.fetch"


def test_what_redis_does_not_take_back_is_left_without_a_file(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kombu would write what a worker has taken and not begun into a temporary file when it stops."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    app = celery_app(redis_settings)
    publish(app, MESSAGE, QUEUE)
    try:
        with capture_logs() as logged, app.connection_for_read() as connection:
            connection.Consumer(declare([QUEUE]), callbacks=[lambda *_: None], auto_declare=False).consume()
            connection.drain_events(timeout=5)
            redis.config_set("maxmemory", "1")
    finally:
        redis.config_set("maxmemory", "0")
        app.close()
    assert lengths(redis, redis_settings.prefix, [QUEUE], Priority.NORMAL)[QUEUE] == 0
    assert list(tmp_path.iterdir()) == []
    assert [(entry["event"], entry["count"]) for entry in logged] == [("messages_not_returned", 1)]


def test_what_a_worker_has_not_begun_is_given_back(redis: Redis, redis_settings: RedisSettings) -> None:
    app = celery_app(redis_settings)
    publish(app, MESSAGE, QUEUE, Priority.HIGH)
    with app.connection_for_read() as connection:
        connection.Consumer(declare([QUEUE]), callbacks=[lambda *_: None], auto_declare=False).consume()
        connection.drain_events(timeout=5)
        assert lengths(redis, redis_settings.prefix, [QUEUE], Priority.HIGH)[QUEUE] == 0
    app.close()
    assert read(str(redis.rpop(KEY)).encode()) == MESSAGE


def test_a_redis_that_refuses_writes_still_hands_out_messages(redis: Redis, redis_settings: RedisSettings) -> None:
    """kombu would write down who took one, and the worker would end for not being able to."""
    app = celery_app(redis_settings)
    app.conf.task_queues = declare([QUEUE])
    publish(app, MESSAGE, QUEUE)
    taken: list[object] = []

    def take(body: object, message: Message) -> None:
        taken.append(body)
        message.ack()

    redis.config_set("maxmemory", "1")
    try:
        with app.connection_for_read() as connection:
            # As Celery's worker makes it when it starts and when it reconnects.
            consumer = app.amqp.TaskConsumer(connection.default_channel, accept=["json"])
            consumer.register_callback(take)
            consumer.consume()
            connection.drain_events(timeout=5)
    finally:
        redis.config_set("maxmemory", "0")
        app.close()
    assert len(taken) == 1
    assert redis.keys("*_kombu.binding*") == []
