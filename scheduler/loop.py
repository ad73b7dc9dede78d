"""The scheduler's loop: it keeps jobs moving that nobody else moves.

Any number of loops may run. Every step is a script that changes a job once, so a second loop only finds less to do.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from jobs.models import FetchMessage
from jobs.store import StatusStore, StatusUnavailable

TURN_SECONDS = 0.25
WINDOW = 64
"""How many messages may wait for workers. Few enough that what is published late can still be chosen well."""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Broker:
    """The way to the workers: publishes a message, and tells how many wait. Both raise ``StatusUnavailable``."""

    publish: Callable[[FetchMessage], None]
    waiting: Callable[[], int]


class Loop:
    """Ends leases that ran out, and publishes a message for each attempt that is due.

    A lease is not ended within one lease's time after the loop began or after Redis did not answer: until then a worker
    may have had no chance to renew it.
    """

    def __init__(self, store: StatusStore, broker: Broker, lease_seconds: float, clock: Callable[[], float]) -> None:
        self._store = store
        self._broker = broker
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._reap_from = clock() + lease_seconds

    def run(self, stop: threading.Event) -> None:
        """Take turns until ``stop`` is set. Redis being away is waited out."""
        while not stop.is_set():
            self.turn()
            stop.wait(TURN_SECONDS)

    def turn(self) -> None:
        """Do once what is to be done now. Harmless to repeat at any time."""
        try:
            self._reap()
            self._publish()
        except StatusUnavailable as error:
            _log.warning("status_unavailable", reason=str(error))
            self._reap_from = self._clock() + self._lease_seconds

    def _reap(self) -> None:
        if self._clock() < self._reap_from:
            return
        for job, state in self._store.reap():
            _log.warning("lease_expired", job=job, state=state)

    def _publish(self) -> None:
        free = WINDOW - self._broker.waiting()
        if free <= 0:
            return
        # A message may be lost with the worker that took it from the queue; two leases later it is published again.
        for job, attempt in self._store.take_due(free, again_seconds=2 * self._lease_seconds):
            self._broker.publish(FetchMessage(job=job, attempt=attempt))
