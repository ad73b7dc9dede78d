"""The settings as frozen objects: read once at a process's entry point, then passed down.

How they are read and which spellings there are is told in ``config.sources``. An object made by hand obeys the same
rules: a wrong value raises :class:`pydantic.ValidationError`, whose text does not repeat the value.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

from config import kinds
from config.durations import MAX_SECONDS
from config.sizes import MAX_BYTES


def _secret_redis_url(url: SecretStr) -> SecretStr:
    kinds.redis_url(url.get_secret_value())
    return url


Seconds = Annotated[float, Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)]
Attempt = Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False)]
Lease = Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)]
History = Annotated[float, Field(ge=60, le=MAX_SECONDS, allow_inf_nan=False)]
Pause = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=0, le=MAX_BYTES)]
Port = Annotated[int, Field(ge=1, le=65535)]
Line = Annotated[str, AfterValidator(kinds.line)]
Host = Annotated[str, AfterValidator(kinds.host)]
HttpUrl = Annotated[str, AfterValidator(kinds.http_url)]
RedisUrl = Annotated[SecretStr, AfterValidator(_secret_redis_url)]


class Model(BaseModel):
    """The base of all settings: closed, immutable, and silent about input values in its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Proxy(Model):
    """An HTTP proxy for one index."""

    host: Host
    """Without scheme; an IPv6 address in brackets."""
    port: Port


class IndexSettings(Model):
    """One PyPI-style index (the simple repository API, PEP 503 and 691)."""

    name: Line
    """How users know it: ``pypi[0]``, or ``public`` for the default index."""
    url: HttpUrl
    """As the user wrote it, with or without a slash at its end; never with credentials inside."""
    username: Annotated[str, AfterValidator(kinds.username)] | None = None
    """Together with ``password`` or not at all. Any Unicode text: encode both as UTF-8 (RFC 7617, section 2.1)."""
    password: SecretStr | None = None
    bearer_token: SecretStr | None = None
    """In place of ``username`` and ``password``."""
    skip_ssl: bool = False
    """Do not verify this index's TLS certificate."""
    skip_validate_connectivity: bool = False
    """Do not ask this index for anything at start."""
    proxy: Proxy | None = None
    """For this index alone; no other proxy setting of the process is used."""
    connect_timeout_seconds: Seconds = 30
    """Until the connection stands and the first byte of the answer is there."""
    read_timeout_seconds: Seconds = 60
    """For the whole body."""
    max_connections: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Requests to it at once, from all workers that share a Redis together; None: as many as there are."""
    prefix: Line = ""
    """What the names of its settings begin with: that of users' generation of names; by default the agent's."""

    def setting(self, leaf: str) -> str:
        """Return the dotted name of one of its settings, such as ``moderne.agent.pypi[0].skipSsl``, for messages."""
        prefix = self.prefix or f"moderne.agent.{self.name}"
        return f"{prefix}.{'uri' if leaf == 'url' and '.marketplace.' in prefix else leaf}"

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> Self:
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password come together")
        if self.bearer_token is not None and self.username is not None:
            raise ValueError("a bearer token and basic auth exclude each other")
        return self


class RedisSettings(Model):
    """Where status lives and Celery's messages pass."""

    url: RedisUrl = SecretStr("redis://127.0.0.1:6379/0")
    """With its credentials, made from ``redis.url`` or from ``redis.host`` and its siblings."""
    prefix: Annotated[str, AfterValidator(kinds.key_prefix)] = "vizfetch"
    """What the names of all keys begin with, so that several deployments may share one Redis."""
    ca_bundle: Path | None = None
    """Authorities to trust besides the system's: a file (PEM), or a directory as ``openssl rehash`` makes them.

    As read by ``config.sources`` what ``REQUESTS_CA_BUNDLE``, else ``SSL_CERT_FILE``, names: as for the indexes.
    """


