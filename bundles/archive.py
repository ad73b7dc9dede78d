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
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from installer.records import InvalidRecordEntry, RecordEntry, parse_record_file

MAX_MEMBERS = 100_000
"""Ten times what the largest wheels in use hold."""
MAX_EXPANDED_BYTES = 8 * 2**30
"""Three times what the largest wheels in use unpack to."""
_END = struct.Struct("<4s16xH")
"""The record that ends an archive, before its comment: signature, and the comment's length."""
_END_SIGNATURE = b"PK\x05\x06"
MAX_TEXT_BYTES = 16 * 2**20
"""For a file that is read into memory whole: METADATA, WHEEL, RECORD."""

READ_ERRORS = (BadZipFile, zlib.error, struct.error, ValueError, EOFError, NotImplementedError, RuntimeError)
"""What ``zipfile`` raises over archives that lie about themselves."""

_READ_BYTES = 2**20
_ENCRYPTED = 0x1
_ALGORITHMS = frozenset({"sha256", "sha384", "sha512"})
"""PEP 427: sha256 or better; md5 and sha1 are not permitted."""
_SIGNATURES = frozenset({"RECORD.jws", "RECORD.p7s"})
"""PEP 427: they sign RECORD and so cannot stand in it."""


def safety_issues(archive: ZipFile) -> list[str]:
    """Return what could harm whoever unpacks this: all of it, from the archive's directory alone."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        return [f"holds {len(members)} files, more than {MAX_MEMBERS}"]
    expanded_bytes = sum(member.file_size for member in members)
    if not _is_exact(archive):
        return ["is not exactly one archive: there are other bytes before or after it"]
    issues = [issue for member in members for issue in _member_issues(member)]
    # Not left to reading: a seek to a negative place looks like an error of the disk.
    end = archive.start_dir
    issues += [f"{each.filename!r} lies outside of the file" for each in members if not 0 <= each.header_offset < end]
    if expanded_bytes > MAX_EXPANDED_BYTES:
        issues.append(f"unpacks to {expanded_bytes} bytes, more than {MAX_EXPANDED_BYTES}")
    # Which one of two equal names wins differs between installers, so one could check what another runs.
    counted = Counter(member.filename.removesuffix("/") for member in members)
    issues += [f"{name!r} is there {count} times" for name, count in counted.items() if count > 1]
    folders = {posixpath.dirname(name) for name in counted}
    files = {member.filename for member in members if not member.is_dir()}
    issues += [f"{name!r} is a file and a folder" for name in sorted(files & folders)]
    return issues


def _is_exact(archive: ZipFile) -> bool:
    """Tell whether the file begins with its first member and ends with its directory.

    Otherwise it can be another archive to a reader that begins at its start: pip looks for the end, others do not.
    """
    file = archive.fp
    if file is None:
        return False
    first = min((member.header_offset for member in archive.infolist()), default=0)
    file.seek(-_END.size - len(archive.comment), os.SEEK_END)
    signature, comment_bytes = _END.unpack(file.read(_END.size))
    return first == 0 and signature == _END_SIGNATURE and comment_bytes == len(archive.comment)


def _member_issues(member: ZipInfo) -> Iterator[str]:
    name = member.filename
    if not _is_safe(name):
        yield f"{name!r} is not a plain relative path"
    # Installers differ in whether they make a link or a file of it, and a link may lead anywhere.
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        yield f"{name!r} is a link or another special file"
    if member.flag_bits & _ENCRYPTED:
        yield f"{name!r} is encrypted"
    if member.compress_type not in {ZIP_STORED, ZIP_DEFLATED}:
        yield f"{name!r} is compressed in a way that not every installer reads"


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
    issues += [issue for member in archive.infolist() for issue in _content_issues(archive, member, rows, info)]
    present = set(archive.namelist())
    missing = (path for path in rows if path not in present and not path.endswith("/"))
    issues += [f"{path} is named in RECORD but missing" for path in missing]
    return issues


def _content_issues(
    archive: ZipFile, member: ZipInfo, rows: Mapping[str, tuple[str, str, str]], info: str
) -> Iterator[str]:
    path = member.filename
    if member.is_dir() or (posixpath.dirname(path) == info and posixpath.basename(path) in _SIGNATURES):
        return
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
        digest = _digest(archive, member, entry.hash_.name)
    except READ_ERRORS as error:
        yield f"{path} cannot be read: {error}"
        return
    if digest != entry.hash_.value or entry.size not in {None, member.file_size}:
        yield f"{path} is not what RECORD says"


def _digest(archive: ZipFile, member: ZipInfo, algorithm: str) -> str:
    """Return the hash of a member as RECORD writes it. Raises READ_ERRORS, also for a wrong CRC."""
    hasher = hashlib.new(algorithm)
    with archive.open(member) as stream:
        while chunk := stream.read(_READ_BYTES):
            hasher.update(chunk)
    return base64.urlsafe_b64encode(hasher.digest()).rstrip(b"=").decode()
