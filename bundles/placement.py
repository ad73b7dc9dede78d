"""Whether installers put a wheel's files where they belong, and all of them the same: data folders and scripts.

pip, uv and ``installer`` differ in what they refuse. What one of them refuses cannot be installed with it.
"""

import re
from collections import Counter
from collections.abc import Iterator
from configparser import ConfigParser, Error
from zipfile import ZipFile

from installer.utils import SCHEME_NAMES
from packaging.utils import canonicalize_name

from bundles.archive import read_text

MAX_ENTRY_POINTS_BYTES = 2**20
_MAX_LINE = 1000
"""Characters. What ``configparser`` takes for a line grows with the square of its length."""
_DATA = ".data"
_SCRIPTS = ("console_scripts", "gui_scripts")
_OBJECT = re.compile(r"[\w.]+\s*:\s*[\w.]+\s*(\[[^]]*\])?")
"""Entry points specification: module, object in it, and extras that nobody uses any more."""
_INTERPRETER = re.compile(r"pythonw?[0-9.]*(\.exe)?", re.IGNORECASE)
_LIBRARIES = frozenset({"purelib", "platlib"})


def placement_issues(archive: ZipFile, info: str) -> list[str]:
    """Return why a wheel with the folder ``info`` cannot be installed, or not by every installer."""
    return [*_data_issues(archive, info), *_entry_point_issues(archive, info)]


def _data_issues(archive: ZipFile, info: str) -> Iterator[str]:
    """Look at what goes elsewhere than beside the package (PEP 427: ``NAME-VERSION.data/SCHEME/…``)."""
    names = [member.filename for member in archive.infolist() if not member.is_dir()]
    parts = [name.split("/") for name in names]
    own = _label(info.removesuffix(".dist-info"))
    for name, (top, *path) in zip(names, parts, strict=True):
        if not top.endswith(_DATA):
            continue
        scheme, inner = (path[0], path[1:]) if len(path) > 1 else ("", path)
        if _label(top.removesuffix(_DATA)) != own:
            yield f"{name} is in the data folder of another package"
        elif scheme not in SCHEME_NAMES:
            yield f"{name} is in none of the data folders that installers know: {', '.join(SCHEME_NAMES)}"
        elif scheme == "scripts" and (len(inner) > 1 or _INTERPRETER.fullmatch(inner[0])):
            yield f"{name} is not a script that installers make: it is in a folder, or would replace Python itself"
        elif scheme == "data" and inner[0] == "bin" and _INTERPRETER.fullmatch(inner[-1]):
            yield f"{name} would replace Python itself"
        elif scheme in _LIBRARIES and inner[0].endswith((".dist-info", ".egg-info")):
            yield f"{name} would be taken for another package"
    placed = Counter("/".join(path[2:] if _is_library(path) else path) for path in parts)
    yield from (f"{place} would be installed {count} times" for place, count in placed.items() if count > 1)


def _is_library(path: list[str]) -> bool:
    """Tell whether a file goes beside the package though it is in a data folder."""
    return path[0].endswith(_DATA) and path[1:2] != [] and path[1] in _LIBRARIES


def _label(text: str) -> tuple[str, str]:
    name, _, version = text.partition("-")
    return canonicalize_name(name), version


def _entry_point_issues(archive: ZipFile, info: str) -> Iterator[str]:
    """Read ``entry_points.txt`` as strictly as the strictest installer, and look at the scripts it wants."""
    path = f"{info}/entry_points.txt"
    if path not in archive.namelist():
        return
    points = ConfigParser(delimiters=("=",), comment_prefixes=("#",), interpolation=None, default_section="")
    points.optionxform = str  # type: ignore[assignment,method-assign]  # as the standard library documents it
    try:
        text = read_text(archive, path)
        if len(text) > MAX_ENTRY_POINTS_BYTES or any(len(line) > _MAX_LINE for line in text.splitlines()):
            yield f"entry_points.txt is larger than {MAX_ENTRY_POINTS_BYTES} bytes, or a line than {_MAX_LINE}"
            return
        # With every line break that any reader knows.
        points.read_string("\n".join(text.splitlines()), "entry_points.txt")
    except (ValueError, Error) as error:
        told = str(error) if isinstance(error, ValueError) else f"entry_points.txt: {' '.join(str(error).split())}"
        yield told
        return
    for section in filter(points.has_section, _SCRIPTS):
        for name, value in points.items(section):
            yield from _script_issues(name, value)


def _script_issues(name: str, value: str) -> Iterator[str]:
    if name in {".", ".."} or "/" in name or "\\" in name:
        yield f"entry_points.txt has a script {name!r}, which leads out of its folder"
    elif _INTERPRETER.fullmatch(name):
        yield f"entry_points.txt has a script {name!r}, which would replace Python itself"
    elif not name.isprintable() or " " in name:
        yield f"entry_points.txt has a script {name!r}, of which installers make another name"
    if _OBJECT.fullmatch(value) is None:
        yield f"entry_points.txt has a script {name!r} that calls {value!r}, and not a module's object (module:object)"
