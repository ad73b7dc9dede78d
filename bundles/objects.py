"""What every store tells of an object."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class StoredObject:
    """What a listing tells of an object."""

    path: str
    size_bytes: int
    modified: datetime
    """By the store's clock."""
