"""Keeps the lease on an attempt while it runs."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from jobs.models import Claim, Progress
from jobs.store import StatusStore, StatusUnavailable
from worker.errors import Fenced, Stopping

_SHOWN_EVERY_SECONDS = 1.0

_log = structlog.get_logger()


class Heartbeat:
    """Renews the lease from a thread of its own and shows the progress along with it.

    ``store`` must be the thread's own, so that a connection that hangs elsewhere cannot cost the lease. That Redis does
    not answer is no reason to stop: the lease may still be ours, and only Redis can say that it is not.
    """

    def __init__(self, store: StatusStore, claim: Claim, lease_seconds: float, *, stopping: Callable[[], bool]) -> None:
        self._store = store
        self._claim = claim
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._progress: Progress | None = None
        self._fenced = threading.Event()
        self._news = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Start renewing."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop renewing; the lease itself is ended by whoever finishes the attempt."""
        self._done = True
        self._news.set()
        self._thread.join()

    @property
    def fenced(self) -> bool:
        """Whether Redis said that the attempt is not ours any more."""
        return self._fenced.is_set()

    def report(self, progress: Progress) -> None:
        """Show ``progress``: another step at once, another amount with the next renewal."""
        another_step = self._progress is None or self._progress.step != progress.step
        self._progress = progress
        if another_step:
            self._news.set()

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

    def _beat(self) -> None:
        shown: Progress | None = None
        while not self._rested():
            progress = self._progress
            try:
                held = self._store.renew(self._claim, self._lease_seconds, progress if progress != shown else None)
            except StatusUnavailable:
                held = True
            except Exception:  # noqa: BLE001 - whatever it is, ending this thread would cost the lease in silence
                _log.exception("heartbeat_failed")
                held = True
            else:
                shown = progress
            if not held:
                self._fenced.set()
                return

    def _rested(self) -> bool:
        """Wait until there is something to say, and return whether that is over. The lease has just been taken."""
        self._news.wait(min(self._lease_seconds / 3, _SHOWN_EVERY_SECONDS))
        self._news.clear()
        return self._done
