"""Whether one file is a sound wheel, the one that its index promised, and good for the target."""

import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from io import BufferedReader
from pathlib import Path
from typing import Self, TypeVar
from zipfile import ZipFile

from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag
from packaging.utils import (
    BuildTag,
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version
from pydantic import BaseModel, ValidationError

from bundles.archive import READ_ERRORS, dist_info, open_archive, read_text, record_issues, safety_issues
from bundles.digest import opened_digest
from bundles.errors import BrokenWheel, HashMismatch, WrongTarget
from bundles.libraries import loading_issue
from bundles.models import BundledWheel, Origin
from bundles.placement import placement_issues
from bundles.proofs import Proofs
from bundles.target import fits, full_version
from config.settings import Target

_T = TypeVar("_T")
_MAX_LICENSE_NAME = 100
_MAX_LICENSES = 20
_MAX_EXPRESSION = 1000
_MAX_HEADERS = 2**20
"""Of METADATA without the description; a hundred times what packages in use have."""
_MAX_REMEMBERED_BYTES = 2**18
"""Of what a wheel says; one that says more is read again. Four times what boto3-stubs says."""
_MAX_VALUE = 4000
"""Of one requirement or version. Python reads numbers of at most 4300 digits."""
_SHOWN_TAGS = 10
_TICK_NS = 2_000_000_000
"""As long as the clock of any file system stands still: FAT's does for two seconds."""
_DECISIVE = {
    "name": "Name",
    "version": "Version",
    "requires-python": "Requires-Python",
    "requires-dist": "Requires-Dist",
    "provides-extra": "Provides-Extra",
}
"""What a bundle depends on, by the names that are left over from parsing when they cannot be understood."""
_Label = tuple[NormalizedName, Version, BuildTag, frozenset[Tag]]


@dataclass(frozen=True)
class Metadata:
    """What a sound wheel says about itself (core metadata), as far as a bundle depends on it."""

    name: NormalizedName
    version: Version
    requires: tuple[Requirement, ...]
    requires_python: SpecifierSet
    extras: frozenset[NormalizedName]
    licenses: tuple[str, ...]


@dataclass(frozen=True)
class CheckedWheel:
    """A file that passed all checks on its own."""

    file: Path
    wheel: BundledWheel
    metadata: Metadata


def check_wheel(file: Path, origin: Origin | None, target: Target, proofs: Proofs | None = None) -> CheckedWheel:
    """Check one file, whole. ``origin`` is what its index said, None when no index is known to have served it.

    Content that ``proofs`` knows is not read to its end again, and a file that this process has hashed is not hashed
    again: as a link to a cached file it is met in one bundle after the other.

    Raises HashMismatch, BrokenWheel (with every issue) or WrongTarget, whichever comes first in that order:
    bytes that nobody promised are not looked at, and a broken wheel's tags say nothing.
    """
    if origin is None:
        raise BrokenWheel(file.name, ["no index is known to have served this file"])
    sha256 = _digest(file)
    if origin.sha256 is not None and origin.sha256 != sha256:
        raise HashMismatch(file.name, origin.sha256, sha256)
    content = Content(file.name, sha256, file, proofs or Proofs())
    metadata, tags = _inspect(content)
    _check_target(content, metadata, tags, target)
    wheel = BundledWheel(
        name=metadata.name,
        version=str(metadata.version),
        filename=file.name,
        sha256=sha256,
        size_bytes=file.stat().st_size,
        index=origin.index,
        yanked=origin.yanked,
        built=origin.built,
        licenses=metadata.licenses,
    )
    return CheckedWheel(file, wheel, metadata)


def look_ahead(file: Path, proofs: Proofs) -> None:
    """Do what ``check_wheel`` need not do again: hash a file and read it to its end. What is wrong, that will tell.

    For files that nobody writes to any more: one that may be written just now is left alone.
    """
    with suppress(BrokenWheel, OSError):
        with file.open("rb") as stream:
            opened = _Opened.of(stream)
            sha256 = _remembered_digest(opened) if opened.is_settled else None
        if sha256 is not None:
            _inspect(Content(file.name, sha256, file, proofs))


def _check_target(content: "Content", metadata: Metadata, tags: frozenset[Tag], target: Target) -> None:
    filename = content.filename
    if not fits(tags, target):
        # A file name can hold thousands.
        shown = ", ".join([*sorted(map(str, tags))[:_SHOWN_TAGS], *(["…"] if len(tags) > _SHOWN_TAGS else [])])
        machine = f"CPython {target.python}, glibc {target.glibc}, {target.architecture}"
        raise WrongTarget(filename, f"its tags are {shown}, the target is {machine}")
    if reason := _loading_issue(content, tags, target):
        raise WrongTarget(filename, f"{reason}, the target has glibc {target.glibc}")
    # Pre-releases of Python count: the running interpreter may be one, and pip accepts it too.
    if not metadata.requires_python.contains(full_version(target), prereleases=True):
        raise WrongTarget(filename, f"it requires Python {metadata.requires_python}, the target has {target.python}")


@dataclass(frozen=True)
class _Opened:
    """An open file, by what changes when somebody writes to it or puts another in its place; its names do not count."""

    device: int
    inode: int
    size_bytes: int
    written_ns: int
    stream: BufferedReader = field(compare=False)

    @classmethod
    def of(cls, stream: BufferedReader) -> Self:
        """Return it as it is now."""
        status = os.fstat(stream.fileno())
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, stream)

    @property
    def is_settled(self) -> bool:
        """Whether the next write will show: two within a tick of the clock have the same time."""
        return time.time_ns() - self.written_ns > _TICK_NS


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        opened = _Opened.of(stream)
        return _remembered_digest(opened) if opened.is_settled else opened_digest(stream)


