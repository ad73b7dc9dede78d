"""The kinds of values that settings have: how each is read from text, checked, and written again.

A check raises :class:`ValueError` whose message says what to do and never repeats the value: a secret may stand in
the wrong place. The settings models use the same checks, so that an object made by hand obeys the same rules.
"""

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from config.durations import format_duration, parse_duration
from config.sizes import format_size, parse_size

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.IGNORECASE
)
_PROJECT = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
_ARCHITECTURES = {"x86_64": "x86_64", "x86-64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


@dataclass(frozen=True)
class Kind:
    """One kind of value."""

    label: str
    """How the documentation calls it."""
    parse: Callable[[str], Any]
    """Text to value; raises :class:`ValueError`. Repeating it on written text gives the same value."""
    write: Callable[[Any], str] = str
    """Value to text that ``parse`` reads back."""


def boolean(text: str) -> bool:
    """Read ``true`` and ``false`` in any case; also Spring's other words for them."""
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("neither true nor false; write one of them")
    return word in _TRUE


def line(text: str) -> str:
    """Check that text has no control characters: it may enter a header, a log line or a Redis key."""
    if _CONTROL.search(text):
        raise ValueError("holds a line break or another control character; remove it")
    return text


def username(text: str) -> str:
    """Check a user name for basic auth: without a colon (RFC 7617, section 2)."""
    if ":" in text:
        raise ValueError("a user name for basic auth cannot hold a colon; write the password to its own setting")
    return line(text)


def bearer_token(text: str) -> str:
    """Check a token as it stands in an ``Authorization`` header (RFC 6750): visible ASCII."""
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError("a token has no spaces, line breaks or accents; write the token alone, without 'Bearer'")
    return text


def whole(low: int, high: int) -> Callable[[str], int]:
    """Return a reader of whole numbers within bounds, both included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"not a whole number from {low} to {high}; write one")
        return int(text)

    return parse


def some_time(text: str) -> float:
    """Read a duration above zero, in seconds."""
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError("must be longer than zero; write for example 30s")
    return seconds


def host(text: str) -> str:
    """Check a host name or address that stands alone. An IPv6 address comes back in brackets, ready for a URL."""
    if "://" in text:
        raise ValueError("must be the host name alone, without a scheme; remove everything up to '://'")
    if "@" in text:
        raise ValueError("must be the host name alone; credentials in it are not supported")
    try:
        return f"[{ipaddress.IPv6Address(text.strip('[]'))}]"
    except ValueError:
        pass
    if ":" in text:
        raise ValueError("must be the host name alone; write the port to the setting 'port' beside it")
    if not _HOST.fullmatch(text):
        raise ValueError("not a host name; write for example proxy.example.com")
    return text


def http_url(text: str) -> str:
    """Check an address that requests can be sent to: http or https, and nothing secret inside."""
    parts = _split(text)
    if parts.scheme not in {"http", "https"}:
        raise ValueError("must begin with https:// or http://")
    _require_host(parts)
    if "@" in parts.netloc:
        raise ValueError("must not hold credentials; remove them and set username and password")
    if parts.query or parts.fragment:
        raise ValueError("must end with its path; remove what follows '?' or '#'")
    return text


def key_prefix(text: str) -> str:
    """Check what key names begin with: no characters that mean something in an ACL pattern or in a key of ours."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", text):
        raise ValueError("must be up to 64 letters, digits, dots, dashes and underscores; write for example vizfetch")
    return text


def redis_url(text: str) -> str:
    """Check ``redis://``, ``rediss://`` (with TLS), ``unix:///socket``, or ``sentinel://`` with a list of hosts."""
    if text.startswith(("sentinel:", "sentinels:")):
        return _sentinel_url(text)
    parts = _split(text)
    if parts.scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must begin with redis:// or rediss://")
    if parts.fragment:
        raise ValueError("must not hold '#'; percent-encode it as %23")
    if parts.scheme == "unix":
        return text
    _require_host(parts)
    if not re.fullmatch(r"(/[0-9]{0,9})?", parts.path):
        raise ValueError("must look like redis://user:password@host:6379/0; percent-encode '/' and '?' in the password")
    return text


def _sentinel_url(text: str) -> str:
    if re.search(r"\s", line(text)):
        raise ValueError("holds a space; write it as %20")
    found = re.fullmatch(r"sentinels?://([^@/?#]*@)?([^@/?#]+)/[^/?#]+(/[0-9]{1,9})?(\?[^#]*)?", text)
    if not found or not all(_is_host_and_port(place) for place in found[2].split(",")):
        raise ValueError("must look like sentinel://user:password@host:26379,host:26379/service/0")
    return text


def _is_host_and_port(text: str) -> bool:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?", text)
    return bool(found and (found[1].startswith("[") or _HOST.fullmatch(found[1])))


