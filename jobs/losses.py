"""Whether Redis has lost its data: a flush, a restart without persistence, a failover to an empty replica.

Redis keys (P is the prefix):

  P:epoch      string  random, made by whoever finds none: another one than before tells that the data was lost
  P:lost       string  when the loss was noticed first (ISO 8601, by the clock of Redis), kept for ``KEPT_SECONDS``
"""

import secrets
from datetime import UTC, datetime
from typing import cast

from redis import Redis

from jobs.store import translated

KEPT_SECONDS = 7 * 24 * 3600
HINT = (
    "Jobs and schedules are gone, published bundles are not: submit again what is missing, add the schedules again, "
    "and run `vizfetch rebuild`."
)


class Losses:
    """What one process knows of losses. Every method raises ``StatusUnavailable``, and may be repeated then."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix
        self._epoch: str | None = None

    def noticed(self) -> bool:
        """Return whether the data was lost since the last call, once for each loss, and keep when that was."""
        with translated():
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.set(f"{self._prefix}:epoch", secrets.token_hex(8), nx=True)
                pipe.get(f"{self._prefix}:epoch")
                epoch = str(pipe.execute()[-1])
            lost = self._epoch not in {None, epoch}
            if lost:
                seconds, _ = self._redis.time()
                at = datetime.fromtimestamp(seconds, UTC).isoformat()
                self._redis.set(f"{self._prefix}:lost", at, nx=True, ex=KEPT_SECONDS)
        self._epoch = epoch
        return lost

    def last(self) -> datetime | None:
        """Return when the last loss was noticed; None when there was none, or long ago."""
        with translated():
            found = cast("str | None", self._redis.get(f"{self._prefix}:lost"))
        return None if found is None else datetime.fromisoformat(found)


def said(at: datetime) -> str:
    """Return the news of a loss for people."""
    return f"Redis lost its data before {at:%Y-%m-%d %H:%M:%S} UTC. {HINT}"
