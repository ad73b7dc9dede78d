"""What a wheel is, seen from the inside: whether it is the one that its name says, and its metadata."""

from pathlib import Path
from zipfile import ZipFile

from packaging.metadata import parse_email
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from bundles.archive import MAX_TEXT_BYTES, READ_ERRORS, dist_info


class NotThisWheel(Exception):
    """The file is not a sound wheel, or another one than its name says; the text says which."""


def metadata(path: Path, filename: str) -> bytes:
    """Return the wheel's METADATA, as PEP 658 has an index serve it. Raises NotThisWheel.

    pip passes over a wheel that turns out to be another project's or version's, and takes an older one in silence. So
    it must not get one.
    """
    try:
        name, version, *_ = parse_wheel_filename(filename)
        with ZipFile(path) as archive:
            content = _metadata(archive)
    except InvalidWheelFilename as error:
        raise NotThisWheel(str(error)) from error
    except READ_ERRORS as error:
        raise NotThisWheel(f"it is not a readable wheel: {error}") from error
    text = content.decode("utf-8", "replace").replace("\r\n", "\n")
    raw, _ = parse_email(text.partition("\n\n")[0])
    if canonicalize_name(raw.get("name", "")) != name or _version(raw.get("version", "")) != version:
        raise NotThisWheel(f"inside it is {raw.get('name')} {raw.get('version')}")
    return content


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