class StorageSettings(Model):
    """Where bundles are published."""

    uri: Annotated[str, AfterValidator(kinds.storage_uri)] = "file:///var/lib/vizfetch/bundles"
    """``file:///…`` or ``s3://bucket/prefix``."""
    endpoint_url: Annotated[str, AfterValidator(kinds.endpoint_url)] | None = None
    """An S3 service that is not Amazon's."""
    region: Line | None = None
    access_key: SecretStr | None = None
    """Together with ``secret_key``; without both and without a profile, the instance's role is used."""
    secret_key: SecretStr | None = None
    profile: Line | None = None
    """A profile of the AWS configuration files, in place of the keys."""
    skip_ssl: bool = False
    """Do not verify the store's TLS certificate."""
    ca_bundle: Path | None = None
    """As of :class:`RedisSettings`."""

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access key and secret key come together")
        if self.access_key is not None and self.profile is not None:
            raise ValueError("a profile and keys exclude each other")
        return self


class Target(Model):
    """The target environment: where a bundle will be installed. Always Linux with glibc, CPython."""

    python: Annotated[str, AfterValidator(kinds.python_version)] = "3.11"
    """The minor version."""
    glibc: Annotated[str, AfterValidator(kinds.glibc_version)] = "2.35"
    architecture: Literal["x86_64", "aarch64"] = "x86_64"


class CacheSettings(Model):
    """The gateway's cache, shared by all tasks of one agent."""

    directory: Path = Path("/var/cache/vizfetch")
    """As read by ``config.sources`` a directory of the user's own, unless it is set."""
    max_size_bytes: Bytes = 10 * 2**30
    page_ttl_seconds: Pause = 600
    """How long an index page is served without asking the index again; 0 means never."""


class RetrySettings(Model):
    """Exponential backoff with full jitter between the two bounds."""

    max_attempts: int = Field(default=5, ge=1)
    """The first attempt included."""
    min_backoff_seconds: Pause = 2
    max_backoff_seconds: Pause = 300

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_backoff_seconds > self.max_backoff_seconds:
            raise ValueError("the shortest pause is longer than the longest")
        return self


class ApiSettings(Model):
    """Where health, metrics and the API listen."""

    host: Host = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """0: nothing listens."""
    token: SecretStr | None = None
    """The bearer token that callers must show."""


class Settings(Model):
    """Everything a process of vizfetch needs to know."""

    nickname: Line
    """``moderne.agent.nickname``; unique for each instance, by default made from host name and process id."""
    indexes: tuple[IndexSettings, ...] = ()
    """In order of priority; with the public index last unless ``useOnlyConfigured``."""
    use_only_configured: bool = False
    """Whether ``indexes`` holds nothing but what users configured; always so with the Connector's names."""
    redis: RedisSettings = RedisSettings()
    storage: StorageSettings = StorageSettings()
    target: Target = Target()
    sdists: Literal["never", "allow"] | tuple[str, ...] = "never"
    """Whether packages that exist as source only may be built: the names are normalised (PEP 503)."""
    min_package_age_seconds: Pause = 0
    """Files uploaded less than this ago are invisible; 0: none are."""
    min_package_age_unknown: Literal["trust", "refuse"] = "refuse"
    """With ``min_package_age_seconds``, whether files whose index tells no upload time count as old enough."""
    require_specs: bool = True
    """Whether a package without visualizations is refused."""
    verify: Literal["check", "install"] = "check"
    """Whether a bundle's files are checked, or the package is also installed and imported before it is published."""
    temporary_directory: Path = Path("/tmp")  # noqa: S108 - the default users expect; tasks make private directories below it
    """Absolute when read by ``config.sources``: ``temporaryDirectory``, else ``java.io.tmpdir``, else ``TMPDIR``."""
    min_free_space_bytes: Bytes = 2 * 2**30
    """Free space that the temporary directory must have at start."""
    cache: CacheSettings = CacheSettings()
    concurrency: int = Field(default=2, ge=1)
    """Jobs that one worker fetches at once."""
    fetch_timeout_seconds: Attempt = 900
    """For one attempt."""
    retry: RetrySettings = RetrySettings()
    lease_seconds: Lease = 10
    """A worker that does not renew for this long has lost its attempt."""
    history_seconds: History = 30 * 86400
    """How long a finished batch is kept in Redis; bundles are kept for ever."""
    audit: Path | Literal["stdout"] | None = None
    """Where it is recorded who did what; absolute. None: nowhere."""
    api: ApiSettings = ApiSettings()
