"""What the libraries inside a wheel need of the machine, whatever its file name says."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO
from zipfile import ZipFile

from packaging.tags import Tag

from bundles.target import glibc_minor, plain_linux, platforms
from config.settings import Target

_ELF = b"\x7fELF"
_SYMBOLS = re.compile(rb"GLIBC_2\.([0-9]{1,3})(?:\.[0-9]{1,3})?\0")
"""How a library names the version of glibc that it needs, in its table of strings."""
_MUSL = re.compile(rb"(?:libc\.musl-|ld-musl-)")
_READ_BYTES = 2**20
_OVERLAP_BYTES = 64
"""More than a name that is looked for has: it may lie across the border of two reads."""


def loading_issue(file: Path, tags: Iterable[Tag], target: Target) -> str | None:
    """Return why the target cannot load the libraries in a wheel with these tags, or None.

    Only where no tag promises anything of the C library: ``linux`` says as little as the machine that built it knew.
    Raises what ``zipfile`` raises over broken archives.
    """
    accepted = set(platforms(target))
    if any(tag.platform == "any" or tag.platform in accepted - {plain_linux(target)} for tag in tags):
        return None
    with ZipFile(file) as archive:
        needed, musl = _needs(archive)
    if musl:
        return "it needs musl"
    return f"it needs glibc 2.{needed}" if needed > glibc_minor(target) else None


def _needs(archive: ZipFile) -> tuple[int, bool]:
    """Return N of the newest glibc 2.N that the libraries name, 0 for none, and whether one names musl."""
    newest, musl = 0, False
    for part in _parts(archive):
        newest = max(newest, *(int(minor) for minor in _SYMBOLS.findall(part)), 0)
        musl = musl or _MUSL.search(part) is not None
    return newest, musl


def _parts(archive: ZipFile) -> Iterator[bytes]:
    """Yield the content of all libraries in overlapping parts."""
    for member in archive.infolist():
        with archive.open(member) as file:
            if file.read(len(_ELF)) == _ELF:
                yield from _overlapping(file)


def _overlapping(file: IO[bytes]) -> Iterator[bytes]:
    tail = b""
    while chunk := file.read(_READ_BYTES):
        yield tail + chunk
        tail = (tail + chunk)[-_OVERLAP_BYTES:]
