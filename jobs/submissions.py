"""Keys by which whoever submits says that it is the same submission again.

One Redis key for each: ``PREFIX:submission:DIGEST`` (of the key), a string of the content's fingerprint and the batch,
kept for ``KEPT_SECONDS``.
"""

import hashlib

from redis import Redis

from jobs.store import translated

KEPT_SECONDS = 24 * 3600


class KeyReused(Exception):
    """The key was used before for something else."""


class Submissions:
    """The submissions known to one Redis. Every method raises ``StatusUnavailable`` when Redis does not answer."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix

    def batch_for(self, key: str, content: bytes, fresh: str) -> str:
        """Return the batch that ``key`` stands for: ``fresh`` the first time, later what it was then.

        Whoever calls submits under the batch that is returned, each time: that adds what an earlier call did not come
        to add, and nothing twice. Raises ``KeyReused`` when the content is another one.
        """
        name = f"{self._prefix}:submission:{hashlib.sha256(key.encode()).hexdigest()}"
        fingerprint = hashlib.sha256(content).hexdigest()
        with translated(), self._redis.pipeline() as pipe:
            pipe.set(name, f"{fingerprint} {fresh}", nx=True, ex=KEPT_SECONDS)
            pipe.get(name)
            kept, batch = str(pipe.execute()[-1]).split(" ", 1)
        if kept != fingerprint:
            raise KeyReused
        return batch
