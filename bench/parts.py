"""The parts of the bench by their names."""

from collections.abc import Callable, Mapping

from bench import idle, latency, listing, lists, memory, start, unchanged
from bench.figures import Results
from bench.options import Options

_PARTS: Mapping[str, Callable[[Options], Results]] = {
    "cold": lists.cold,
    "warm": lists.warm,
    "unchanged": unchanged.measure,
    "overhead": idle.measure,
    "listing": listing.measure,
    "latency": latency.measure,
    "memory": memory.measure,
    "start": start.measure,
    "public": lists.public,
}
NAMES = tuple(_PARTS)
LOCAL = tuple(name for name in NAMES if name != "public")
"""Those that need nothing but this machine, once the mirror is there."""


def run(name: str, options: Options) -> Results:
    """Run a part."""
    return _PARTS[name](options)
