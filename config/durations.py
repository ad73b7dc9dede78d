"""Durations as the platform writes them: ``500ms``, ``30s``, ``5m``, ``2h``, ``1d``, or ISO 8601 (``PT1M30S``).

The simple form follows Spring Boot's, the other ``java.time.Duration``: the two that users know. A number without a
unit is refused, since Spring reads it as milliseconds and most people mean seconds.
"""

import re
from decimal import Decimal

MAX_SECONDS = 365 * 86400
"""A year: far below what sockets and clocks can take, far above any sensible timeout."""

_MICROSECONDS = {"ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_SIMPLE = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)", re.IGNORECASE)
_ISO = re.compile(
    r"P(?:(?P<d>[0-9]{1,9})D)?"
    r"(?:T(?=[0-9])(?:(?P<h>[0-9]{1,9})H)?(?:(?P<m>[0-9]{1,9})M)?(?:(?P<s>[0-9]{1,9}(?:\.[0-9]{1,9})?)S)?)?",
    re.IGNORECASE,
)


def parse_duration(text: str) -> float:
    """Return seconds, exact to the microsecond.

    Raises :class:`ValueError`, without the text in its message.
    """
    microseconds = _simple(text)
    if microseconds is None:
        microseconds = _iso(text)
    if microseconds is None:
        raise ValueError(_advice(text))
    if microseconds > MAX_SECONDS * 1_000_000:
        raise ValueError("longer than a year; write a shorter time")
    return microseconds / 1_000_000


def format_duration(seconds: float) -> str:
    """Write ``seconds`` in the shortest form that :func:`parse_duration` reads back to the same value."""
    microseconds = round(seconds * 1_000_000)
    if microseconds == 0:
        return "0s"
    for unit in ("h", "m", "s", "ms"):
        if microseconds % _MICROSECONDS[unit] == 0:
            return f"{microseconds // _MICROSECONDS[unit]}{unit}"
    return f"PT{Decimal(microseconds) / 1_000_000:f}S"


def _simple(text: str) -> int | None:
    found = _SIMPLE.fullmatch(text)
    return found and int(found[1]) * _MICROSECONDS[found[2].lower()]


def _iso(text: str) -> int | None:
    found = _ISO.fullmatch(text)
    parts = {unit: value for unit, value in found.groupdict().items() if value} if found else {}
    if not parts:
        return None
    return int(sum(Decimal(value) * _MICROSECONDS[unit] for unit, value in parts.items()))


def _advice(text: str) -> str:
    if re.fullmatch(r"[0-9]+", text):
        return "a duration needs a unit; write for example 30s, or 30ms if milliseconds are meant"
    return "not a duration; write for example 500ms, 30s, 5m, 2h or PT1M30S"
