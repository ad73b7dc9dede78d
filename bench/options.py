"""What a run of the bench is told."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What all parts may go by."""

    mirror: Path
    """The directory of the local mirror."""
    rounds: int = 3
    without: frozenset[str] = frozenset()
    """Peers that are left out, to look at vizfetch alone."""
