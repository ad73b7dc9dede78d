"""The Celery app: how a message that an attempt may be claimed gets from the scheduler to a worker.

Messages are hints. Losing one, delivering one twice, or delivering one late changes nothing: the job's hash is the
truth, and the scheduler publishes again what is still queued. So messages are acknowledged early, and no result, retry
or ETA of Celery's is used.

There is a queue for each target environment, and one for each index that jobs are pinned to. A worker listens to those
that it can serve: see ``queue_for`` and ``queues_of``.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError
from kombu.transport.redis import Channel
from redis import Redis

from config import tracing
from config.redis_url import Sentinels
from config.settings import IndexSettings, RedisSettings, Target
from jobs.connection import (
    ANSWER_TIMEOUT_SECONDS,
    CONNECT_TIMEOUT_SECONDS,
    said,
    sentinel_options,
    tls_options,
    uses_tls,
)
from jobs.models import FetchMessage, JobSpec, Priority
from jobs.store import StatusUnavailable
from jobs.transport import SENTINEL_TRANSPORT, TASK, TRANSPORT, register_transports

__all__ = ["TASK", "celery_app", "declare", "instrument", "lengths", "publish", "queue_for", "queues_of"]

_STEPS = {Priority.HIGH: 0, Priority.NORMAL: 3, Priority.LOW: 6}
"""What kombu calls them: its Redis transport serves the smallest number first."""

_CONFIG = {
    "task_acks_late": False,
    "task_ignore_result": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_hijack_root_logger": False,
    # A child in the place of another gets so long to prepare before it is killed. The default is 4 s, too little for
    # several at once on a machine with much to do.
    "worker_proc_alive_timeout": 60.0,
    "worker_send_task_events": False,
    # Its answers cost seconds and are wrong as a sign of life: workers announce themselves (``jobs.agents``).
    "worker_enable_remote_control": False,
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    # The scheduler's loop publishes again anyway, so a failed publication may be given up soon.
    "task_publish_retry_policy": {
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 0.2,
    },
}


def celery_app(settings: RedisSettings) -> Celery:
    """Return the app for one process: the scheduler publishes through it, the worker registers its task on it."""
    register_transports()
    app = Celery("vizfetch", set_as_current=False)
    app.conf.update(_CONFIG | _broker(settings))
    return app


def instrument(app: Celery) -> None:
    """Trace what ``app`` publishes, if this process sends traces.

    Celery's instrumentation looks for a task by its name in the default app, and never ends the span of a message whose
    task it does not find.
    """
    if tracing.active():
        app.set_default()
        app.task(name=TASK)(_elsewhere)
        tracing.instrument_celery()


def _elsewhere(**_: object) -> None:
    """Stand for the task of the workers."""


def queue_for(spec: JobSpec) -> str:
    """Return the queue of the workers that can run ``spec``."""
    return _queue(spec.target, spec.index, spec.index_url)


def queues_of(target: Target, indexes: Iterable[IndexSettings]) -> tuple[str, ...]:
    """Return the queues that a worker with this target and these indexes can serve.

    A job pinned to an index by somebody who has it configured himself means the index of that name and address; pinned
    by name alone, it means whatever the agent calls so.
    """
    pinned = ((index.name, url) for index in indexes for url in (None, index.url))
    return (_queue(target, None, None), *(_queue(target, name, url) for name, url in pinned))


def declare(queues: Iterable[str]) -> list[Queue]:
    """Return queues as kombu knows them, with the nameless exchange.

    What is sent to that goes straight to the queue: there is no binding that a flush of Redis could lose, or that
    could not be written when Redis refuses.
    """
    return [Queue(name) for name in queues]


def publish(app: Celery, message: FetchMessage, queue: str, priority: Priority = Priority.NORMAL) -> None:
    """Publish a message; raises ``StatusUnavailable`` when the broker does not take it. Harmless to repeat."""
    try:
        app.send_task(
            TASK,
            kwargs=message.model_dump(by_alias=True),
            queue=declare([queue])[0],  # type: ignore[arg-type]  # the stubs do not know that it is taken
            priority=_STEPS[priority],
        )
    except OperationalError as error:
        raise StatusUnavailable(f"Redis as broker: {said(error)}") from error


def lengths(redis: Redis, prefix: str, queues: Iterable[str], priority: Priority) -> Mapping[str, int]:
    """Return how many messages of a priority wait in each queue. Raises what redis-py raises."""
    names = list(queues)
    # kombu keeps a list for each step of priority; the first has the queue's plain name.
    step = f"{Channel.sep}{_STEPS[priority]}" if _STEPS[priority] else ""
    with redis.pipeline(transaction=False) as pipe:
        for name in names:
            pipe.llen(f"{prefix}:celery:{name}{step}")
        return dict(zip(names, map(int, pipe.execute()), strict=True))


def _queue(target: Target, index: str | None, url: str | None) -> str:
    # Without its glibc: wheels are chosen and checked by tags, whatever the agent itself has.
    place = f"fetch:{target.python}:{target.architecture}"
    if index is None:
        return place
    digest = "" if url is None else f"@{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:12]}"
    return f"{place}:{index}{digest}"


def _broker(settings: RedisSettings) -> dict[str, Any]:
    url = settings.url.get_secret_value()
    options: dict[str, Any] = {
        "global_keyprefix": f"{settings.prefix}:celery:",
        "priority_steps": sorted(_STEPS.values()),
        # Who took which message is not kept in Redis: the message is a hint, and a Redis that refuses writes (out of
        # memory) would end the worker that took one.
        "ack_emulation": False,
        "socket_timeout": ANSWER_TIMEOUT_SECONDS,
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "health_check_interval": 10,
    }
    found: dict[str, Any] = {"broker_url": url, "broker_transport": TRANSPORT}
    if sentinels := Sentinels.of(url):
        own = sentinel_options(sentinels) | ({"ssl": True} if sentinels.ssl else {})
        own |= tls_options(settings)
        options |= {"master_name": sentinels.service, "sentinel_kwargs": own}
        found = {"broker_url": sentinels.each_url(), "broker_transport": SENTINEL_TRANSPORT}
    elif url.startswith("unix://"):
        # kombu's own form for a Unix socket.
        found = {"broker_url": f"{TRANSPORT}+socket://{url.removeprefix('unix://')}"}
    if uses_tls(url):
        found["broker_use_ssl"] = {"ssl_cert_reqs": "required", **tls_options(settings)}
        found["broker_url"] = found["broker_url"].partition("?")[0]  # kombu reads fewer options there than redis-py
    return found | {"broker_transport_options": options}
