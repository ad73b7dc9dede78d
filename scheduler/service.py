"""The scheduler as a service."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from config.settings import Settings
from jobs.connection import connect
from jobs.queue import celery_app, length, publish
from jobs.store import StatusStore
from scheduler.loop import Broker, Loop


@contextmanager
def loop_for(settings: Settings) -> Iterator[Loop]:
    """Connect a loop to the Redis of ``settings``. Raises ``StatusUnavailable`` when it does not answer."""
    redis = connect(settings.redis)
    app = celery_app(settings.redis)
    try:
        store = StatusStore(redis, history_seconds=settings.history_seconds)
        store.ping()
        broker = Broker(
            publish=lambda message, _priority: publish(app, message), waiting=lambda _priority: length(redis)
        )
        yield Loop(store, broker, settings.lease_seconds, time.monotonic)
    finally:
        app.close()
        redis.close()


def run(settings: Settings, stop: threading.Event, *, started: Callable[[], None] = lambda: None) -> None:
    """Serve until ``stop`` is set. Raises ``StatusUnavailable`` when Redis does not answer at the start."""
    with loop_for(settings) as loop:
        started()
        loop.run(stop)
