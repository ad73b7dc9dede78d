"""Connections to Redis, for the status store and for Celery alike."""

import re
from typing import Any

from redis import Redis, exceptions
from redis import __version__ as redis_py_version
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.retry import Retry
from redis.sentinel import Sentinel

from config.redis_url import Sentinels
from config.redis_url import tls_options as url_options
from config.settings import RedisSettings

CONNECT_TIMEOUT_SECONDS = 2.0
ANSWER_TIMEOUT_SECONDS = 5.0

_DRIVER = DriverInfo(lib_version=redis_py_version)
"""What a server's list of clients says of us. By default redis-py looks its version up again for each connection."""


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
    options |= tls_options(settings)
    common: dict[str, Any] = {"decode_responses": True, "health_check_interval": 10, "driver_info": _DRIVER}
    sentinels = Sentinels.of(url)
    if sentinels is None:
        # Without what it says about TLS, which stands in the options: redis-py would let the URL win over them.
        return Redis.from_url(url.partition("?")[0], **options, **common)
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


def refuses_us(error: BaseException) -> bool:
    """Tell whether Redis answered, and what it said can be mended by other settings or privileges only.

    Anything may be given that redis-py or kombu raise, or that was raised because of it. Waiting does not help here.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, exceptions.AuthenticationError | exceptions.NoPermissionError):
            return True
        # A server without the command to log in, and one that wants it, say so in plain answers.
        if isinstance(found, exceptions.ResponseError) and re.search("NOAUTH|WRONGPASS|DB index", str(found)):
            return True
        found = found.__cause__ or found.__context__
    return False


def said(error: BaseException) -> str:
    """Return what redis-py says, without the clients by which it tells which Sentinels were asked."""
    return re.sub(r" : <redis\..*", "", str(error), flags=re.DOTALL)


def tls_options(settings: RedisSettings) -> dict[str, Any]:
    """Return how the server's certificate is looked at, for redis-py: empty without TLS.

    Trusted are the system's authorities, which redis-py always loads, and those of the settings.
    """
    url = settings.url.get_secret_value()
    if not uses_tls(url):
        return {}
    options: dict[str, Any] = {}
    if settings.ca_bundle:
        options["ssl_ca_path" if settings.ca_bundle.is_dir() else "ssl_ca_certs"] = str(settings.ca_bundle)
    return options | url_options(url)


def uses_tls(url: str) -> bool:
    """Tell whether the connections to this address are to be encrypted."""
    return url.startswith(("rediss://", "sentinels://"))
