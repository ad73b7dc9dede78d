"""Wrong tokens in the log and in the audit record: how many from where, since a line for each guess would fill both."""

import time
from collections import Counter
from threading import Lock, Timer

import structlog

from config.audit import Actor, Audit

OTHERS = "others"
"""In place of all addresses above those that are named."""
_NAMED = 10
_FIRST_AFTER_SECONDS = 1.0
_EVERY_SECONDS = 60.0

_log = structlog.get_logger()


class Refusals:
    """Counts wrong tokens, and tells of them soon after the first and then once a minute. Thread-safe.

    It writes in a thread of its own, and nothing of what was shown. Whoever made it closes it.
    """

    def __init__(self, audit: Audit) -> None:
        self._audit = audit
        self._lock = Lock()
        self._counts: Counter[str] = Counter()
        self._timer: Timer | None = None
        self._told_at = float("-inf")

    def count(self, address: str) -> None:
        """Count a wrong token from an address. Does not wait."""
        with self._lock:
            named = address in self._counts or len(self._counts) < _NAMED
            self._counts[address if named else OTHERS] += 1
            if self._timer is None:
                wait = max(_FIRST_AFTER_SECONDS, self._told_at + _EVERY_SECONDS - time.monotonic())
                self._timer = Timer(wait, self._tell)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Tell at once what was not told yet."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
            self._timer, self._told_at = None, time.monotonic()
        for address, count in counts.items():
            _log.warning("tokens_refused", address=address, count=count)
            self._audit.record(Actor("unknown", address, "api"), "authenticate", "refused", count=count)
