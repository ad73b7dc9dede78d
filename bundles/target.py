"""What the target environment can load, whatever machine this runs on (PEP 425, 600 and 508)."""

import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache

from packaging.markers import default_environment
from packaging.tags import Tag, compatible_tags, cpython_tags

from config.settings import Target

_OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17}
"""PEP 600: manylinux reaches back to glibc 2.5 on x86-64 (PEP 513) and to 2.17 elsewhere (PEP 599)."""

_LEGACY_NAMES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
"""The names that PEP 599, 571 and 513 gave to glibc 2.N before PEP 600 made them systematic."""


def platforms(target: Target) -> tuple[str, ...]:
    """Return the platform tags that the target loads, best first, as pip's ``--platform`` takes them.

    Every one has to be named: pip takes a single ``manylinux_2_35_x86_64`` literally.
    """
    return tuple(_platforms(target))


def _platforms(target: Target) -> Iterator[str]:
    oldest = _OLDEST_GLIBC_MINOR[target.architecture]
    for minor in range(glibc_minor(target), oldest - 1, -1):
        yield f"manylinux_2_{minor}_{target.architecture}"
        if minor in _LEGACY_NAMES:
            yield f"{_LEGACY_NAMES[minor]}_{target.architecture}"
    # Last, since it promises nothing about glibc; a wheel that says what it needs is the better one.
    yield plain_linux(target)


def plain_linux(target: Target) -> str:
    """Return the platform tag that says nothing of the C library."""
    return f"linux_{target.architecture}"


def glibc_minor(target: Target) -> int:
    """Return N of the target's glibc 2.N."""
    return int(target.glibc.split(".")[1])


def python_version(target: Target) -> tuple[int, int]:
    """Return the target's Python as (major, minor)."""
    major, minor = target.python.split(".")[:2]
    return int(major), int(minor)


@lru_cache(maxsize=64)
def tags(target: Target) -> tuple[Tag, ...]:
    """Return every wheel tag that the target accepts, in the order of preference of PEP 425."""
    version = python_version(target)
    interpreter = f"cp{version[0]}{version[1]}"
    own_platforms = platforms(target)
    # The ABI is named, else packaging looks at flags of the running interpreter, such as a debug build.
    return (
        *cpython_tags(version, abis=[interpreter], platforms=own_platforms),
        *compatible_tags(version, interpreter=interpreter, platforms=own_platforms),
    )


@lru_cache(maxsize=64)
def _tag_set(target: Target) -> frozenset[Tag]:
    return frozenset(tags(target))


def fits(filename_tags: Iterable[Tag], target: Target) -> bool:
    """Tell whether a wheel whose file name carries these tags can be loaded by the target."""
    return not _tag_set(target).isdisjoint(filename_tags)


@lru_cache(maxsize=64)
def full_version(target: Target) -> str:
    """Return the target's whole Python version: this interpreter's own when its minor version is the same.

    Otherwise the patch level is not known, and the first release stands for it.
    """
    if sys.version_info[:2] == python_version(target):
        return default_environment()["python_full_version"]
    major, minor = python_version(target)
    return f"{major}.{minor}.0"


def environment(target: Target) -> dict[str, str]:
    """Return the values that environment markers see on the target (PEP 508).

    Kernel release and build are nobody's to know beforehand; they are this machine's, as pip uses them.
    """
    here = default_environment()
    version = full_version(target)
    return {
        "implementation_name": "cpython",
        "implementation_version": version,
        "os_name": "posix",
        "platform_machine": target.architecture,
        "platform_python_implementation": "CPython",
        "platform_release": here["platform_release"],
        "platform_system": "Linux",
        "platform_version": here["platform_version"],
        "python_full_version": version,
        "python_version": target.python,
        "sys_platform": "linux",
    }
