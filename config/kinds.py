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
from urllib.parse import SplitResult, unquote, urlsplit

from config import redis_url as redis_urls
from config.durations import format_duration, parse_duration
from config.sizes import format_size, parse_size

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
"""What Python makes of bytes that are no text in the process's encoding (PEP 383)."""
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.IGNORECASE
)
_PROJECT = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
_LAST_PORT = 65535
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
    native: bool = False
    """Whether YAML knows such values, so that they need not be written as text."""


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
    if _NO_TEXT.search(text):
        raise ValueError("holds bytes that are not UTF-8 text; write it in UTF-8")
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


def between(low: str, high: str) -> Callable[[str], float]:
    """Return a reader of durations, in seconds, within bounds, both included."""
    shortest, longest = parse_duration(low), parse_duration(high)

    def parse(text: str) -> float:
        seconds = parse_duration(text)
        if seconds <= 0 < shortest:
            raise ValueError("must be longer than zero; write for example 30s")
        if not shortest <= seconds <= longest:
            raise ValueError(f"must be from {low} to {high}")
        return seconds

    return parse


def duration(low: str, high: str) -> "Kind":
    """Return the kind of durations within bounds."""
    return Kind(f"duration, {low} to {high}", between(low, high), format_duration)


def count(low: int, high: int) -> "Kind":
    """Return the kind of whole numbers within bounds."""
    return Kind(f"number, {low} to {high}", whole(low, high), native=True)


def some_space(text: str) -> int:
    """Read a size, in bytes, that has room for the pages of one package at least."""
    size_bytes = parse_size(text)
    if size_bytes < parse_size("1MiB"):
        raise ValueError("must be at least 1MiB; write for example 10GiB")
    return size_bytes


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
    return _http_url(text, "username and password")


def endpoint_url(text: str) -> str:
    """Check the address of an S3 service, which has other credentials than an index."""
    return _http_url(text, "accessKey and secretKey")


def _http_url(text: str, credentials: str) -> str:
    parts = _split(text)
    if parts.scheme not in {"http", "https"}:
        raise ValueError("must begin with https:// or http://")
    _require_host(parts)
    if "@" in parts.netloc:
        raise ValueError(f"must not hold credentials; remove them and set {credentials}")
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
    if not text.startswith(("redis:", "rediss:", "unix:")):  # clients know these in lower case only
        raise ValueError("must begin with redis:// or rediss://")
    if parts.fragment:
        raise ValueError("must not hold '#'; percent-encode it as %23")
    redis_urls.check_options(parts)
    if parts.scheme == "unix":
        if not re.fullmatch(r"unix://([^/@]*@)?/.+", text):
            raise ValueError("must name a socket; write unix:///run/redis.sock")
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
    redis_urls.check_options(urlsplit(text))
    return text


def _is_host_and_port(text: str) -> bool:
    found = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?", text)
    if not found or not 1 <= int(found[2] or 1) <= _LAST_PORT:
        return False
    return found[1].startswith("[") or bool(_HOST.fullmatch(found[1]))


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
    line(unquote(parts.path))
    if parts.scheme == "s3" and not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9._-]+", parts.netloc):
        raise ValueError("must name a bucket; write s3://bucket/prefix")
    return text


def directory(text: str) -> Path:
    """Read a directory, made absolute against the process's working directory. It need not exist yet."""
    if line(text).startswith("~"):
        raise ValueError("begins with ~, which nobody replaces here; write the directory in full, from /")
    try:
        return Path(os.path.abspath(text))  # noqa: PTH100 - Path.absolute() keeps '..'
    except OSError:
        raise ValueError("a relative directory needs a working directory, which is gone; write it from /") from None


def audit_place(text: str) -> Path | str:
    """Read where the audit record goes: ``stdout``, or a file, as ``directory`` reads it."""
    return "stdout" if text in {"stdout", "-"} else directory(text)


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
        port = parts.port  # computed on access; raises for anything but a port
    except ValueError:  # its message repeats the value
        raise ValueError("not a URL; check host and port") from None
    if port == 0:
        raise ValueError("holds the port 0, where nothing can listen; write the service's own")
    return parts


def _require_host(parts: SplitResult) -> None:
    name = parts.hostname
    if not name or (":" not in name and not _HOST.fullmatch(name)):
        raise ValueError("has no proper host name; write scheme://host/path")


def _write_boolean(value: bool) -> str:  # noqa: FBT001 - the one value it writes
    return str(value).lower()


def _write_sdists(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ",".join(value)


BOOLEAN = Kind("true or false", boolean, _write_boolean, native=True)
TEXT = Kind("text", line)
USERNAME = Kind("text", username)
TOKEN = Kind("text", bearer_token)
PORT = Kind("port", whole(1, _LAST_PORT), native=True)
PORT_OR_NONE = Kind("port, or 0", whole(0, _LAST_PORT), native=True)
DATABASE = Kind("number", whole(0, 9999), native=True)
SIZE = Kind("size", parse_size, format_size)
CACHE_SIZE = Kind("size, from 1MiB", some_space, format_size)
HOST = Kind("host", host)
HTTP_URL = Kind("URL", http_url)
ENDPOINT_URL = Kind("URL", endpoint_url)
REDIS_URL = Kind("URL", redis_url)
KEY_PREFIX = Kind("text", key_prefix)
STORAGE_URI = Kind("URI", storage_uri)
DIRECTORY = Kind("directory", directory)
AUDIT = Kind("file, or stdout", audit_place)
PYTHON = Kind("version", python_version)
GLIBC = Kind("version", glibc_version)
ARCHITECTURE = Kind("x86_64 or aarch64", architecture)
VERIFY = Kind("check or install", verification)
UNKNOWN_AGE = Kind("trust or refuse", unknown_age)
SDISTS = Kind("never, allow, or names", sdists, _write_sdists)
