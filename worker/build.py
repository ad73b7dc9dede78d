"""Wheels that pip built from source: whether they may be built here, where they came from, whether they fit."""

import os
from collections.abc import Mapping
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename
from packaging.version import Version

from bundles.archive import READ_ERRORS
from bundles.libraries import loading_issue
from bundles.models import Origin
from bundles.target import fits
from config.settings import Target
from jobs.errors import ErrorKind
from worker.errors import FetchError
from worker.gateway.record import Record, Served

_SETTING = "moderne.agent.visualization.sdists"
_MAX_MEMBER_BYTES = 2**30


def require_glibc(target: Target, here: str | None = None) -> None:
    """Raise ``FetchError`` when this machine cannot build for the target.

    With source in play, pip takes only wheels that the machine itself can load, since it may have to run them. On an
    older glibc it would pass over wheels that the target can load, and take older versions in silence.
    """
    name, _, version = (here or os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    if name != "glibc" or Version(version) < Version(target.glibc):
        raise FetchError(
            ErrorKind.NO_COMPATIBLE_WHEEL,
            f"{_SETTING} lets packages be built, which needs the target's glibc {target.glibc} or a newer one; this "
            f"agent has {version or 'another C library'}. Run it on a newer system, or set {_SETTING}=never.",
        )


def built_wheels(directory: Path, record: Record, target: Target) -> Mapping[str, Origin]:
    """Return the origin of each wheel that pip built into ``directory``, by its file name.

    Raises ``FetchError`` when one of them does not fit the target.
    """
    downloaded = {file.filename for file in record.files}
    found = {}
    for path in directory.glob("*.whl"):
        source = None if path.name in downloaded else _source(path.name, record)
        if source is not None:
            _require_target(path, source, target)
            found[path.name] = Origin(filename=path.name, index=source.index, yanked=source.yanked, built=True)
    return found


def _source(filename: str, record: Record) -> Served | None:
    """Find the source distribution that a wheel was built from."""
    try:
        name, version, *_ = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return None
    sources = (file for file in record.files if not file.is_wheel)
    return next((file for file in sources if file.project == name and Version(file.version) == version), None)


def _require_target(path: Path, source: Served, target: Target) -> None:
    *_, tags = parse_wheel_filename(path.name)
    if not fits(tags, target):
        raise _unfit(path, source, f"its tags are {', '.join(sorted(map(str, tags)))}")
    # A build says "linux" of whatever it made.
    try:
        reason = loading_issue(path, tags, target)
    except (*READ_ERRORS, OSError):  # the checks of the bundle say so
        return
    if reason is not None:
        raise _unfit(path, source, f"{reason}, which is that of this agent")


def _unfit(path: Path, source: Served, reason: str) -> FetchError:
    return FetchError(
        ErrorKind.NO_COMPATIBLE_WHEEL,
        f"{source.filename} from {source.index} was built here as {path.name}, which the target cannot load: {reason}. "
        "Run the agent on the target's own system, or have the index offer a wheel.",
        index=source.index,
    )
