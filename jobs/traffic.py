"""How package indexes fare: who may ask one now, and what all workers know of one that is down.

The two versions behave the same: ``SharedTraffic`` for all workers of one Redis, ``LocalTraffic`` for one process.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, Protocol

from redis import Redis
from redis.exceptions import RedisError

from config.settings import Model
from jobs.scripts import Scripts

_FORGET_AFTER = 10
"""An index that nobody has asked for this many times its longest pause is as good as new."""


class TrafficUnavailable(Exception):
    """Redis cannot be reached or refuses."""


class Patience(Model):
    """When an index counts as down, and how long nobody asks it then."""

    failures: int = 5
    """In a row, whoever saw them."""
    first_pause_seconds: float = 5
    """Doubled each time that asking again fails."""
    longest_pause_seconds: float = 60
    longest_wish_seconds: float = 3600
    """How long a ``Retry-After`` is obeyed by everybody."""


class Outcome(StrEnum):
    """How a request ended, as far as it tells something about the index."""

    ANSWERED = "answered"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Permit:
    """Whether a request may be sent now."""

    state: Literal["go", "full", "down"]
    """``full``: as many as may be are on their way. ``down``: nobody is to ask."""
    wait_seconds: float = 0
    """For how long the index is left alone."""
    what: str = ""
    """What went wrong there, as it was told."""


class Traffic(Protocol):
    """What is known of indexes. ``index`` is any text that names one, ``slot`` a random one that names a request."""

    def enter(
        self, index: str, slot: str, *, limit: int | None, lease_seconds: float, may_probe: bool = True
    ) -> Permit:
        """Ask whether a request may be sent. With ``go``, ``leave`` follows; its slot ends with the lease anyway.

        Whoever finds out whether an index that was down is asked again has all others wait: one whose failure would
        say nothing must not, and is told ``down`` instead (``may_probe`` false).
        """
        ...

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
        """Tell how a request ended. ``wish_seconds`` is for how long the index asked to be left alone.

        Without ``at_once``, the wish alone is no reason for others to leave it alone: who was told waits.
        """
        ...


class SharedTraffic:
    """On Redis. Every method raises ``TrafficUnavailable`` when that does not answer. The caller closes the client."""

    def __init__(self, redis: Redis, patience: Patience, *, prefix: str = "vizfetch") -> None:
        self._run = Scripts(redis, prefix, "traffic.lua")
        self._patience = patience

    def enter(
        self, index: str, slot: str, *, limit: int | None, lease_seconds: float, may_probe: bool = True
    ) -> Permit:
        """See ``Traffic``."""
        pause_ms = _ms(self._patience.first_pause_seconds)
        with _translated():
            state, *rest = self._run("enter", index, slot, limit or 0, _ms(lease_seconds), pause_ms, int(may_probe))
        return Permit("down", rest[0] / 1000, rest[1] or "") if state == "down" else Permit(state)

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
        """See ``Traffic``."""
        patience = self._patience
        pauses = (_ms(patience.first_pause_seconds), _ms(patience.longest_pause_seconds))
        wish_ms = _ms(min(wish_seconds or 0, patience.longest_wish_seconds))
        with _translated():
            self._run("leave", index, slot, outcome, what, patience.failures, *pauses, wish_ms, int(at_once))


@dataclass(frozen=True)
class Condition:
    """How an index fares."""

    state: Literal["closed", "open", "half_open"]
    """Asked, left alone, or being found out about."""
    failures: int = 0
    """In a row."""
    what: str = ""
    """What went wrong when it was last left alone, as it was told."""
    wait_seconds: float = 0
    """For how long it is left alone."""


def conditions(redis: Redis, prefix: str, indexes: Sequence[str]) -> list[Condition]:
    """Return how each index fares. Raises ``TrafficUnavailable``."""
    with _translated(), redis.pipeline(transaction=False) as pipe:
        pipe.time()
        for index in indexes:
            pipe.hmget(f"{prefix}:index:{index}", "until_ms", "failures", "what")
        (seconds, micros), *found = pipe.execute()
    now_ms = seconds * 1000 + micros // 1000
    return [_condition(now_ms, *each) for each in found]


def _condition(now_ms: int, until_ms: str | None, failures: str | None, what: str | None) -> Condition:
    count = int(failures or 0)
    if until_ms is None:
        return Condition("closed", count)
    wait_ms = max(float(until_ms) - now_ms, 0)
    return Condition("open" if wait_ms else "half_open", count, what or "", wait_ms / 1000)


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise TrafficUnavailable(f"Redis: {error}") from error


@dataclass
class _Known:
    """What one process knows of an index; times are on the monotonic clock."""

    failures: int = 0
    openings: int = 0
    down_until: float | None = None
    probe_until: float = 0
    probe: str = ""
    what: str = ""
    changed: float = 0
    slots: dict[str, float] = field(default_factory=dict)


class LocalTraffic:
    """In this process. Safe to use from any number of threads."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._known: dict[str, _Known] = {}

    def enter(
        self, index: str, slot: str, *, limit: int | None, lease_seconds: float, may_probe: bool = True
    ) -> Permit:
        """See ``Traffic``."""
        now = time.monotonic()
        with self._lock:
            known = self._of(index, now)
            if known.down_until is not None:
                wait = max(known.down_until - now, 0)
                if wait == 0 and (known.probe_until > now or not may_probe):
                    wait = self._patience.first_pause_seconds
                if wait > 0:
                    return Permit("down", wait, known.what)
            if limit is not None:
                known.slots = {name: until for name, until in known.slots.items() if until > now}
                if len(known.slots) >= limit:
                    return Permit("full")
                known.slots[slot] = now + lease_seconds
            if known.down_until is not None:
                known.probe_until, known.probe = now + lease_seconds, slot
            return Permit("go")

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
        """See ``Traffic``."""
        now = time.monotonic()
        with self._lock:
            known = self._of(index, now)
            known.slots.pop(slot, None)
            if outcome is Outcome.ANSWERED:
                self._known[index] = _Known(slots=known.slots)
            elif outcome is Outcome.UNKNOWN and known.probe == slot:
                known.probe_until, known.probe = 0, ""  # it did not find out, so that the next one may
            elif outcome is Outcome.FAILED and (known.down_until is None or known.down_until <= now):
                wish_seconds = min(wish_seconds or 0, self._patience.longest_wish_seconds)
                self._fail(known, now, what, wish_seconds, at_once=at_once)

    def _of(self, index: str, now: float) -> _Known:
        known = self._known.setdefault(index, _Known())
        if known.failures and now - known.changed > self._patience.longest_pause_seconds * _FORGET_AFTER:
            known = self._known[index] = _Known(slots=known.slots)
        return known

    def _fail(self, known: _Known, now: float, what: str, wish_seconds: float, *, at_once: bool) -> None:
        known.failures += 1
        known.changed = now + wish_seconds
        enough = known.failures >= self._patience.failures or (wish_seconds > 0 and at_once)
        if enough or known.down_until is not None:
            known.openings += 1
            pause = self._patience.first_pause_seconds * 2 ** min(known.openings - 1, 30)
            known.down_until = now + max(min(pause, self._patience.longest_pause_seconds), wish_seconds)
            known.probe_until, known.probe, known.what = 0, "", what
