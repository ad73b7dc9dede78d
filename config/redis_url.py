"""The Redis URL from the platform's separate settings, and back."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

DEFAULT_PORT = 6379
DEFAULT_SENTINEL_PORT = 26379


@dataclass(frozen=True)
class Parts:
    """What a Redis URL says."""

    host: str
    port: int
    username: str | None
    password: str | None
    ssl: bool
    database: int


def from_parts(
    *,
    host: str,
    port: int = DEFAULT_PORT,
    username: str | None = None,
    password: str | None = None,
    ssl: bool = False,
    database: int = 0,
) -> str:
    """Return the URL; user and password percent-encoded."""
    credentials = ""
    if username is not None or password is not None:
        secret = "" if password is None else f":{quote(password, safe='')}"
        credentials = f"{quote(username or '', safe='')}{secret}@"
    return f"{'rediss' if ssl else 'redis'}://{credentials}{host}:{port}/{database}"


def to_parts(url: str) -> Parts | None:
    """Return the parts of a URL, or None when they cannot say the same: it has parameters or is a socket."""
    split = urlsplit(url)
    if split.query or split.scheme not in {"redis", "rediss"} or not split.hostname:
        return None
    return Parts(
        host=f"[{split.hostname}]" if ":" in split.hostname else split.hostname,
        port=split.port or DEFAULT_PORT,
        username=unquote(split.username) if split.username else None,
        password=unquote(split.password) if split.password else None,
        ssl=split.scheme == "rediss",
        database=int(split.path.strip("/") or 0),
    )


@dataclass(frozen=True)
class Sentinels:
    """What ``sentinel://user:password@host:port,host:port/service/database`` says.

    User and password are those of the Redis that the Sentinels name. Their own stand in the parameters
    ``sentinelUsername`` and ``sentinelPassword``. With ``sentinels://`` all of them speak TLS.
    """

    hosts: tuple[tuple[str, int], ...]
    service: str
    username: str | None
    password: str | None
    ssl: bool
    database: int
    own_username: str | None
    own_password: str | None

    @classmethod
    def of(cls, url: str) -> Self | None:
        """Return what a URL says; None when it is none of Sentinel's."""
        split = urlsplit(url)
        if split.scheme not in {"sentinel", "sentinels"}:
            return None
        service, _, database = split.path.strip("/").partition("/")
        own = {name: values[0] for name, values in parse_qs(split.query).items()}
        return cls(
            hosts=tuple(_host_and_port(place) for place in split.netloc.rpartition("@")[2].split(",")),
            service=unquote(service),
            username=unquote(split.username) if split.username else None,
            password=unquote(split.password) if split.password else None,
            ssl=split.scheme == "sentinels",
            database=int(database or 0),
            own_username=own.get("sentinelUsername"),
            own_password=own.get("sentinelPassword"),
        )

    def own_options(self) -> dict[str, str]:
        """Return what a client needs to be let in by the Sentinels themselves."""
        options = {"username": self.own_username, "password": self.own_password}
        return {name: value for name, value in options.items() if value is not None}

    def each_url(self) -> str:
        """Return the form that kombu knows: a URL for each Sentinel, separated by semicolons."""
        user, password = quote(self.username or "", safe=""), quote(self.password or "", safe="")
        credentials = f"{user}:{password}@" if self.password is not None else ""
        return ";".join(f"sentinel://{credentials}{host}:{port}/{self.database}" for host, port in self.hosts)


def _host_and_port(place: str) -> tuple[str, int]:
    split = urlsplit(f"//{place}")
    return split.hostname or "", split.port or DEFAULT_SENTINEL_PORT
