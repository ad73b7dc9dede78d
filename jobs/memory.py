"""What was published before, and from what: so that an equal job is answered without doing it again.

The Redis keys stand in ``scripts.lua``. Losing them costs nothing but work.
"""

from pydantic import ValidationError
from redis import Redis

from jobs.models import Recollection
from jobs.scripts import Scripts
from jobs.store import HISTORY_SECONDS, PREFIX, translated

LIMIT = 10_000
"""How many are kept; each takes a few kilobytes."""


class Memory:
    """The memory on one Redis. Every method raises ``StatusUnavailable`` when Redis does not answer."""

    def __init__(
        self, redis: Redis, *, prefix: str = PREFIX, kept_seconds: float = HISTORY_SECONDS, limit: int = LIMIT
    ) -> None:
        self._run = Scripts(redis, prefix)
        self._kept_ms = int(kept_seconds * 1000)
        self._limit = limit

    def recall(self, key: str) -> Recollection | None:
        """Return what is remembered under ``key``; None also for what another version of this program wrote."""
        with translated():
            found = self._run("recall", key, self._kept_ms)
        try:
            return None if found is None else Recollection.model_validate_json(found)
        except ValidationError:
            return None

    def remember(self, key: str, recollection: Recollection) -> None:
        """Remember it in place of what was known. Idempotent."""
        with translated():
            self._run("remember", key, recollection.as_json(), self._kept_ms, self._limit)
