"""The scheduler as a service."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import MappingProxyType

from config.audit import audit_of, service
from config.settings import Settings
from config.tracing import tracing_of
from jobs.connection import connect
from jobs.losses import Losses
from jobs.models import JobState
from jobs.queue import celery_app, instrument
from jobs.schedules import Schedules
from jobs.store import StatusStore
from scheduler.health import SchedulerHealth
from scheduler.loop import Broker, Loop
from scheduler.losses import LossWatch
from scheduler.routes import Routes
from scheduler.schedules import run_due


@contextmanager
def loop_for(settings: Settings) -> Iterator[Loop]:
    """Connect a loop to the Redis of ``settings``. Raises ``StatusUnavailable`` when it does not answer."""
    redis = connect(settings.redis)
    app = celery_app(settings.redis)
    instrument(app)
    try:
        store = StatusStore(redis, prefix=settings.redis.prefix, history_seconds=settings.history_seconds)
        store.ping()
        routes = Routes(redis, app, settings.redis, store)
        broker = Broker(publish=routes.publish, waiting=routes.waiting)
        schedules = Schedules(redis, prefix=settings.redis.prefix)
        watch = LossWatch(Losses(redis, settings.redis.prefix))

        audit, actor = audit_of(settings), service(settings, "scheduler")

        def queued(schedule: str, batch: str, jobs: int) -> None:
            audit.record(actor, "schedule_run", "succeeded", schedule=schedule, batch=batch, entries=jobs)

        def lost(job: str, state: JobState) -> None:
            audit.record(actor, "fetch", "worker_lost", job=job, state=state)

        def chores() -> None:
            watch.look()
            run_due(schedules, queued)

        yield Loop(store, broker, settings.lease_seconds, time.monotonic, chores, lost)
    finally:
        app.close()
        redis.close()


def run(
    settings: Settings,
    stop: threading.Event,
    environment: Mapping[str, str] = MappingProxyType({}),
    *,
    started: Callable[[], None] = lambda: None,
) -> None:
    """Serve until ``stop`` is set, the API too; ``environment`` says where traces are sent.

    Raises ``SettingsError`` when the API may not or cannot listen, and ``StatusUnavailable`` when Redis does not answer
    at the start.
    """
    health = SchedulerHealth(settings)
    traces = tracing_of(settings, environment, "vizfetch-scheduler")
    with traces, _api(settings, health), loop_for(settings) as loop:
        health.watch(loop)
        started()
        loop.run(stop)


def _api(settings: Settings, health: SchedulerHealth) -> AbstractContextManager[None]:
    if settings.api.port == 0:
        return nullcontext()
    from scheduler.api.server import serving  # noqa: PLC0415 - whoever serves nothing needs no web server

    return serving(settings, health.actuator())
