"""What content is known by."""

import hashlib
import json
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path

from bundles.models import BundledWheel
from config.settings import Target


def file_digest(file: Path) -> str:
    """Return the sha256 of a file's content, in hexadecimal."""
    with file.open("rb") as stream:
        return opened_digest(stream)


def opened_digest(stream: BufferedReader) -> str:
    """Return the sha256 of what an open file holds from where it stands, in hexadecimal."""
    return hashlib.file_digest(stream, "sha256").hexdigest()


def stream_digest(chunks: Iterable[bytes]) -> tuple[str, int]:
    """Return the sha256 of a content in parts, in hexadecimal, and how many bytes it has."""
    hasher, size_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        hasher.update(chunk)
        size_bytes += len(chunk)
    return hasher.hexdigest(), size_bytes


def bundle_id(wheels: Iterable[BundledWheel], target: Target) -> str:
    """Return a digest of the wheel set and the target, and of nothing else."""
    content = {
        "target": target.model_dump(mode="json"),
        "wheels": sorted([wheel.filename, wheel.sha256] for wheel in wheels),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
