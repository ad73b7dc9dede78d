"""URLs of indexes: origins, what may be shown of them, and where a request must not be led."""

import ipaddress
import re
import socket
import unicodedata
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import urllib3.exceptions
from urllib3.util import parse_url

_PORTS = {"http": 80, "https": 443}
_UNSOUND = re.compile(r"[\\\x00-\x20\x7f]")
"""Where URL parsers disagree about the end of the host: for one a backslash ends it, for another it does not."""
_EMBEDDING = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b::/96"))
"""IPv4 addresses in IPv6 form: compatible (RFC 4291, 2.5.5.1) and translated (RFC 6052)."""

Origin = tuple[str, str, int]
Locality = Literal["loopback", "link"]


def origin(url: str) -> Origin | None:
    """Return scheme, host and port (RFC 6454), or None for anything that is not plain HTTP(S).

    Read by the parser that also decides where a request goes; None when the standard library's reads it otherwise. Who
    writes a URL must not be able to have credentials meant for one host sent to another.
    """
    try:
        parts, found = urlsplit(url), parse_url(url)
        same = (parts.hostname, parts.port) == (_bare(found.host or ""), found.port)
    except (ValueError, urllib3.exceptions.LocationParseError):
        return None
    if found.scheme not in _PORTS or not found.host or _UNSOUND.search(parts.netloc):
        return None
    # A host in another script is written in ASCII by one of the two only (RFC 5891).
    if not same and (parts.hostname or "").isascii():
        return None
    return found.scheme, _bare(found.host), found.port or _PORTS[found.scheme]


def _bare(host: str) -> str:
    return host.strip("[]").replace("%25", "%").lower()


def shown(url: str) -> str:
    """Return the URL without credentials, query and fragment: signed links carry secrets in their query."""
    try:
        parts = urlsplit(url)
        host = _host(parts)
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{host}{parts.path}"


def _host(parts: SplitResult) -> str:
    name = parts.hostname or ""
    return (f"[{name}]" if ":" in name else name) + (f":{parts.port}" if parts.port else "")


def locality(host: str) -> Locality | None:
    """Tell whether a host name or address means this machine or its link, without asking the network.

    Reads addresses in all forms that resolvers do: ``2130706433`` and ``0x7f.1`` are 127.0.0.1 too.
    """
    name = unicodedata.normalize("NFKC", host).lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return "loopback"
    address = _address(name.strip("[]").partition("%")[0])
    if address is None:
        return None
    if address.is_loopback or address.is_unspecified:
        return "loopback"
    return "link" if address.is_link_local else None


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        try:
            return ipaddress.IPv4Address(socket.inet_aton(text))
        except OSError:
            return None
    return address if isinstance(address, ipaddress.IPv4Address) else _embedded(address) or address


def _embedded(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for."""
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    found = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    # ``::`` and ``::1`` are addresses of their own.
    inside = any(address in network for network in _EMBEDDING) and int(address) > 1
    return found if inside else None
