"""Connections to Redis, for the status store and for Celery alike."""

from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from config.redis_url import Sentinels
from config.settings import RedisSettings

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0


def connect(settings: RedisSettings, *, timeout_seconds: float = ANSWER_TIMEOUT_SECONDS) -> Redis:
    """Return a client that connects when it is first used. Never share it over a fork.

    The caller closes it. ``redis://``, ``rediss://`` and ``unix://`` are understood, and ``sentinel://`` with
    ``sentinels://`` where Sentinel tells which Redis is the primary: it is asked again whenever a connection is made.
    ``timeout_seconds`` is how long an answer may take.
    """
    url = settings.url.get_secret_value()
    options: dict[str, Any] = {
        "socket_connect_timeout": min(timeout_seconds, CONNECT_TIMEOUT_SECONDS),
        "socket_timeout": timeout_seconds,
    }
    if uses_tls(url) and settings.ca_bundle:
        options["ssl_ca_certs"] = str(settings.ca_bundle)
    common = {"decode_responses": True, "health_check_interval": 10}
    sentinels = Sentinels.of(url)
    if sentinels is None:
        return Redis.from_url(url, **options, **common)
    secure: dict[str, Any] = {"ssl": True} if sentinels.ssl else {}
    own = options | secure | sentinel_options(sentinels)
    asked = Sentinel(sentinels.hosts, sentinel_kwargs=own)  # type: ignore[no-untyped-call]  # as the next
    found: Redis = asked.master_for(  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
        sentinels.service,
        username=sentinels.username,
        password=sentinels.password,
        db=sentinels.database,
        **options,
        **secure,
        **common,
    )
    return found


def sentinel_options(sentinels: Sentinels) -> dict[str, Any]:
    """Return how the Sentinels themselves are asked: one that is down is not tried again before the next is asked."""
    return {
        "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "socket_timeout": CONNECT_TIMEOUT_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        **sentinels.own_options(),
    }


def uses_tls(url: str) -> bool:
    """Tell whether the connections to this address are to be encrypted."""
    return url.startswith(("rediss://", "sentinels://"))
