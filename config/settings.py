"""The settings as frozen objects: read once at a process's entry point, then passed down.

How they are read and which spellings there are is told in ``config.sources``.
"""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Model(BaseModel):
    """The base of all settings: closed, immutable, and silent about input values in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Proxy(Model):
    """An HTTP proxy for one index."""

    host: str
    port: int


class IndexSettings(Model):
    """One PyPI-style index (the simple repository API, PEP 503 and 691)."""

    name: str
    """How users know it: ``pypi[0]``, or ``public`` for the default index."""
    url: str
    username: str | None = None
    password: SecretStr | None = None
    bearer_token: SecretStr | None = None
    skip_ssl: bool = False
    skip_validate_connectivity: bool = False
    proxy: Proxy | None = None
    connect_timeout_seconds: float = 30
    """Until the connection stands and the first byte of the answer is there."""
    read_timeout_seconds: float = 60
    """For the whole body."""


class RedisSettings(Model):
    """Where status lives and Celery's messages pass."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """With its credentials, made from ``redis.url`` or from ``redis.host`` and its siblings."""


class StorageSettings(Model):
    """Where bundles are published."""

    uri: str = "file:///var/lib/vizfetch/bundles"
    """``file:///…`` or ``s3://bucket/prefix``."""
    endpoint_url: str | None = None
    region: str | None = None
    access_key: SecretStr | None = None
    secret_key: SecretStr | None = None
    profile: str | None = None
    skip_ssl: bool = False


class Target(Model):
    """The target environment: where a bundle will be installed. Always Linux with glibc, CPython."""

    python: str = "3.11"
    glibc: str = "2.35"
    architecture: Literal["x86_64", "aarch64"] = "x86_64"


class CacheSettings(Model):
    """The gateway's cache, shared by all tasks of one agent."""

    directory: Path = Path("/var/cache/vizfetch")
    max_size_bytes: int = 10 * 2**30
    page_ttl_seconds: float = 600


class RetrySettings(Model):
    """Exponential backoff with full jitter between the two bounds."""

    max_attempts: int = 5
    min_backoff_seconds: float = 2
    max_backoff_seconds: float = 300


class ApiSettings(Model):
    """Where health, metrics and the API listen."""

    host: str = "127.0.0.1"
    port: int = 8080
    token: SecretStr | None = None


class Settings(Model):
    """Everything a process of vizfetch needs to know."""

    nickname: str
    """``moderne.agent.nickname``; unique for each instance, by default made from host name and process id."""
    indexes: tuple[IndexSettings, ...] = ()
    """In order of priority; with the public index last unless ``useOnlyConfigured``."""
    use_only_configured: bool = False
    redis: RedisSettings = RedisSettings()
    storage: StorageSettings = StorageSettings()
    target: Target = Target()
    sdists: Literal["never", "allow"] | tuple[str, ...] = "never"
    require_specs: bool = True
    temporary_directory: Path = Path("/tmp")  # noqa: S108 - replaced by tempfile.gettempdir() when read
    min_free_space_bytes: int = 2 * 2**30
    cache: CacheSettings = CacheSettings()
    concurrency: int = Field(default=2, ge=1)
    fetch_timeout_seconds: float = 900
    retry: RetrySettings = RetrySettings()
    lease_seconds: float = 10
    api: ApiSettings = ApiSettings()
