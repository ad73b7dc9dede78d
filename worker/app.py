"""The agent as a service: Celery's worker with a gateway beside it."""

import mmap
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import structlog
from billiard.util import get_pdeathsig  # type: ignore[attr-defined]  # the stubs do not know it
from celery import Celery, signals
from celery.apps.worker import Worker
from celery.utils.dispatch.signal import Signal
from celery.worker import state

from bundles.store import open_store
from bundles.visualizations import prepare as prepare_reading
from config.audit import audit_of
from config.settings import Settings
from config.tracing import Tracing, instrument_celery, prepare, tracing_of, tracing_settings
from jobs.actuator import ActuatorServer
from jobs.connection import ANSWER_TIMEOUT_SECONDS, connect
from jobs.memory import Memory
from jobs.metrics import meter_for
from jobs.models import FetchMessage
from jobs.queue import celery_app, declare, queues_of
from jobs.store import StatusStore
from worker.announcement import Announcement
from worker.attempt import Lines, run_attempt
from worker.connectivity import require_services
from worker.directories import sweep_tasks
from worker.fetch import Agent
from worker.gateway.client import GatewayAddress, GatewayClient
from worker.gateway.process import GatewayProcess
from worker.health import AgentHealth, ConsumerWatch
from worker.heartbeat import LeaseKeeper
from worker.memory import Recollections
from worker.pip import PinnedPip, pin
from worker.tasks import register

EXIT_BROKEN = 1
"""The exit code of a worker whose children cannot be set up."""

_JOBS_PER_CHILD = 2000
_CHILD_KIBIBYTES = 512 * 1024
"""A child that has done so many jobs, or has become so large, is replaced after its job, whatever it leaked."""

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - shm_overview(7)

_log = structlog.get_logger()


class SharedFlag:
    """A flag that the main process and its forked children share: one byte of memory. Safe in a signal handler."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def set(self) -> None:
        """Set it, for good."""
        self._memory[0] = 1

    def is_set(self) -> bool:
        """Whether anybody set it."""
        return self._memory[0] == 1


class _Child:
    """What one of Celery's child processes holds. Made after the fork: connections do not survive one."""

    def __init__(
        self,
        settings: Settings,
        gateway: GatewayAddress,
        pip: PinnedPip,
        traces: Tracing,
        stop: SharedFlag,
        *,
        early: bool,
    ) -> None:
        """``early`` is one that has nothing to do yet."""
        self._traces = traces.__enter__()
        instrument_celery()
        self._meter = meter_for(settings.redis, settings.nickname)
        store, audit = open_store(settings.storage), audit_of(settings)
        self._agent = Agent(settings, store, GatewayClient(gateway), pip, self._meter, audit)
        if early and settings.sdists == "never":  # else pip runs in an interpreter of its own
            self._agent.pip_server.start()
        # A line that hangs must be given up while there is still time to renew over another.
        patience_seconds = min(ANSWER_TIMEOUT_SECONDS, settings.lease_seconds / 3)
        memory = Memory(connect(settings.redis), prefix=settings.redis.prefix, kept_seconds=settings.history_seconds)
        self._lines = Lines(
            status=_status(settings),
            leases=LeaseKeeper(_status(settings, patience_seconds), settings.lease_seconds),
            recollections=Recollections(memory, self._agent),
        )
        self._stop = stop

    def run(self, message: FetchMessage) -> None:
        run_attempt(message, self._agent, self._lines, stopping=self._stop.is_set)

    def close(self) -> None:
        """End what was started, bring what was counted and traced to where it is kept; waits three seconds at most."""
        self._agent.pip_server.close()
        self._lines.leases.close()
        self._meter.close()
        self._traces.close()


def serve(
    settings: Settings,
    environment: Mapping[str, str],
    gateway: GatewayProcess,
    listener: socket.socket | None,
    *,
    drain: bool,
) -> int:
    """Work until SIGTERM or SIGINT and return the exit code; part of ``worker.start.run``.

    ``gateway`` may still be starting. Raises ``UnfitServices`` when an index, Redis or the store cannot be used, and
    GatewayRefused.
    """
    require_services(settings, environment)
    pip = pin(settings.cache.directory)
    traces = tracing_settings(environment)
    prepare(traces)
    # Once for all processes that are forked: the second has Celery load a parser of C, for which each takes 0.05 s.
    prepare_reading()
    with suppress(OSError):  # what Celery makes of it, too
        get_pdeathsig()
    with gateway:
        agent = tracing_of(settings, environment, "vizfetch-worker")
        return _serve(settings, gateway, pip, listener, agent, drain=drain)


