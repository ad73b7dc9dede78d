"""Keeps the lease on an attempt while it runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from jobs.models import Claim, Progress
from jobs.store import StatusStore, StatusUnavailable
from worker.errors import Fenced, Stopping

_SHOWN_EVERY_SECONDS = 1.0

_log = structlog.get_logger()


class Heartbeat:
    """What an attempt and whoever renews its lease tell each other."""

    def __init__(self, claim: Claim, *, wake: Callable[[], None], stopping: Callable[[], bool]) -> None:
        """``wake`` has the lease renewed at once."""
        self._claim = claim
        self._wake = wake
        self._stopping = stopping
        self._progress: Progress | None = None
        self._shown: Progress | None = None
        self._fenced = threading.Event()

    @property
    def fenced(self) -> bool:
        """Whether Redis said that the attempt is not ours any more."""
        return self._fenced.is_set()

    @property
    def silent(self) -> bool:
        """Whether there was nothing to show yet."""
        return self._progress is None

    def report(self, progress: Progress) -> None:
        """Show ``progress``: another step at once, another amount with the next renewal."""
        another_step = self._progress is None or self._progress.step != progress.step
        self._progress = progress
        if another_step:
            self._wake()

    def check(self) -> None:
        """Raise ``Fenced`` or ``Stopping`` when the attempt has to end here."""
        if self.fenced:
            raise Fenced
        if self._stopping():
            raise Stopping

    def fenced_or_stopping(self) -> bool:
        """Return whether the attempt was fenced; raises ``Stopping`` when the worker stops."""
        if self._stopping():
            raise Stopping
        return self.fenced

    def renew(self, store: StatusStore, lease_seconds: float) -> None:
        """Renew the lease unless it is lost, and show the progress along with it.

        That Redis does not answer is no reason to stop: the lease may still be ours, and only Redis can say that it is
        not.
        """
        if self.fenced:
            return
        progress = self._progress
        try:
            held = store.renew(self._claim, lease_seconds, progress if progress != self._shown else None)
        except StatusUnavailable:
            return
        except Exception:  # noqa: BLE001 - whatever it is, ending the thread would cost this and all later leases
            _log.exception("heartbeat_failed")
            return
        self._shown = progress
        if not held:
            self._fenced.set()


class LeaseKeeper:
    """Renews the leases that a process holds, one after another, from one thread.

    ``store`` must be the thread's own, so that a connection that hangs elsewhere cannot cost a lease. The thread looks
    up as often as a lease has to be renewed, and only while there are attempts: for those that are over sooner than
    that it asks Redis nothing, and only the first after a pause wakes it.
    """

    def __init__(self, store: StatusStore, lease_seconds: float) -> None:
        self._store = store
        self._lease_seconds = lease_seconds
        self._kept: Heartbeat | None = None
        self._renewing = threading.Lock()
        self._resting = True
        self._news = threading.Event()
        self._closed = False
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()

    @contextmanager
    def keep(self, claim: Claim, *, stopping: Callable[[], bool]) -> Iterator[Heartbeat]:
        """Renew the lease on ``claim``, which has just been taken, until the block is left.

        The lease itself is ended by whoever finishes the attempt.
        """
        heartbeat = Heartbeat(claim, wake=self._news.set, stopping=stopping)
        with self._renewing:
            self._kept = heartbeat
            if self._resting:
                self._news.set()
        try:
            yield heartbeat
        finally:
            self._kept = None
            with self._renewing:  # until a renewal that is under way is over
                pass

    def close(self) -> None:
        """End the thread, as soon as it is not asking Redis."""
        self._closed = True
        self._news.set()

    def _beat(self) -> None:
        every_seconds = min(self._lease_seconds / 3, _SHOWN_EVERY_SECONDS)
        while not self._closed:
            rested = self._resting
            self._news.wait(None if rested else every_seconds)
            with self._renewing:
                self._news.clear()
                kept = self._kept
                self._resting = kept is None
                # The lease that ends a rest has just been taken.
                if kept is not None and not (rested and kept.silent):
                    kept.renew(self._store, self._lease_seconds)
