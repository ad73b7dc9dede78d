"""The document a gateway process reads from its standard input, secrets included."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from config.settings import CacheSettings, IndexSettings, Model, RedisSettings
from config.tracing import TracingSettings
from jobs.traffic import Patience


class Retries(Model):
    """The gateway's own small retry budget for one request of an index.

    Larger patience is the job's: it comes back minutes later with a new attempt.
    """

    attempts: int = 3
    base_delay_seconds: float = 0.5
    """Doubled for each further attempt; the pause is drawn between half and all of it."""
    max_delay_seconds: float = 8
    max_retry_after_seconds: float = 30
    """A ``Retry-After`` beyond this is not waited for here: the failure says so instead."""


class Rules(Model):
    """Which files of an index tasks may see at all."""

    sdists: Literal["never", "allow"] | tuple[str, ...] = "never"
    """Source distributions: none, all, or those of these projects, normalised (PEP 503)."""
    min_package_age_seconds: float = 0
    """Files uploaded less than this ago are invisible; 0: none are."""
    min_package_age_unknown: Literal["trust", "refuse"] = "refuse"
    """What files without an upload time are taken for, old enough or not."""


class Startup(Model):
    """Everything a gateway process has to know. It reads neither arguments nor environment."""

    indexes: tuple[IndexSettings, ...]
    """In order of priority."""
    cache: CacheSettings
    control_token: SecretStr
    listen_fd: int
    """A bound TCP socket, inherited."""
    parent_pid: int
    ca_bundle: Path | None = None
    """A file or hashed directory of authorities trusted besides the system's."""
    retries: Retries = Retries()
    patience: Patience = Patience()
    rules: Rules = Rules()
    redis: RedisSettings | None = None
    """Where gateways tell each other how indexes fare; None: each goes by what it sees itself."""
    agent: str | None = None
    """Under whose name is counted; None: nothing is."""
    restarted: bool = False
    """Whether it takes the place of one that ended by itself."""
    traces: TracingSettings = TracingSettings()
    """Where the requests to indexes are told to."""
    session_idle_seconds: float = 3600
    threads: int = 40
    """How many requests are answered at a time."""

    def reveal(self) -> str:
        """Give the document as JSON with its secrets in the clear, for the child's standard input only."""
        return json.dumps(self.model_dump(mode="python"), default=_plain)


def _plain(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no JSON for {type(value).__name__}")


def ca_bundle(environment: Mapping[str, str]) -> Path | None:
    """Find the authorities a company added for its tools: ``REQUESTS_CA_BUNDLE``, else ``SSL_CERT_FILE``."""
    value = environment.get("REQUESTS_CA_BUNDLE") or environment.get("SSL_CERT_FILE")
    return Path(value) if value else None
