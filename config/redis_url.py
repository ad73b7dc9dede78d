"""The Redis URL from the platform's separate settings, and back."""

from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

DEFAULT_PORT = 6379


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
    if split.query or split.scheme == "unix" or not split.hostname:
        return None
    return Parts(
        host=f"[{split.hostname}]" if ":" in split.hostname else split.hostname,
        port=split.port or DEFAULT_PORT,
        username=unquote(split.username) if split.username else None,
        password=unquote(split.password) if split.password else None,
        ssl=split.scheme == "rediss",
        database=int(split.path.strip("/") or 0),
    )
