"""What a file is, seen from the inside: whether it is the one that its name says, and its metadata."""

import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from zipfile import ZipFile

from packaging.metadata import RawMetadata, parse_email
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    NormalizedName,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from bundles.archive import MAX_TEXT_BYTES, READ_ERRORS, dist_info

_HEADERS_END = re.compile(rb"\r?\n\r?\n")
_ESSENTIAL = re.compile(
    rb"^(?:Metadata-Version|Name|Version|Requires-Dist|Requires-Python|Provides-Extra|Dynamic)[ \t]*:"
    rb"[^\n]*(?:\n[ \t][^\n]*)*",
    re.MULTILINE | re.IGNORECASE,
)
"""These fields with their folded lines."""
_MAX_UNPACKED_BYTES = 2**30
"""How far into a source distribution its PKG-INFO is looked for."""
_MAX_READ_BYTES = MAX_TEXT_BYTES
"""At once. The directory of a wheel with the most files that one may have is as long."""
_MAX_TAR_HEADER_BYTES = 2**20
_TAR_HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
"""Entries that ``tarfile`` takes into memory whole: names and attributes of the next."""
_SOURCE_ERRORS = (*READ_ERRORS, tarfile.TarError, OSError, zlib.error)


class NotThisFile(Exception):
    """The file is not sound, or another one than its name says; the text says which."""


def metadata(path: Path, filename: str) -> bytes:
    """Return a wheel's METADATA, as PEP 658 has an index serve it, or a source distribution's PKG-INFO, if it has one.

    pip passes over a file that turns out to be another project's or version's, and takes an older one in silence. So it
    must not get one. Raises NotThisFile.
    """
    if not filename.endswith(".whl"):
        return _source(path, filename)
    try:
        with _zip(path) as archive:
            content = _metadata(archive)
    except READ_ERRORS as error:
        raise NotThisFile(f"it is not a readable wheel: {error}") from error
    require_named(content, filename)
    return content


def require_named(content: bytes, filename: str) -> None:
    """Raise NotThisFile when metadata is of another project or version than the file's name says."""
    named, raw = _named(filename), _parsed(content)
    found = canonicalize_name(raw.get("name", "")), _version(raw.get("version", ""))
    if named not in {None, found}:
        raise NotThisFile(f"inside it is {raw.get('name')} {raw.get('version')}")


def _named(filename: str) -> tuple[NormalizedName, Version] | None:
    """Return what a file's name says of its content; None where the name of a source does not follow PEP 625."""
    try:
        return parse_wheel_filename(filename)[:2] if filename.endswith(".whl") else parse_sdist_filename(filename)
    except InvalidWheelFilename as error:
        raise NotThisFile(str(error)) from error
    except InvalidSdistFilename:
        return None


def _source(path: Path, filename: str) -> bytes:
    """Return PKG-INFO (PEP 643); nothing where there is none, or where the name says nothing."""
    if _named(filename) is None:
        return b""
    try:
        content = _zipped(path) if filename.endswith(".zip") else _tarred(path)
    except _SOURCE_ERRORS as error:
        raise NotThisFile(f"it is not a readable source distribution: {error}") from error
    if content:
        require_named(content, filename)
    return content


@contextmanager
def _zip(path: Path) -> Iterator[ZipFile]:
    """Open an archive that may say anything of its own sizes."""
    with _Frugal(io.FileIO(path)) as file, ZipFile(file) as archive:
        yield archive


class _Frugal(io.BufferedReader):
    """Refuses to read more at once than a sound archive needs: ``zipfile`` takes its directory in whole."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read as always. Raises ValueError."""
        wanted = os.fstat(self.fileno()).st_size - self.tell() if size is None or size < 0 else size
        if wanted > _MAX_READ_BYTES:
            raise ValueError(f"its directory or a text in it is larger than {_MAX_READ_BYTES} bytes")
        return super().read(wanted)


class _TarHeader(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read a header as always. Raises tarfile.ReadError for one that would fill the memory."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in _TAR_HEADERS and found.size > _MAX_TAR_HEADER_BYTES:
            raise tarfile.ReadError(f"a name or an attribute in it is larger than {_MAX_TAR_HEADER_BYTES} bytes")
        return found


def _zipped(path: Path) -> bytes:
    with _zip(path) as archive:
        for member in archive.infolist():
            if _is_pkg_info(member.filename):
                if member.file_size > MAX_TEXT_BYTES:
                    raise ValueError(f"PKG-INFO is larger than {MAX_TEXT_BYTES} bytes")
                return archive.read(member)
    return b""


def _tarred(path: Path) -> bytes:
    # As a stream: an archive that unpacks to much more than its size is not read on.
    with tarfile.open(path, "r|*", tarinfo=_TarHeader) as archive:
        for member in archive:
            if member.isfile() and _is_pkg_info(member.name):
                if member.size > MAX_TEXT_BYTES:
                    raise ValueError(f"PKG-INFO is larger than {MAX_TEXT_BYTES} bytes")
                file = archive.extractfile(member)
                return file.read() if file else b""
            if member.offset_data + member.size > _MAX_UNPACKED_BYTES:
                return b""
    return b""


def _is_pkg_info(name: str) -> bool:
    parts = name.removeprefix("./").split("/")
    return parts[1:] == ["PKG-INFO"]


def differences(told: bytes, own: bytes) -> list[str]:
    """Return the names of the fields in which what an index says of a wheel differs from what the wheel says (PEP 658).

    Those that pip compares when it has both: they decide what else is fetched.
    """
    if told == own:
        return []
    theirs, ours = _deciding(told), _deciding(own)
    return [name for name in ours if theirs[name] != ours[name]]


def essentials(content: bytes) -> bytes:
    """Return of metadata what an installer goes by: neither a manual nor a licence, which make up most of it.

    pip reads all of it several times for every package. Headers end at the first empty line (core metadata, RFC 822).
    """
    headers = _HEADERS_END.split(content, maxsplit=1)[0]
    return b"".join(field.rstrip(b"\r\n") + b"\n" for field in _ESSENTIAL.findall(headers))


def _deciding(content: bytes) -> dict[str, object]:
    raw = _parsed(content)
    return {
        "Name": canonicalize_name(raw.get("name", "")),
        "Version": _version(raw.get("version", "")),
        "Requires-Dist": frozenset(map(_requirement, raw.get("requires_dist", []))),
        "Requires-Python": _specifiers(raw.get("requires_python", "")),
        "Provides-Extra": frozenset(map(canonicalize_name, raw.get("provides_extra", []))),
    }


def _parsed(content: bytes) -> RawMetadata:
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    return parse_email(text.partition("\n\n")[0])[0]


def _requirement(text: str) -> Requirement | str:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return text


def _specifiers(text: str) -> SpecifierSet | str:
    try:
        return SpecifierSet(text)
    except InvalidSpecifier:
        return text


def _metadata(archive: ZipFile) -> bytes:
    try:
        member = archive.getinfo(f"{dist_info(archive)}/METADATA")
    except KeyError:
        raise ValueError("METADATA is missing") from None
    if member.file_size > MAX_TEXT_BYTES:
        raise ValueError(f"METADATA is larger than {MAX_TEXT_BYTES} bytes")
    return archive.read(member)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
