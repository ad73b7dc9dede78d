"""How a scheduler is, and what it shows of the whole deployment.

Every scheduler of a deployment shows the same counters and queues, read from Redis, so that any one of them is enough.
"""

import time
from collections.abc import Iterator

from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import Settings
from jobs.actuator import Actuator, Component, Components, Remembered, Status, down, up
from jobs.census import Census, census
from jobs.connection import connect
from jobs.metrics_text import Reading, render
from scheduler.loop import Loop

_ANSWER_SECONDS = 0.7
_TURNING_WITHIN_SECONDS = 10.0
_LIVE_WITHIN_SECONDS = 90.0
"""A turn that waits for a Redis which swallows everything takes less."""


class SchedulerHealth:
    """What a scheduler shows, from before its loop begins."""

    def __init__(self, settings: Settings) -> None:
        self._redis = connect(settings.redis, timeout_seconds=_ANSWER_SECONDS)
        self._redis.set_retry(Retry(NoBackoff(), 1))
        self._census = Remembered(lambda: census(self._redis, settings.redis.prefix))
        self._loop: Loop | None = None
        self._began = time.monotonic()

    def watch(self, loop: Loop) -> None:
        """Tell of this loop from now on."""
        self._loop = loop

    def actuator(self) -> Actuator:
        """Return what is served."""
        return Actuator(self._readiness, self._liveness, self._readiness, self._metrics)

    def _liveness(self) -> Components:
        age = self._turn_age_seconds()
        if age < _LIVE_WITHIN_SECONDS:
            return {"livenessState": up()}
        return {"livenessState": down("the loop does not turn", seconds=round(age))}

    def _readiness(self) -> Components:
        answered = self._census.now() is not None
        return {"redis": up() if answered else down("Redis does not answer within a second"), "loop": self._turning()}

    def _turning(self) -> Component:
        if self._loop is None:
            return Component(Status.OUT_OF_SERVICE, {"reason": "the loop has not begun"})
        age = self._turn_age_seconds()
        if age < _TURNING_WITHIN_SECONDS:
            return up()
        return Component(Status.OUT_OF_SERVICE, {"reason": "the loop does not turn", "seconds": round(age)})

    def _turn_age_seconds(self) -> float:
        return time.monotonic() - self._began if self._loop is None else self._loop.turn_age_seconds

    def _metrics(self) -> bytes:
        now = self._census.now()
        known = now or self._census.last()
        return render(known.sums() if known else {}, self._readings(now), "scheduler")

    def _readings(self, now: Census | None) -> Iterator[Reading]:
        yield Reading("vizfetch_redis_up", now is not None)
        yield Reading("vizfetch_loop_turn_age_seconds", self._turn_age_seconds())
        if now is not None:
            yield from now.readings()
