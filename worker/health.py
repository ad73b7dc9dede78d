"""How an agent is, and what it counts: what its main process shows on ``api.port``.

Live is a process whose main loop turns. While Redis is away Celery's loop waits for it, which is no fault of the
process, so that the loop has to turn only while Redis answers. Ready is one that takes jobs.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from celery import bootsteps
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import Settings
from jobs.actuator import Actuator, Component, Components, Remembered, Status, down, up
from jobs.connection import connect
from jobs.metrics import Totals
from jobs.metrics_text import Reading, render
from jobs.traffic import conditions
from worker.gateway.process import GatewayProcess
from worker.gateway.upstream import traffic_name

_ANSWER_SECONDS = 0.7
_BEAT_SECONDS = 1.0
_TAKING_WITHIN_SECONDS = 5.0
_LIVE_WITHIN_SECONDS = 90.0
"""Celery may wait half a minute before it tries again to reach a Redis that came back."""
_STATES = ("closed", "open", "half_open")


class ConsumerWatch:
    """Whether Celery's consumer takes messages, told by its own loop once a second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taking = False
        self._beat_at = time.monotonic()

    @property
    def silent_seconds(self) -> float:
        """Since when the loop has said nothing."""
        with self._lock:
            return time.monotonic() - self._beat_at

    @property
    def taking(self) -> bool:
        """Whether it is connected, listens to its queues, and turns."""
        return self._taking and self.silent_seconds < _TAKING_WITHIN_SECONDS

    def begin(self) -> None:
        """Note that the consumer has begun to take messages."""
        self._taking = True
        self.beat()

    def beat(self) -> None:
        """Note that the loop has turned."""
        with self._lock:
            self._beat_at = time.monotonic()

    def end(self) -> None:
        """Note that the consumer has stopped, or lost its connection."""
        self._taking = False

    def step(self) -> type[bootsteps.StartStopStep]:
        """Return the part that tells, for Celery to start and stop along with the consumer."""
        watch = self

        class Beat(bootsteps.StartStopStep):  # type: ignore[misc,unused-ignore]  # Celery's class is untyped
            requires = ("celery.worker.consumer.tasks:Tasks",)

            def __init__(self, parent: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as Celery calls it
                super().__init__(parent, **kwargs)
                self._entry: Any = None

            def start(self, parent: Any) -> None:  # noqa: ANN401
                watch.begin()
                self._entry = parent.timer.call_repeatedly(_BEAT_SECONDS, watch.beat)

            def stop(self, parent: Any) -> None:  # noqa: ANN401, ARG002
                watch.end()
                if self._entry is not None:
                    self._entry.cancel()
                    self._entry = None

        return Beat


@dataclass(frozen=True)
class _Seen:
    """What Redis told of this agent."""

    sums: Mapping[str, float]
    breakers: Mapping[str, str]
    """The state of each index by its name."""


class AgentHealth:
    """What an agent shows. Made in the main process; nothing of it is used by children."""

    def __init__(
        self,
        settings: Settings,
        *,
        gateway: GatewayProcess,
        consumer: ConsumerWatch,
        running: Callable[[], Sequence[str]],
        stopping: Callable[[], bool],
    ) -> None:
        """Made after the indexes were validated. ``running`` and ``stopping`` are as for ``Announcement``."""
        self._settings = settings
        self._gateway = gateway
        self._consumer = consumer
        self._running = running
        self._stopping = stopping
        redis = connect(settings.redis, timeout_seconds=_ANSWER_SECONDS)
        redis.set_retry(Retry(NoBackoff(), 1))
        self._redis = redis
        self._totals = Totals(redis, settings.nickname, prefix=settings.redis.prefix)
        self._seen = Remembered(self._look)
        self._away_at = time.monotonic()

    def actuator(self) -> Actuator:
        """Return what is served."""
        return Actuator(self._health, self._liveness, self._readiness, self._metrics)

    def _look(self) -> _Seen:
        """Ask Redis, in two round trips."""
        try:
            sums = self._totals.all()
            names = [traffic_name(index) for index in self._settings.indexes]
            states = [each.state for each in conditions(self._redis, self._settings.redis.prefix, names)]
        except BaseException:
            self._away_at = time.monotonic()
            raise
        return _Seen(sums, dict(zip((index.name for index in self._settings.indexes), states, strict=True)))

    def _liveness(self) -> Components:
        self._seen.look()
        silent_seconds = self._consumer.silent_seconds
        # A drain may take long, and a Redis that is away longer.
        excused = self._stopping() or time.monotonic() - self._away_at < _LIVE_WITHIN_SECONDS
        if silent_seconds < _LIVE_WITHIN_SECONDS or excused or self._seen.last() is None:
            return {"livenessState": up()}
        return {"livenessState": down("the main loop does not turn", seconds=round(silent_seconds))}

    def _readiness(self) -> Components:
        seen = self._seen.now()
        return {
            "redis": up() if seen else down("Redis does not answer within a second"),
            "indexes": self._indexes(seen),
            "consumer": self._taking(),
            "gateway": up() if self._gateway.pid else down("the index gateway is being started again"),
        }

    def _health(self) -> Components:
        return {**self._readiness(), "diskSpace": self._disk()}

    def _indexes(self, seen: _Seen | None) -> Component:
        """Tell which were validated at the start; without that, there would be no process to ask."""
        skipped = [index.name for index in self._settings.indexes if index.skip_validate_connectivity]
        validated = [index.name for index in self._settings.indexes if index.name not in skipped]
        states = seen.breakers if seen else {}
        return up(
            validated=validated,
            notValidated=skipped,
            down=[name for name, state in states.items() if state != "closed"],
        )

    def _taking(self) -> Component:
        if self._stopping():
            return Component(Status.OUT_OF_SERVICE, {"reason": "the agent stops: it takes no more jobs"})
        if not self._consumer.taking:
            return Component(Status.OUT_OF_SERVICE, {"reason": "the consumer is not connected to its queues"})
        return up(running=len(self._running()), concurrency=self._settings.concurrency)

    def _disk(self) -> Component:
        threshold = self._settings.min_free_space_bytes
        free = dict(self._free())
        status = Status.UP if free.get("temporary", 0) >= threshold else Status.DOWN
        return Component(status, {"threshold": threshold, "free": free})

    def _free(self) -> Iterator[tuple[str, int]]:
        places = {"temporary": self._settings.temporary_directory, "cache": self._settings.cache.directory}
        for place, directory in places.items():
            free = _free_bytes(directory)
            if free is not None:
                yield place, free

    def _metrics(self) -> bytes:
        now = self._seen.now()
        return render(self._sums(now or self._seen.last()), self._readings(now), "agent")

    @staticmethod
    def _sums(seen: _Seen | None) -> Mapping[str, float]:
        return seen.sums if seen else {}

    def _readings(self, seen: _Seen | None) -> Iterator[Reading]:
        settings = self._settings
        yield Reading("vizfetch_redis_up", seen is not None)
        yield Reading("vizfetch_agent_info", 1, (settings.nickname, version("vizfetch")))
        yield Reading("vizfetch_running_jobs", len(self._running()))
        yield Reading("vizfetch_concurrency", settings.concurrency)
        yield Reading("vizfetch_min_free_bytes", settings.min_free_space_bytes)
        for place, free in self._free():
            yield Reading("vizfetch_free_bytes", free, (place,))
        for index, now in (seen.breakers if seen else {}).items():
            for state in _STATES:
                yield Reading("vizfetch_index_breaker", now == state, (index, state))


def _free_bytes(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None
