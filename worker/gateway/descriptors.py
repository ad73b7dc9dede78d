"""Open files that several readers share."""

from pathlib import Path


def open_again(descriptor: int) -> Path:
    """Return a path that opens the very same bytes, with a position of its own, also after an eviction."""
    return Path(f"/proc/self/fd/{descriptor}")
