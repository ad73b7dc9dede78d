"""How values are said on the pages."""

import re
from datetime import UTC, datetime

from markupsafe import Markup

from jobs.errors import ErrorKind
from jobs.models import JobState

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_SHOWN_DIGITS_BELOW_SECONDS = 10


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago a moment was."""
    return f"{span(((now or datetime.now(UTC)) - moment).total_seconds())} ago"


def span(seconds: float) -> str:
    """Return a length of time in its largest unit; an agent's clock may be ahead of ours."""
    whole = max(int(seconds), 0)
    for unit, name in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")):
        if whole >= unit:
            return f"{whole // unit} {name}"
    return f"{whole} s"


def seconds(value: float) -> str:
    """Return a measured time."""
    if value < _SHOWN_DIGITS_BELOW_SECONDS:
        return f"{value:.2f} s"
    return f"{value:.1f} s" if value < _MINUTE else f"{int(value) // _MINUTE} min {int(value) % _MINUTE} s"


def moment(value: datetime) -> str:
    """Return a moment in full."""
    return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def kind(value: ErrorKind) -> str:
    """Return the kind of a failure as a heading."""
    text = value.replace("_", " ")
    return "TLS" if value is ErrorKind.TLS else text.capitalize()


def state(value: JobState) -> str:
    """Return a state as a heading."""
    return value.capitalize()


def plural(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def breakable(value: str) -> Markup:
    """Return a long name that may be broken where its parts meet; what it holds stays text."""
    return Markup("<wbr>").join(re.split(r"(?<=[._/])|(?<=[a-z])(?=[A-Z])", value))
