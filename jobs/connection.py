"""Connections to Redis, for the status store and for Celery alike."""

from redis import Redis

from config.settings import RedisSettings

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0


def connect(settings: RedisSettings) -> Redis:
    """Return a client that connects when it is first used. Never share it over a fork.

    The caller closes it. ``redis://``, ``rediss://`` and ``unix://`` are understood.
    """
    return Redis.from_url(
        settings.url.get_secret_value(),
        decode_responses=True,
        socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
        socket_timeout=ANSWER_TIMEOUT_SECONDS,
        health_check_interval=10,
    )
