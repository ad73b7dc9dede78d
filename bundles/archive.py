"""Whether an archive is safe to unpack, and whole. Nothing is unpacked here."""

import base64
import csv
import hashlib
import os
import posixpath
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from installer.records import InvalidRecordEntry, RecordEntry, parse_record_file

from bundles.members import Header, content

MAX_MEMBERS = 100_000
"""Ten times what the largest wheels in use hold."""
MAX_EXPANDED_BYTES = 8 * 2**30
"""Three times what the largest wheels in use unpack to."""
MAX_DIRECTORY_BYTES = 16 * 2**20
"""Of the list of members, which is read whole before it can be counted; five times what large wheels have."""
MAX_TEXT_BYTES = 16 * 2**20
"""For a file that is read into memory whole: METADATA, WHEEL, RECORD."""

READ_ERRORS = (BadZipFile, zlib.error, struct.error, ValueError, EOFError, NotImplementedError, RuntimeError)
"""What ``zipfile`` raises over archives that lie about themselves."""

_END = struct.Struct("<4s6xHI4xH")
"""The record that ends an archive (APPNOTE 4.3.16): signature, number of members, bytes of their list, and bytes of
the comment that follows."""
_END_SIGNATURE = b"PK\x05\x06"
_MAX_COMMENT_BYTES = 2**16 - 1
_LOCATOR = struct.Struct("<4s16x")
_END64 = struct.Struct("<4s28xQQ8x")
"""The same of ZIP64 (APPNOTE 4.3.14): signature, number of members, bytes of their list. ``zipfile`` expects it just
before its locator, and that before the end."""
_SIZES_LATER = 0x8
"""The flag of a member whose CRC and sizes follow it."""
_LATER_BYTES = frozenset({12, 16, 20, 24})
"""How long that is: with or without a signature, in ZIP64 or not."""
_UTF_8 = 0x800
_IN_ZIP64 = 0xFFFFFFFF
_OTHER_NAME = 0x7075
"""The extra field that gives a member a second name (APPNOTE 4.6.9), which some readers take for the first."""
_ENCRYPTED = 0x1
_UNREADABLE = 0x20 | 0x40
"""Patched data and strong encryption (APPNOTE 4.4.4), which ``zipfile``, and so pip, does not read."""
_ALGORITHMS = frozenset({"sha256", "sha384", "sha512"})
"""PEP 427: sha256 or better; md5 and sha1 are not permitted."""
_SIGNATURES = frozenset({"RECORD.jws", "RECORD.p7s"})
"""PEP 427: they sign RECORD and so cannot stand in it."""


@dataclass(frozen=True)
class _End:
    """What an archive's end says of it."""

    members: int
    directory_bytes: int
    is_last: bool
    """Whether nothing follows."""


def open_archive(file: Path) -> ZipFile:
    """Open an archive for reading, unless the list of its members alone would fill the memory.

    Raises READ_ERRORS, or OSError.
    """
    with file.open("rb") as stream:
        end = _end(stream)
    if end is not None and end.directory_bytes > MAX_DIRECTORY_BYTES:
        raise ValueError(f"its list of files has {end.directory_bytes} bytes, more than {MAX_DIRECTORY_BYTES}")
    return ZipFile(file)


def _stream(archive: ZipFile) -> IO[bytes]:
    if archive.fp is None:
        raise ValueError("the archive is closed")
    return archive.fp


def _end(stream: IO[bytes]) -> _End | None:
    """Read the end of an archive where ``zipfile`` looks for it. Raises ValueError when it would find two."""
    size_bytes = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size_bytes - _END.size - _MAX_COMMENT_BYTES))
    tail = stream.read()
    at = len(tail) - _END.size
    if at < 0 or not (tail[at:].startswith(_END_SIGNATURE) and tail.endswith(b"\0\0")):
        at = tail.rfind(_END_SIGNATURE)
    if at < 0 or at + _END.size > len(tail):
        return None
    _, members, directory_bytes, comment_bytes = _END.unpack_from(tail, at)
    is_last = at + _END.size + comment_bytes == len(tail)
    place = size_bytes - len(tail) + at - _LOCATOR.size
    stream.seek(max(0, place))
    if stream.read(4) != b"PK\x06\x07":
        return _End(members, directory_bytes, is_last)
    stream.seek(max(0, place - _END64.size))
    signature, members, directory_bytes = _END64.unpack(stream.read(_END64.size))
    if signature != b"PK\x06\x06":
        raise ValueError("its end is not where it should be")
    return _End(members, directory_bytes, is_last)


