"""The scheduler notices that Redis has lost its data, also where no agent runs that would."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from jobs.losses import HINT, Losses

_LOOK_EVERY_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass
class LossWatch:
    """Looks once a second at most, however often it is called."""

    losses: Losses
    clock: Callable[[], float] = time.monotonic
    _looked: float = float("-inf")

    def look(self) -> None:
        """Log a loss once. Raises ``StatusUnavailable``, and notices it later then."""
        if self.clock() - self._looked < _LOOK_EVERY_SECONDS:
            return
        if self.losses.noticed():
            _log.error("redis_lost_data", hint=HINT)
        self._looked = self.clock()