@lru_cache(maxsize=4096)
def _remembered_digest(opened: _Opened) -> str:
    return opened_digest(opened.stream)


@dataclass(frozen=True)
class Content:
    """A file that counts as the same wherever it lies."""

    filename: str
    sha256: str
    file: Path = field(compare=False)
    proofs: Proofs = field(compare=False, default_factory=Proofs)


@lru_cache(maxsize=1024)
def _loading_issue(content: Content, tags: frozenset[Tag], target: Target) -> str | None:
    return loading_issue(content.file, tags, target)


class _Said(BaseModel, frozen=True):
    """What METADATA says that a bundle depends on, as it stands there."""

    name: str
    version: str
    requires: tuple[str, ...]
    requires_python: str
    extras: tuple[str, ...]
    licenses: tuple[str, ...]


class _Facts(BaseModel, frozen=True):
    """What an archive says of itself; of a sound one remembered with the proof, so that nobody opens it for that."""

    info: str
    """The name of its ``.dist-info`` folder."""
    said: _Said | None
    """None where METADATA cannot be read."""


@lru_cache(maxsize=1024)
def _inspect(content: Content) -> tuple[Metadata, frozenset[Tag]]:
    """Read the archive, once for each content in a process: most wheels are shared by many bundles.

    Raises BrokenWheel, which is not remembered.
    """
    file = content.file
    try:
        label = parse_wheel_filename(file.name)
    except InvalidWheelFilename as error:
        raise BrokenWheel(file.name, [str(error)]) from error
    try:
        issues, facts = _proved(content)
    except READ_ERRORS as error:
        raise BrokenWheel(file.name, [f"is not a readable archive: {error}"]) from error
    metadata = None if facts is None else _compared(facts, label, issues)
    if metadata is None or issues:
        raise BrokenWheel(file.name, issues)
    return metadata, label[3]


def _proved(content: Content) -> tuple[list[str], _Facts | None]:
    """Return every issue of the archive, none when it is known to be sound, and what it says of itself."""
    with content.proofs.of(content.sha256) as proof:
        with suppress(ValidationError):
            return [], _Facts.model_validate_json(proof.known)
        with open_archive(content.file) as archive:
            issues, facts = _read(archive)
        known = b"" if facts is None or issues else facts.model_dump_json().encode()
        if 0 < len(known) <= _MAX_REMEMBERED_BYTES:
            proof.note(known)
    return issues, facts


def _read(archive: ZipFile) -> tuple[list[str], _Facts | None]:
    """Return every issue of the archive, and what it says of itself unless that is unsafe to read."""
    # An unsafe archive is not read any further: it may be made to cost hours or memory.
    if issues := safety_issues(archive):
        return issues, None
    try:
        info = dist_info(archive)
    except ValueError as error:
        return [str(error)], None
    issues = _format_issues(archive, info)
    facts = _Facts(info=info, said=_said(archive, info, issues))
    return [*issues, *placement_issues(archive, info), *record_issues(archive, info)], facts