def safety_issues(archive: ZipFile) -> list[str]:
    """Return what could harm whoever unpacks this: all of it, from the archive's directory alone."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        return [f"holds {len(members)} files, more than {MAX_MEMBERS}"]
    expanded_bytes = sum(member.file_size for member in members)
    end = _end(_stream(archive))
    # Otherwise it can be another archive to a reader that begins at its start: pip looks for the end, others do not.
    if end is None or not end.is_last or min((each.header_offset for each in members), default=0) != 0:
        return ["is not exactly one archive: there are other bytes before or after it"]
    if end.members != len(members):
        return [f"is not exactly one archive: it lists {len(members)} files and says that it has {end.members}"]
    issues = [issue for member in members for issue in _member_issues(member)]
    # Not left to reading: a seek to a negative place looks like an error of the disk.
    directory = archive.start_dir
    issues += [
        f"{each.filename!r} lies outside of the file" for each in members if not 0 <= each.header_offset < directory
    ]
    if expanded_bytes > MAX_EXPANDED_BYTES:
        issues.append(f"unpacks to {expanded_bytes} bytes, more than {MAX_EXPANDED_BYTES}")
    # Which one of two equal names wins differs between installers, so one could check what another runs.
    counted = Counter(member.filename.removesuffix("/") for member in members)
    issues += [f"{name!r} is there {count} times" for name, count in counted.items() if count > 1]
    folders = {posixpath.dirname(name) for name in counted}
    files = {member.filename for member in members if not member.is_dir()}
    issues += [f"{name!r} is a file and a folder" for name in sorted(files & folders)]
    return issues


def _member_issues(member: ZipInfo) -> Iterator[str]:
    name = member.filename
    # Python's name ends before a null character, other readers' does not.
    if not _is_safe(name) or name != member.orig_filename:
        yield f"{member.orig_filename!r} is not a plain relative path"
    if any(second != name.encode() for second in _second_names(member.extra)):
        yield f"{name!r} has a second name"
    if member.is_dir() and member.file_size:
        yield f"{name!r} is a folder with content of its own"
    # Installers differ in whether they make a link or a file of it, and a link may lead anywhere.
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        yield f"{name!r} is a link or another special file"
    if member.flag_bits & _ENCRYPTED:
        yield f"{name!r} is encrypted"
    if member.compress_type not in {ZIP_STORED, ZIP_DEFLATED} or member.flag_bits & _UNREADABLE:
        yield f"{name!r} is compressed in a way that not every installer reads"


def _second_names(extra: bytes) -> Iterator[bytes]:
    """Yield the names in a member's extra fields, each of which is a kind, a length and so many bytes."""
    while len(extra) >= 4:  # noqa: PLR2004 - kind and length
        kind, length = struct.unpack_from("<HH", extra)
        if kind == _OTHER_NAME:
            yield extra[9 : 4 + length]  # after the version and a CRC of the first name
        extra = extra[4 + length :]


def _is_safe(name: str) -> bool:
    """Tell whether a path stays below the folder it is unpacked into, on any system."""
    if not name.isprintable() or "\\" in name or name.startswith("/") or name[1:2] == ":":
        return False
    return all(part not in {"", ".", ".."} for part in name.removesuffix("/").split("/"))


def dist_info(archive: ZipFile) -> str:
    """Return the name of the archive's one ``.dist-info`` folder. Raises ValueError."""
    tops = {name.split("/", 1)[0] for name in archive.namelist()}
    found = sorted(top for top in tops if top.endswith(".dist-info"))
    if len(found) != 1:
        raise ValueError(f"has {len(found)} .dist-info folders instead of one")
    return found[0]