def _status(settings: Settings, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> StatusStore:
    redis = connect(settings.redis, timeout_seconds=timeout_seconds)
    return StatusStore(redis, prefix=settings.redis.prefix, history_seconds=settings.history_seconds)


def _serve(
    settings: Settings,
    gateway: GatewayProcess,
    pip: PinnedPip,
    listener: socket.socket | None,
    traces: Tracing,
    *,
    drain: bool,
) -> int:
    app = celery_app(settings.redis)
    pool = _Pool(partial(_Child, settings, gateway.address, pip, traces), settings.temporary_directory, drain=drain)
    register(app, pool.run)
    consumer = ConsumerWatch()
    app.steps["consumer"].add(consumer.step())
    stopping = pool.stopping.is_set
    announcement = Announcement(settings, running=_running_jobs, stopping=stopping)
    health = AgentHealth(settings, gateway=gateway, consumer=consumer, running=_running_jobs, stopping=stopping)
    with _connected(pool.receivers()):
        worker = _worker(app, settings)
        with announcement, ActuatorServer(listener, health.actuator()):
            worker.start()
    return EXIT_BROKEN if pool.broken.is_set() else int(worker.exitcode or 0)


class _Pool:
    """What happens in Celery's main process and in its children when they start, stop and are given a job.

    Made in the main process. A child has all of it as it was at the fork; the flags are shared.
    """

    def __init__(self, make_child: Callable[..., _Child], temporary_directory: Path, *, drain: bool) -> None:
        self.stopping, self.broken = SharedFlag(), SharedFlag()
        self._stop_jobs = SharedFlag()
        self._make_child, self._temporary_directory, self._drain = make_child, temporary_directory, drain
        self._main, self._ready = os.getpid(), Event()
        self._child: _Child | None = None

    def receivers(self) -> dict[Signal, Callable[..., None]]:
        """Return what is to be called at which of Celery's signals."""
        return {
            signals.worker_process_init: self._start_child,
            signals.worker_process_shutdown: self._end_child,
            signals.worker_shutting_down: self._begin_stop,
            signals.worker_ready: lambda **_: self._ready.set(),
            signals.setup_logging: _keep_our_logging,
        }

    def run(self, message: FetchMessage) -> None:
        """Run a job in this child."""
        if self._child is None:
            raise RuntimeError("the signal at the start of a child has not come")
        self._child.run(message)

    def _start_child(self, **_: Any) -> None:  # noqa: ANN401 - signals pass whatever their sender has
        _end_without(self._main)
        try:
            sweep_tasks(self._temporary_directory)  # a child may be there in place of one that was killed
            # One that takes the place of another may be needed at once, and may have nothing to fetch.
            self._child = self._make_child(self._stop_jobs, early=not self._ready.is_set())
        except Exception:  # noqa: BLE001 - Celery would go on with a child that fails every job: end the worker
            _log.exception("child_broke")
            self.broken.set()
            os.kill(self._main, signal.SIGTERM)

    def _end_child(self, **_: Any) -> None:  # noqa: ANN401
        if self._child is not None:
            self._child.close()

    def _begin_stop(self, **_: Any) -> None:  # noqa: ANN401
        self.stopping.set()
        if not self._drain:
            self._stop_jobs.set()


def _end_without(main: int) -> None:
    """End this child when its main process is gone.

    Celery has the kernel kill a child whose main process ends (prctl(2), PR_SET_PDEATHSIG), which it does not do where
    that happened before it was asked to: such a child would wait for ever.
    """
    if os.getppid() != main:
        os._exit(EXIT_BROKEN)


def _worker(app: Celery, settings: Settings) -> Worker:
    _share_in_memory()
    queues = queues_of(settings.target, settings.indexes)
    app.conf.task_queues = declare(queues)
    worker: Worker = app.Worker(
        hostname=f"vizfetch@{settings.nickname}",
        pool_cls="prefork",
        pool_start_method="fork",
        concurrency=settings.concurrency,
        queues=queues,
        max_tasks_per_child=_JOBS_PER_CHILD,
        max_memory_per_child=_CHILD_KIBIBYTES,
        optimization="fair",
        without_mingle=True,
        without_gossip=True,
        quiet=True,
        redirect_stdouts=False,
    )
    return worker


def _share_in_memory() -> None:
    """Have Celery's pool make what its processes share where Python's own multiprocessing makes it.

    By default it makes a directory for temporary files, which a worker that is killed leaves behind, and cannot start
    when that disk is full.
    """
    if os.access(_SHARED_MEMORY, os.W_OK | os.X_OK):
        multiprocessing.current_process()._config["tempdir"] = _SHARED_MEMORY  # type: ignore[attr-defined]  # noqa: SLF001 - there is no other way


def _running_jobs() -> list[str]:
    """Return the ids of the jobs at work, as far as the main process knows."""
    while True:
        try:
            return sorted(str(request.kwargs.get("job")) for request in list(state.active_requests))
        except RuntimeError:  # Celery's thread changed the set while this one read it
            continue


def _keep_our_logging(**_: Any) -> None:  # noqa: ANN401
    """Having a receiver for this signal keeps Celery from configuring logging itself."""


@contextmanager
def _connected(receivers: dict[Signal, Callable[..., None]]) -> Iterator[None]:
    for sender, receiver in receivers.items():
        sender.connect(receiver, weak=False)
    try:
        yield
    finally:
        for sender, receiver in receivers.items():
            sender.disconnect(receiver)
