import io
import zlib
from collections.abc import Callable
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import pytest

from bundles.members import Header, content

TEXT = b"some text, and again some text\n" * 100_000


def _archive(text: bytes = TEXT, compression: int = ZIP_DEFLATED) -> tuple[bytearray, ZipInfo]:
    stream = io.BytesIO()
    with ZipFile(stream, "w", compression) as archive:
        archive.writestr("a.txt", text)
        return bytearray(stream.getvalue()), archive.getinfo("a.txt")


def _read(archive: bytearray, member: ZipInfo) -> bytes:
    return b"".join(content(io.BytesIO(archive), member))


@pytest.mark.parametrize("compression", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize("text", [b"", b"a", TEXT])
def test_content_is_what_was_put_in(text: bytes, compression: int) -> None:
    assert _read(*_archive(text, compression)) == text


def test_blocks_are_small_however_much_a_member_unpacks_to() -> None:
    archive, member = _archive(bytes(50_000_000))
    assert max(map(len, content(io.BytesIO(archive), member))) <= 2**20


def _cut(archive: bytearray, member: ZipInfo) -> None:
    del archive[Header(io.BytesIO(archive), member).end + member.compress_size - 1 :]


def _add(attribute: str, number: int) -> Callable[[bytearray, ZipInfo], None]:
    return lambda _, member: setattr(member, attribute, getattr(member, attribute) + number)


_LIES = {
    "longer": _add("file_size", -1),
    "shorter": _add("file_size", 1),
    "of another CRC": _add("CRC", 1),
    "cut": _cut,
    "followed by others": _add("compress_size", 1),
    "ending early": _add("compress_size", -1),
}


@pytest.mark.parametrize("compression", [ZIP_STORED, ZIP_DEFLATED])
@pytest.mark.parametrize("lie", _LIES)
def test_content_that_is_not_what_the_list_says(lie: str, compression: int) -> None:
    archive, member = _archive(compression=compression)
    _LIES[lie](archive, member)
    with pytest.raises(BadZipFile):
        _read(archive, member)


def test_other_content_after_the_compressed_one() -> None:
    """Whoever stops at the size that the list says would not see it; whoever unpacks to the end would."""
    compressor = zlib.compressobj(wbits=-15)
    compressed = compressor.compress(TEXT) + compressor.flush()
    archive, member = _archive(compressed + compressed, ZIP_STORED)
    member.compress_type, member.file_size, member.CRC = ZIP_DEFLATED, len(TEXT), zlib.crc32(TEXT)
    with pytest.raises(BadZipFile, match="does not end"):
        _read(archive, member)


def test_what_cannot_be_unpacked() -> None:
    archive, member = _archive(b"\xff" * 100, ZIP_STORED)
    member.compress_type = ZIP_DEFLATED
    with pytest.raises(BadZipFile, match="cannot be unpacked"):
        _read(archive, member)


def test_a_member_that_begins_somewhere_else() -> None:
    archive, member = _archive()
    member.header_offset += 1
    with pytest.raises(BadZipFile, match="no file"):
        _read(archive, member)