def read_text(archive: ZipFile, path: str) -> str:
    """Return a text file of the archive. Raises ValueError when it is missing, too large, broken or not UTF-8."""
    try:
        member = archive.getinfo(path)
    except KeyError:
        raise ValueError(f"{path} is missing") from None
    if member.file_size > MAX_TEXT_BYTES:
        raise ValueError(f"{path} is larger than {MAX_TEXT_BYTES} bytes")
    try:
        return archive.read(member).decode()
    except READ_ERRORS as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def record_issues(archive: ZipFile, info: str) -> list[str]:
    """Compare every file of the archive with RECORD (PEP 376 and 427), by size and hash; return all issues.

    Reads the archive to its end, and so checks every CRC as well. ``installer`` has a validation of its own,
    of which only the parser is used: it ends at the first wrong CRC and does not miss what RECORD alone names.
    """
    own_path = f"{info}/RECORD"
    try:
        named = list(parse_record_file(read_text(archive, own_path).splitlines()))
    except (ValueError, InvalidRecordEntry, csv.Error) as error:
        return [f"RECORD: {error}"]
    rows = {row[0]: row for row in named}
    # One reader takes the first of two rows, another the last; two equal ones do no harm, and do occur.
    issues = [f"{row[0]} is named in RECORD twice, and differently" for row in named if rows[row[0]] != row]
    stream = _stream(archive)
    issues += _header_issues(stream, archive)
    for member in archive.infolist():
        if posixpath.dirname(member.filename) == info and posixpath.basename(member.filename) in _SIGNATURES:
            issues += _signature_issues(stream, member)
        elif not member.is_dir():
            issues += _content_issues(stream, member, rows, info)
    present = set(archive.namelist())
    missing = (path for path in rows if path not in present and not path.endswith("/"))
    issues += [f"{path} is named in RECORD but missing" for path in missing]
    return issues


def _header_issues(stream: IO[bytes], archive: ZipFile) -> Iterator[str]:
    """Compare what stands before each member with the directory, as installers do that read an archive as it comes.

    Nor may there be anything between two members: to such a reader it would be one more.
    """
    members = sorted(archive.infolist(), key=lambda member: member.header_offset)
    places = [*(member.header_offset for member in members[1:]), archive.start_dir]
    for member, next_place in zip(members, places, strict=True):
        try:
            header = Header(stream, member)
        except BadZipFile:
            header = None
        if header is None or header.name != _raw_name(member):
            yield f"{member.filename!r} has another name before its content than in the archive's list"
            continue
        later = header.flags & _SIZES_LATER
        sizes = {(header.compressed_bytes, member.compress_size), (header.size_bytes, member.file_size)}
        same_sizes = all(here in {there, _IN_ZIP64} for here, there in sizes) and header.crc == member.CRC
        same_kind = (header.flags, header.compression) == (member.flag_bits, member.compress_type)
        if not same_kind or not (later or same_sizes):
            yield f"{member.filename!r} is of another kind or size before its content than in the archive's list"
        if next_place - header.end - member.compress_size not in (_LATER_BYTES if later else {0}):
            yield f"{member.filename!r} is followed by bytes that are no part of it"


def _raw_name(member: ZipInfo) -> bytes:
    return member.orig_filename.encode("utf-8" if member.flag_bits & _UTF_8 else "cp437")


def _signature_issues(stream: IO[bytes], member: ZipInfo) -> Iterator[str]:
    try:
        _digest(stream, member, "sha256")
    except BadZipFile as error:
        yield f"{member.filename} cannot be read: {error}"


def _content_issues(
    stream: IO[bytes], member: ZipInfo, rows: Mapping[str, tuple[str, str, str]], info: str
) -> Iterator[str]:
    path = member.filename
    if path not in rows:
        yield f"{path} is not named in RECORD"
        return
    try:
        entry = RecordEntry.from_elements(*rows[path])
    except InvalidRecordEntry as error:
        yield f"RECORD: {path}: {error}"
        return
    if path == f"{info}/RECORD":
        return
    if entry.hash_ is None or entry.hash_.name not in _ALGORITHMS:
        yield f"RECORD has no hash for {path}, or only a weak one"
        return
    try:
        digest = _digest(stream, member, entry.hash_.name)
    except BadZipFile as error:
        yield f"{path} cannot be read: {error}"
        return
    if digest != entry.hash_.value or entry.size not in {None, member.file_size}:
        yield f"{path} is not what RECORD says"


def _digest(stream: IO[bytes], member: ZipInfo, algorithm: str) -> str:
    """Return the hash of a member as RECORD writes it. Raises BadZipFile, also for a wrong CRC."""
    hasher = hashlib.new(algorithm)
    for block in content(stream, member):
        hasher.update(block)
    return base64.urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode()