def storage_uri(text: str) -> str:
    """Check ``file:///directory`` or ``s3://bucket/prefix``."""
    parts = _split(text)
    if parts.scheme not in {"file", "s3"}:
        raise ValueError("must look like file:///directory or s3://bucket/prefix")
    if "@" in parts.netloc:
        raise ValueError("must not hold credentials; remove them and set accessKey and secretKey")
    if parts.query or parts.fragment:
        raise ValueError("must end with its path; remove what follows '?' or '#'")
    if parts.scheme == "file" and (parts.netloc not in {"", "localhost"} or not parts.path.startswith("/")):
        raise ValueError("must hold an absolute directory; write it with three slashes: file:///directory")
    if parts.scheme == "s3" and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]+", parts.netloc):
        raise ValueError("must name a bucket; write s3://bucket/prefix")
    return text


def directory(text: str) -> Path:
    """Read a directory, made absolute against the process's working directory. It need not exist yet."""
    line(text)
    try:
        return Path(os.path.abspath(text))  # noqa: PTH100 - Path.absolute() keeps '..'
    except OSError:
        raise ValueError("a relative directory needs a working directory, which is gone; write it from /") from None


def python_version(text: str) -> str:
    """Check a minor version of Python."""
    if not re.fullmatch(r"3\.[0-9]{1,2}", text):
        raise ValueError("not a minor version of Python; write for example 3.11")
    return text


def glibc_version(text: str) -> str:
    """Check a version of glibc; wheels are tagged from 2.5 on (PEP 600)."""
    if not re.fullmatch(r"2\.([5-9]|[1-9][0-9]{1,2})", text):
        raise ValueError("not a version of glibc; write for example 2.35")
    return text


def architecture(text: str) -> str:
    """Return a processor architecture under the name that wheels use."""
    known = _ARCHITECTURES.get(text.lower())
    if known is None:
        raise ValueError("not a supported architecture; write x86_64 or aarch64")
    return known


def unknown_age(text: str) -> str:
    """Read what files without an upload time are taken for."""
    word = text.lower()
    if word not in {"trust", "refuse"}:
        raise ValueError("neither trust nor refuse; write one of them")
    return word


def sdists(text: str) -> str | tuple[str, ...]:
    """Read ``never``, ``allow``, or project names separated by commas; names are normalised (PEP 503)."""
    if text.lower() in {"never", "allow"}:
        return text.lower()
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names or not all(_PROJECT.fullmatch(name) for name in names):
        raise ValueError("write never, allow, or names of projects separated by commas")
    normal = [re.sub(r"[-_.]+", "-", name).lower() for name in names]
    if {"never", "allow"} & set(normal):
        raise ValueError("never and allow stand alone; write one of them, or names of projects")
    return tuple(dict.fromkeys(normal))


def verification(text: str) -> str:
    """Read how a bundle is proved before it is published."""
    word = text.lower()
    if word not in {"check", "install"}:
        raise ValueError("neither check nor install; write one of them")
    return word


def _split(text: str) -> SplitResult:
    if re.search(r"\s", line(text)):
        raise ValueError("holds a space; write it as %20")
    try:
        parts = urlsplit(text)
        _ = parts.port  # computed on access; raises for anything but a port
    except ValueError:  # its message repeats the value
        raise ValueError("not a URL; check host and port") from None
    return parts


def _require_host(parts: SplitResult) -> None:
    name = parts.hostname
    if not name or (":" not in name and not _HOST.fullmatch(name)):
        raise ValueError("has no proper host name; write scheme://host/path")


def _write_boolean(value: bool) -> str:  # noqa: FBT001 - the one value it writes
    return str(value).lower()


def _write_sdists(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ",".join(value)


BOOLEAN = Kind("true or false", boolean, _write_boolean)
TEXT = Kind("text", line)
USERNAME = Kind("text", username)
TOKEN = Kind("text", bearer_token)
PORT = Kind("port", whole(1, 65535))
PORT_OR_NONE = Kind("port, or 0", whole(0, 65535))
DATABASE = Kind("number", whole(0, 9999))
COUNT = Kind("number", whole(1, 1000))
TIMEOUT = Kind("duration", some_time, format_duration)
DURATION = Kind("duration", parse_duration, format_duration)
SIZE = Kind("size", parse_size, format_size)
HOST = Kind("host", host)
HTTP_URL = Kind("URL", http_url)
REDIS_URL = Kind("URL", redis_url)
KEY_PREFIX = Kind("text", key_prefix)
STORAGE_URI = Kind("URI", storage_uri)
DIRECTORY = Kind("directory", directory)
PYTHON = Kind("version", python_version)
GLIBC = Kind("version", glibc_version)
ARCHITECTURE = Kind("x86_64 or aarch64", architecture)
VERIFY = Kind("check or install", verification)
UNKNOWN_AGE = Kind("trust or refuse", unknown_age)
SDISTS = Kind("never, allow, or names", sdists, _write_sdists)
