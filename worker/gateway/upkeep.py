"""The cache as those who run an agent see it: what it holds, and how to empty it, also while agents use it."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from worker.gateway.cache import entries, remove_dead_parts


@dataclass(frozen=True)
class Amount:
    """Entries of one sort."""

    count: int
    size_bytes: int


@dataclass(frozen=True)
class Usage:
    """What a cache holds."""

    files: Amount
    pages: Amount
    last_used: float | None
    """When a file was last used, or a page last known to be right: seconds since the epoch. None for an empty cache."""


def usage(directory: Path) -> Usage:
    """Count what is there; a directory that does not exist holds nothing. Raises OSError when it cannot be read."""
    if directory.exists():
        next(directory.iterdir(), None)  # of a directory that cannot be read, a glob says that it is empty
    files, pages = ([*entries(directory / name)] for name in ("files", "pages"))
    return Usage(
        files=Amount(len(files), sum(entry.size_bytes for entry in files)),
        pages=Amount(len(pages), sum(entry.size_bytes for entry in pages)),
        last_used=max((entry.used_at for entry in [*files, *pages]), default=None),
    )


def clear(directory: Path) -> None:
    """Remove everything kept, and what dead processes left behind.

    Agents that run lose nothing but time: who has a file open keeps reading it. Raises OSError when something may not
    be removed.
    """
    for sort in ("files", "pages"):
        for entry in entries(directory / sort):
            entry.path.unlink(missing_ok=True)
    for link in _listed(directory / "links"):
        link.unlink(missing_ok=True)
    remove_dead_parts(directory / "part")


def _listed(directory: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return list(directory.iterdir())
    return []
