"""The members of an archive: what stands before each, and its content read to the end.

``zipfile`` has a reader, a buffer and a lock for each member, which for the many small files of a wheel costs more than
unpacking them does; and ISA-L unpacks in less than zlib.
"""

import struct
from collections.abc import Iterator
from typing import IO
from zipfile import ZIP_STORED, BadZipFile, ZipInfo

from isal.isal_zlib import MAX_WBITS, crc32, decompressobj, error

_INFLATE_ERROR: type[Exception] = error  # type: ignore[assignment] # its stubs take the class for an instance
_HEADER = struct.Struct("<4sxxHH4xIIIHH")
"""What stands before each member (APPNOTE 4.3.7): signature, flags, compression, CRC, bytes compressed and not, and the
lengths of the name and of what follows it."""
_HEADER_SIGNATURE = b"PK\x03\x04"
_READ_BYTES = 2**20


class Header:
    """What stands before a member, which must repeat what the archive's list says of it."""

    def __init__(self, stream: IO[bytes], member: ZipInfo) -> None:
        """Raise BadZipFile when there is none."""
        stream.seek(member.header_offset)
        head = stream.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(_HEADER_SIGNATURE):
            raise BadZipFile("there is no file where the archive's list says")
        _, self.flags, self.compression, self.crc, *sizes = _HEADER.unpack(head)
        self.compressed_bytes, self.size_bytes, *lengths = sizes
        self.name = stream.read(lengths[0])
        self.end = member.header_offset + _HEADER.size + sum(lengths)
        """Where the content begins, in bytes from the archive's start."""


def content(stream: IO[bytes], member: ZipInfo) -> Iterator[bytes]:
    """Yield what ``member`` unpacks to, in blocks of about 1 MiB at most.

    Raises BadZipFile once it is not what the archive's list says: of that size and CRC, and compressed in exactly
    so many bytes.
    """
    stream.seek(Header(stream, member).end)
    blocks = _blocks(stream, member.compress_size)
    size_bytes = crc = 0
    for block in blocks if member.compress_type == ZIP_STORED else _unpacked(blocks):
        size_bytes += len(block)
        if size_bytes > member.file_size:
            break
        crc = crc32(block, crc)
        yield block
    if size_bytes != member.file_size:
        raise BadZipFile(f"it does not have {member.file_size} bytes, as the archive's list says")
    if crc != member.CRC:
        raise BadZipFile(f"Bad CRC-32 for file {member.filename!r}")


def _blocks(stream: IO[bytes], left_bytes: int) -> Iterator[bytes]:
    while left_bytes:
        block = stream.read(min(left_bytes, _READ_BYTES))
        if not block:
            raise BadZipFile("the archive ends too early")
        left_bytes -= len(block)
        yield block


def _unpacked(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Inflate (RFC 1951)."""
    inflate = decompressobj(-MAX_WBITS)
    for block in blocks:
        if inflate.eof:
            raise BadZipFile("there are other bytes after its compressed content")
        left = block
        try:
            while piece := inflate.decompress(left, _READ_BYTES):
                yield piece
                left = inflate.unconsumed_tail
        except _INFLATE_ERROR as cause:
            raise BadZipFile(f"it cannot be unpacked: {cause}") from cause
    if not inflate.eof or inflate.unused_data:
        raise BadZipFile("its compressed content does not end where the archive's list says")
