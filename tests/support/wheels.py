"""Real wheels, made to measure, and made to be wrong in one chosen way."""

import base64
import csv
import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import yaml

_STAMP = (2024, 1, 1, 0, 0, 0)
SPEC_TYPE = "specs.moderne.io/v1beta/visualization"


def build_wheel(
    directory: Path,
    name: str,
    version: str = "1.0",
    *,
    requires: Sequence[str] = (),
    extras: Sequence[str] = (),
    requires_python: str | None = None,
    tag: str = "py3-none-any",
    build: str | None = None,
    files: Mapping[str, bytes] | None = None,
    visualizations: Iterable[str] = (),
    package_init: bool = True,
    metadata_name: str | None = None,
    metadata_version: str | None = None,
    metadata: bytes | None = None,
    wheel_version: str = "1.0",
    without: Sequence[str] = (),
    record: Mapping[str, tuple[str, str] | None] | None = None,
    members: Sequence[tuple[str | zipfile.ZipInfo, bytes]] = (),
    compression: int = zipfile.ZIP_DEFLATED,
) -> Path:
    """Write one wheel into ``directory`` and return its path. The same arguments give the same bytes.

    ``tag`` is ``python-abi-platform``; ``files`` are added to an import package, which without ``package_init`` is
    but a namespace (PEP 420); ``visualizations`` are names for which a spec, a notebook and an image are made.

    To break it: ``metadata_name`` and ``metadata_version`` contradict the file name; ``metadata`` replaces
    METADATA whole; ``without`` leaves out files of ``.dist-info`` (``RECORD``, ``METADATA``, ``WHEEL``);
    ``record`` replaces a path's (hash, size) in RECORD, or drops or adds its row (None drops); ``members``
    are put into the archive beside RECORD's knowledge.
    """
    package = name.replace("-", "_").replace(".", "_").lower()
    info = f"{package}-{version}.dist-info"
    content = {f"{package}/__init__.py": f'__version__ = "{version}"\n'.encode()} if package_init else {}
    content |= visualization_files(package, visualizations)
    content |= files or {}
    described = _metadata(metadata_name or name, metadata_version or version, requires, extras, requires_python)
    inner = {
        "METADATA": described if metadata is None else metadata,
        "WHEEL": f"Wheel-Version: {wheel_version}\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    content |= {f"{info}/{part}": data for part, data in inner.items() if part not in without}
    if "RECORD" not in without:
        content[f"{info}/RECORD"] = _record(content, f"{info}/RECORD", record or {})
    label = "-".join(part for part in (package, version, build, tag) if part is not None)
    path = directory / f"{label}.whl"
    directory.mkdir(parents=True, exist_ok=True)
    _write(path, content, members, compression)
    return path


def _metadata(
    name: str, version: str, requires: Sequence[str], extras: Sequence[str], requires_python: str | None
) -> bytes:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", "Summary: made by a test"]
    lines += [] if requires_python is None else [f"Requires-Python: {requires_python}"]
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    return ("\n".join(lines) + "\n\nA description.\n\nName: not a header\n").encode()


def record_hash(data: bytes, algorithm: str = "sha256") -> str:
    """Return a hash as RECORD writes it (PEP 376 and 427)."""
    digest = base64.urlsafe_b64encode(hashlib.new(algorithm, data).digest()).rstrip(b"=").decode()
    return f"{algorithm}={digest}"


def _record(content: Mapping[str, bytes], own_path: str, changes: Mapping[str, tuple[str, str] | None]) -> bytes:
    rows: dict[str, tuple[str, str] | None] = {
        path: (record_hash(data), str(len(data))) for path, data in content.items()
    }
    rows[own_path] = ("", "")
    rows |= changes
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([path, *row] for path, row in rows.items() if row is not None)
    return text.getvalue().encode()


def _write(
    path: Path,
    content: Mapping[str, bytes],
    members: Sequence[tuple[str | zipfile.ZipInfo, bytes]],
    compression: int,
) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in [*content.items(), *members]:
            info = member if isinstance(member, zipfile.ZipInfo) else zipfile.ZipInfo(member, _STAMP)
            info.external_attr = info.external_attr or 0o644 << 16
            archive.writestr(info, data, compression)


def visualization_files(package: str, names: Iterable[str]) -> dict[str, bytes]:
    """Return a spec, a notebook and an image for each name, by their paths in a wheel."""
    files: dict[str, bytes] = {}
    for name in names:
        files[f"{package}/specs/{name}.yml"] = spec(name)
        files[f"{package}/{name}.ipynb"] = notebook()
        files[f"{package}/images/{name}.30.png"] = png(height=30)
    return files


def spec(name: str, /, **changes: object) -> bytes:
    """Return a visualization's spec; ``changes`` replace its entries, None takes one away."""
    document: dict[str, object] = {
        "type": SPEC_TYPE,
        "name": f"org.example.{name}",
        "displayName": name.replace("_", " ").capitalize(),
        "description": f"Shows {name}.\n",
        "recipe": {"org.example.Find": {"pattern": "*"}},
        "dataTable": "org.example.Table",
        "options": [
            {"top": {"displayName": "Top", "description": "How many.", "required": False, "valid": ["5", "10"]}}
        ],
    }
    document |= changes
    kept = {key: value for key, value in document.items() if value is not None}
    return b"---\n" + yaml.safe_dump(kept, sort_keys=False).encode()


def notebook(**changes: object) -> bytes:
    """Return a notebook of one cell; ``changes`` replace its top-level entries."""
    cell: dict[str, object] = {
        "cell_type": "code",
        "id": "one",
        "execution_count": None,
        "metadata": {},
        "outputs": [],
        "source": ["import plotly\n"],
    }
    document: dict[str, object] = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(document | changes).encode()


def png(*, height: int, width: int = 2) -> bytes:
    """Return a grey picture of that size in pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = (b"\0" + b"\x80" * width) * height
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def library(*needed: str) -> bytes:
    """Return what looks like a library that names these, such as ``GLIBC_2.17``, as far as any check looks."""
    return b"\x7fELF\2" + b"\0".join([b"\0" * 60, *map(str.encode, needed), b""])


def link(path: str) -> zipfile.ZipInfo:
    """Return an archive entry that is a symbolic link; its data is where it points."""
    info = zipfile.ZipInfo(path, _STAMP)
    info.create_system = 3
    info.external_attr = 0o120777 << 16
    return info


def corrupt(wheel: Path, member: str) -> None:
    """Change one byte in the middle of a member's stored data, behind the back of its CRC."""
    with zipfile.ZipFile(wheel) as archive:
        info = archive.getinfo(member)
    data = bytearray(wheel.read_bytes())
    name_bytes, extra_bytes = struct.unpack_from("<HH", data, info.header_offset + 26)
    middle = info.header_offset + 30 + name_bytes + extra_bytes + info.compress_size // 2
    data[middle] ^= 0xFF
    wheel.write_bytes(data)


def sha256(path: Path) -> str:
    """Return the file's digest, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