def _format_issues(archive: ZipFile, info: str) -> list[str]:
    """Compare the format's version with what installers know."""
    try:
        found = re.search(r"^Wheel-Version:\s*(\d+)\.", read_text(archive, f"{info}/WHEEL"), re.MULTILINE)
    except ValueError as error:
        return [str(error)]
    if found is None or found[1] != "1":
        return ["WHEEL does not name version 1 of the wheel format, which installers know"]
    return []


def _said(archive: ZipFile, info: str, issues: list[str]) -> _Said | None:
    """Return what METADATA says; problems are added to ``issues``."""
    try:
        text = read_text(archive, f"{info}/METADATA")
    except ValueError as error:
        issues.append(str(error))
        return None
    # Only the header part: the description is of no interest, and long.
    headers = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    if len(headers) > _MAX_HEADERS:
        issues.append(f"METADATA has more than {_MAX_HEADERS} characters before its description")
        return None
    raw, unclear = parse_email(headers)
    # Installers take the first of two, or none.
    issues += [f"METADATA has {_DECISIVE[each]} twice, or not as text" for each in _DECISIVE if each in unclear]
    return _Said(
        name=raw.get("name", ""),
        version=raw.get("version", ""),
        requires=tuple(raw.get("requires_dist", ())),
        requires_python=raw.get("requires_python", ""),
        extras=tuple(raw.get("provides_extra", ())),
        licenses=_licenses(raw),
    )


def _compared(facts: _Facts, label: _Label, issues: list[str]) -> Metadata | None:
    """Compare the file's name with the folder's and the metadata's, and return these; problems go to ``issues``."""
    name, _, version = facts.info.removesuffix(".dist-info").partition("-")
    if canonicalize_name(name) != label[0] or _parsed(Version, version) != label[1]:
        issues.append(f"{facts.info} does not belong to {label[0]} {label[1]}")
    return None if facts.said is None else _metadata(facts.said, label, issues)


def _metadata(said: _Said, label: _Label, issues: list[str]) -> Metadata | None:
    """Understand METADATA; problems are added to ``issues``."""
    if (canonicalize_name(said.name), _parsed(Version, said.version)) != label[:2]:
        named = f"{said.name or None} {said.version or None}"
        issues.append(f"METADATA is of {named}, the file name says {label[0]} {label[1]}")
    requires_python = _parsed(SpecifierSet, said.requires_python)
    if requires_python is None:
        issues.append(f"METADATA: Requires-Python {said.requires_python!r} is not valid")
        return None
    extras = frozenset(map(canonicalize_name, said.extras))
    return Metadata(label[0], label[1], _requires(said.requires, issues), requires_python, extras, said.licenses)


def _requires(lines: Iterable[str], issues: list[str]) -> tuple[Requirement, ...]:
    parsed = [(line, _parsed(Requirement, line)) for line in lines]
    issues += [f"METADATA: Requires-Dist {line!r} is not valid" for line, made in parsed if made is None]
    return tuple(made for _, made in parsed if made is not None)


def _licenses(raw: RawMetadata) -> tuple[str, ...]:
    """Return the expression (PEP 639), else the short text, else the classifiers that tell of licences."""
    if (expression := raw.get("license_expression")) and len(expression) <= _MAX_EXPRESSION:
        return (_printable(expression),)
    text = raw.get("license", "").strip()
    # Some authors put the licence's whole text there.
    if text and text.upper() != "UNKNOWN" and "\n" not in text and len(text) <= _MAX_LICENSE_NAME:
        return (_printable(text),)
    lines = (line.split("::") for line in raw.get("classifiers", []) if line.startswith("License ::"))
    names = {_printable(parts[-1].strip())[:_MAX_LICENSE_NAME] for parts in lines} - {"", "OSI Approved"}
    return tuple(sorted(names)[:_MAX_LICENSES])


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _parsed(kind: Callable[[str], _T], text: str) -> _T | None:
    if len(text) > _MAX_VALUE:
        return None
    try:
        return kind(text)
    except (InvalidVersion, InvalidSpecifier, InvalidRequirement, RecursionError):
        return None
