"""The scheduler's loop: it keeps jobs moving that nobody else moves.

Any number of loops may run. Every step is a script that changes a job once, so a second loop only finds less to do.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from jobs.models import FetchMessage, JobState, Priority
from jobs.store import StatusStore, StatusUnavailable

TURN_SECONDS = 0.25
"""Between turns, unless a job comes that is due at once."""
BUSY_TURN_SECONDS = 0.05
"""Between turns while there is something to publish: jobs that are answered from memory take no longer than that."""
WINDOW = 16
"""How many messages of a priority may wait for workers, or as many as jobs run, if those are more.

Enough that no worker waits for the next turn, and so few that a batch that comes late gets its share soon.
"""

_log = structlog.get_logger()


@dataclass(frozen=True)
class Broker:
    """The way to the workers: publishes messages that somebody can take, and tells how many of a priority wait.

    Both raise ``StatusUnavailable``.
    """

    publish: Callable[[Sequence[FetchMessage], Priority], bool]
    """Tells whether it published any."""
    waiting: Callable[[Priority], int]


class Loop:
    """Ends leases that ran out, and publishes a message for each attempt that is due.

    A lease is not ended within one lease's time after the loop began or after Redis did not answer: until then a worker
    may have had no chance to renew it.
    """

    def __init__(
        self,
        store: StatusStore,
        broker: Broker,
        lease_seconds: float,
        clock: Callable[[], float],
        chores: Callable[[], None] = lambda: None,
        lost: Callable[[str, JobState], None] = lambda _job, _state: None,
    ) -> None:
        """``chores`` are done in each turn (schedules that are due, say); they raise ``StatusUnavailable``.

        ``lost`` is told of each job whose worker was lost, and what becomes of it.
        """
        self._store = store
        self._broker = broker
        self._lease_seconds = lease_seconds
        self._clock = clock
        self._reap_from = clock() + lease_seconds
        self._chores = chores
        self._lost = lost
        self._published = False
        self._answered = True
        self._turned = clock()

    @property
    def turn_age_seconds(self) -> float:
        """Since when the loop has not ended a turn, whether or not Redis answered in it."""
        return self._clock() - self._turned

    def run(self, stop: threading.Event) -> None:
        """Take turns until ``stop`` is set. Redis being away is waited out."""
        while not stop.is_set():
            self.turn()
            if not stop.is_set():
                stop.wait(self._listen())

    def _listen(self) -> float:
        """Listen for a job that is due at once, if it is time for that; return the seconds to wait in any case."""
        if not self._answered:
            return TURN_SECONDS
        if self._published:
            return BUSY_TURN_SECONDS
        try:
            came = self._store.await_due(TURN_SECONDS)
        except StatusUnavailable:  # the next turn says so
            return TURN_SECONDS
        # Many may come while no worker is free.
        return max(0, BUSY_TURN_SECONDS - self.turn_age_seconds) if came else 0

    def turn(self) -> None:
        """Do once what is to be done now. Harmless to repeat at any time."""
        self._published, self._answered = False, True
        try:
            self._reap()
            self._chores()
            self._publish()
        except StatusUnavailable as error:
            _log.warning("status_unavailable", reason=str(error))
            self._answered = False
            self._reap_from = self._clock() + self._lease_seconds
        self._turned = self._clock()

    def _reap(self) -> None:
        if self._clock() < self._reap_from:
            return
        for job, state in self._store.reap():
            _log.warning("lease_expired", job=job, state=state)
            self._lost(job, state)

    def _publish(self) -> None:
        queued, running = self._store.unfinished()
        for priority in Priority if queued else ():
            free = max(WINDOW, running) - self._broker.waiting(priority)
            if free > 0:
                self._fill(priority, free)

    def _fill(self, priority: Priority, free: int) -> None:
        # A message may be lost with the worker that took it from the queue; two leases later it is published again.
        taken = self._store.take_due(free, 2 * self._lease_seconds, priority)
        if taken:
            messages = [FetchMessage(job=job, attempt=attempt) for job, attempt in taken]
            self._published |= self._broker.publish(messages, priority)
