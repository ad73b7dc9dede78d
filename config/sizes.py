"""Sizes in bytes: ``1024``, ``500MB`` (powers of 1000, the SI prefixes), ``2GiB`` (powers of 1024, IEC 80000-13)."""

import re

MAX_BYTES = 2**60
"""An exbibyte: no disk is larger, and every file system's figures stay exact."""

_UNITS: dict[str, int] = {"": 1, "b": 1} | {
    f"{prefix}{suffix}": int(base**power)
    for power, prefix in enumerate("kmgt", start=1)
    for suffix, base in (("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"([0-9]{1,19}) ?([a-z]{0,3})", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return bytes.

    Raises :class:`ValueError`, without the text in its message.
    """
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError("not a size; write bytes, or a number with its unit such as 500MB or 2GiB")
    size = int(found[1]) * unit
    if size > MAX_BYTES:
        raise ValueError("larger than any disk; write a smaller size")
    return size


def format_size(size_bytes: int) -> str:
    """Write ``size_bytes`` in the shortest form that :func:`parse_size` reads back to the same value."""
    if size_bytes == 0:
        return "0"
    for unit in ("TiB", "GiB", "MiB", "KiB", "TB", "GB", "MB", "kB"):
        if size_bytes % _UNITS[unit.lower()] == 0:
            return f"{size_bytes // _UNITS[unit.lower()]}{unit}"
    return str(size_bytes)
