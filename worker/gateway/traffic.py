"""What the gateway knows of its indexes: with all workers where Redis answers, by itself where it does not."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from config.settings import RedisSettings
from jobs.connection import connect
from jobs.traffic import LocalTraffic, Outcome, Patience, Permit, SharedTraffic, Traffic, TrafficUnavailable

_TIMEOUT_SECONDS = 1.0
"""For Redis: an index is asked in any case, so there is little to wait for."""
_AWAY_SECONDS = 5.0

_T = TypeVar("_T")
_log = structlog.get_logger()


def traffic(redis: RedisSettings | None, patience: Patience) -> Traffic:
    """Return what the gateway goes by. Without Redis, it goes by what it sees itself."""
    if redis is None:
        return LocalTraffic(patience)
    client = connect(redis, timeout_seconds=_TIMEOUT_SECONDS)
    client.set_retry(Retry(NoBackoff(), 1))  # a connection that was dropped while idle is not Redis being away
    return TrafficWithFallback(SharedTraffic(client, patience, prefix=redis.prefix), LocalTraffic(patience))


class TrafficWithFallback:
    """Asks the shared knowledge, and its own while that is away: Redis must not stop a fetch."""

    def __init__(self, shared: Traffic, local: Traffic) -> None:
        self._shared = shared
        self._local = local
        self._lock = threading.Lock()
        self._away_until = 0.0

    def enter(
        self, index: str, slot: str, *, limit: int | None, lease_seconds: float, may_probe: bool = True
    ) -> Permit:
        """See ``jobs.traffic.Traffic``."""

        def ask(traffic: Traffic) -> Permit:
            return traffic.enter(index, slot, limit=limit, lease_seconds=lease_seconds, may_probe=may_probe)

        return self._ask(lambda: ask(self._shared)) or ask(self._local)

    def leave(
        self,
        index: str,
        slot: str,
        outcome: Outcome,
        *,
        what: str = "",
        wish_seconds: float | None = None,
        at_once: bool = True,
    ) -> None:
        """See ``jobs.traffic.Traffic``."""

        def tell(traffic: Traffic) -> None:
            traffic.leave(index, slot, outcome, what=what, wish_seconds=wish_seconds, at_once=at_once)

        tell(self._local)
        self._ask(lambda: tell(self._shared))

    def _ask(self, question: Callable[[], _T]) -> _T | None:
        if time.monotonic() < self._away_until:
            return None
        try:
            return question()
        except TrafficUnavailable as error:
            with self._lock:
                self._away_until = time.monotonic() + _AWAY_SECONDS
            _log.warning("traffic_unshared", reason=str(error), seconds=_AWAY_SECONDS)
            return None
