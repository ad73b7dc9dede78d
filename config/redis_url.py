"""The Redis URL from the platform's separate settings, and back."""

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import SplitResult, parse_qs, parse_qsl, quote, unquote, urlsplit

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


OPTIONS: dict[str, tuple[str, ...]] = {
    "redis": (),
    "unix": (),
    "rediss": ("ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    "sentinel": ("sentinelUsername", "sentinelPassword"),
    "sentinels": ("sentinelUsername", "sentinelPassword"),
}
"""By scheme, what may stand behind '?'. redis-py and kombu know more, but each of them other ones."""

_WORDS = {"ssl_cert_reqs": ("required", "none"), "ssl_check_hostname": ("true", "false")}


def check_options(parts: SplitResult) -> None:
    """Refuse parameters that are not known, or that say nothing that is.

    Raises :class:`ValueError`, which names a parameter only where it cannot be a piece of a password.
    """
    known = OPTIONS[parts.scheme]
    options = parse_qsl(parts.query, keep_blank_values=True)
    if len({name for name, _ in options} & set(known)) < sum(name in known for name, _ in options):
        raise ValueError("has an option twice behind '?'; keep one of them")
    for name, value in options:
        if name not in known:
            told = (
                f"the option '{name}'" if re.fullmatch("[A-Za-z_]{2,32}", name) and "@" not in parts.query else "what"
            )
            only = f"with {parts.scheme}:// only {', '.join(known)} may stand there" if known else "remove it"
            raise ValueError(f"has {told} behind '?', which is not known; {only}")
        if not value or value not in _WORDS.get(name, (value,)):
            advice = " or ".join(_WORDS[name]) if name in _WORDS else "a value, or remove it"
            raise ValueError(f"has the option '{name}' with a value that cannot be used; write {advice}")


def tls_options(url: str) -> dict[str, str | bool]:
    """Return what a ``rediss://`` URL says about TLS, by the names that redis-py has for it."""
    options: dict[str, str | bool] = dict(parse_qsl(urlsplit(url).query)) if url.startswith("rediss:") else {}
    if options.get("ssl_cert_reqs") == "none":
        options["ssl_check_hostname"] = False  # Python's ssl refuses to check the name alone
    elif "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"] == "true"
    return options


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
