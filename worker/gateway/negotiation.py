"""Which form of a page a client gets (PEP 691; RFC 9110, 12.5.1)."""

import re
from collections.abc import Iterator

from worker.gateway.pages import HTML_TYPE, JSON_TYPE

OFFERED = ("text/html", JSON_TYPE, HTML_TYPE)
"""What there is; of those that a client likes equally well, the first: a client that names nothing is an old one."""
_LATEST = {
    "application/vnd.pypi.simple.latest+json": JSON_TYPE,
    "application/vnd.pypi.simple.latest+html": HTML_TYPE,
}
_QUALITY = re.compile(r"(?:0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")


def negotiate(accept: str) -> str | None:
    """Return the type that a client likes best, or None when it wants none of those that there are."""
    if not accept.strip():
        return OFFERED[0]
    wishes = list(_wishes(accept))
    qualities = {offered: _quality(offered, wishes) for offered in OFFERED}
    # Among equals, one that was named comes before one that a wildcard let in, and of those named JSON.
    named = {media_type for media_type, _ in wishes}
    best = min(OFFERED, key=lambda offered: (-qualities[offered], offered not in named, _rank(offered, named)))
    return best if qualities[best] > 0 else None


def _rank(offered: str, named: set[str]) -> int:
    return (JSON_TYPE, HTML_TYPE, OFFERED[0]).index(offered) if offered in named else OFFERED.index(offered)


def _wishes(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        yield _LATEST.get(media_type, media_type), _weight(parameters)


def _weight(parameters: list[str]) -> float:
    """Read a quality; one that makes no sense counts as if it were not there."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q" and _QUALITY.fullmatch(value.strip()):
            return float(value)
    return 1.0


def _quality(offered: str, wishes: list[tuple[str, float]]) -> float:
    """Return how much a client likes a type: the most exact of its words on it counts."""
    for wildcard in (offered, f"{offered.partition('/')[0]}/*", "*/*"):
        found = [quality for media_type, quality in wishes if media_type == wildcard]
        if found:
            return max(found)
    return 0.0
