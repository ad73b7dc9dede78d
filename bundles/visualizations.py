"""The visualizations inside a package's wheel: specs, the notebooks they belong to, and pictures.

``PACKAGE/specs/NAME.yml`` describes ``PACKAGE/NAME.ipynb``; ``PACKAGE/images/NAME.HEIGHT.png`` shows it. HEIGHT is
in pixels as a page counts them: packages in use hold pictures that are two or three times as high, for dense screens.
"""

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from zipfile import ZipFile, ZipInfo

import yaml
from pydantic import ValidationError

from bundles.archive import READ_ERRORS
from bundles.layout import bundle_image
from bundles.models import Option, Spec, Visualization

MAX_SPEC_BYTES = 2**20
MAX_ALL_SPECS_BYTES = 4 * 2**20
"""Of a package together, seventy times what those in use have: YAML takes seconds for each MiB."""
MAX_NOTEBOOK_BYTES = 16 * 2**20
"""Twenty times what packages in use hold; as Python's values, up to thirty times as many bytes."""
MAX_ALL_NOTEBOOKS_BYTES = 64 * 2**20
MAX_NOTEBOOK_NODES = 100_000
"""Lists, mappings and their keys in one notebook: its schema takes up to 100 microseconds and 1 KB for each."""
MAX_TAGS = 1000
"""Of one cell."""
MAX_IMAGE_BYTES = 8 * 2**20
MAX_SPECS = 2000
"""Twenty times what packages in use hold."""
MAX_OPTIONS = 200

_SPEC = re.compile(r"(?P<package>.+)/specs/(?P<name>[^/]+)\.yml")
_IMAGE = re.compile(r"(?P<package>.+)/images/(?P<name>[^/]+)\.(?P<height>[1-9][0-9]{0,4})\.png")
_IMAGE_LIKE = re.compile(r"(?P<package>.+)/images/(?P<name>[^/.]+)\.([^/]+\.)?(?i:png|jpe?g|gif|svg|webp)")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNK = struct.Struct(">I4s")
"""PNG specification, 5.3: a chunk is its length and its kind, the data, and a CRC over kind and data."""
_PNG_CRC = struct.Struct(">I")
_PNG_SIZE = struct.Struct(">II")
_IHDR_BYTES = 13
_DENSEST = 4
_SHOWN = 200
_NESTING = 100
_LONGEST_NUMBER = 100
"""Characters. YAML 1.1 reads 1:1:1 as a number to base 60, which takes minutes for a long one."""
_NUMBERS = frozenset({"tag:yaml.org,2002:int", "tag:yaml.org,2002:float"})
_PLAIN_TAGS = frozenset({None, "!", "tag:yaml.org,2002:str"})
_NOTEBOOK_FORMATS = (3, 4)
"""Named here, since nbformat imports the module that a notebook's version names before it looks any further."""
_COMMON_MINORS = (2, 4, 5)
"""Of format 4: those that packages in use have."""


_KEPT_SPEC_BYTES = 2**21
"""As text; ten times what a package in use has."""
_KEPT_NOTEBOOK_BYTES = 2**28
"""Of each only a digest is kept, and what is wrong with it."""
_KEPT_RESULT_BYTES = 2**12
"""Counted for each besides its own bytes."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Found:
    """What a wheel holds; ``issues`` are all reasons why some of it is not usable."""

    visualizations: tuple[Visualization, ...]
    issues: tuple[str, ...]
    warnings: tuple[str, ...]


def find(archive: ZipFile) -> Found:
    """Read every visualization of a wheel whose archive is known to be sound.

    Nothing in the archive makes this raise: what cannot be used is an issue, what is only odd a warning.
    """
    search = _Search(archive)
    found = sorted((each for match in search.specs for each in search.read(match)), key=lambda each: each.notebook)
    search.compare(found)
    return Found(tuple(found), tuple(search.issues), tuple(search.warnings))


class Remembered(Generic[_T]):
    """A function of bytes that does its work once for each content in a process: a package's versions share most files.

    Forgets everything once it has seen ``max_bytes``, with some for each result. What is raised is not remembered.
    """

    def __init__(self, function: Callable[[bytes], _T], max_bytes: int) -> None:
        self._function = function
        self._left_bytes = self._max_bytes = max_bytes
        self._results: dict[bytes, _T] = {}

    def __call__(self, data: bytes) -> _T:
        """Return what the function returns, or returned before."""
        key = hashlib.sha256(data).digest()
        known = self._results.get(key)
        if known is not None:
            return known
        result = self._function(data)
        size_bytes = len(data) + _KEPT_RESULT_BYTES
        if self._left_bytes < size_bytes:
            self._results, self._left_bytes = {}, self._max_bytes
        self._left_bytes -= size_bytes
        self._results[key] = result
        return result


class _Search:
    """One pass over an archive."""

    def __init__(self, archive: ZipFile) -> None:
        self.issues: list[str] = []
        self.warnings: list[str] = []
        self._archive = archive
        self._members = {member.filename: member for member in archive.infolist()}
        names = sorted(name for name in self._members if not _is_packaging(name))
        self.specs = _matches(_SPEC, names)
        self._notebooks = [name for name in names if name.endswith(".ipynb")]
        self._images = _images(_matches(_IMAGE, names))
        self._limit()
        self.warnings += [
            f"{name} is ignored: a spec is called NAME.yml" for name in names if re.search(r"/specs/[^/]+\.yaml$", name)
        ]
        self.warnings += [f"{name} is ignored: a picture is called NAME.HEIGHT.png" for name in self._nameless(names)]

    def _nameless(self, names: Iterable[str]) -> Iterator[str]:
        """Yield what would be a visualization's picture, were it called after its height."""
        described = {(match["package"], match["name"]) for match in self.specs}
        matches = (found for found in _matches(_IMAGE_LIKE, names) if _IMAGE.fullmatch(found[0]) is None)
        return (match[0] for match in matches if (match["package"], match["name"]) in described)

    def _limit(self) -> None:
        """Read nothing of a package that is made to keep whoever reads it busy."""
        spec_bytes = sum(self._members[match[0]].file_size for match in self.specs)
        notebook_bytes = sum(self._members[name].file_size for name in self._notebooks)
        if len(self.specs) > MAX_SPECS:
            self.issues.append(f"there are {len(self.specs)} specs, more than {MAX_SPECS}")
        if spec_bytes > MAX_ALL_SPECS_BYTES:
            self.issues.append(f"the specs have {spec_bytes} bytes together, more than {MAX_ALL_SPECS_BYTES}")
        if notebook_bytes > MAX_ALL_NOTEBOOKS_BYTES:
            self.issues.append(
                f"the notebooks have {notebook_bytes} bytes together, more than {MAX_ALL_NOTEBOOKS_BYTES}"
            )
        if self.issues:
            self.specs = []

    def read(self, match: re.Match[str]) -> Iterator[Visualization]:
        """Yield the visualization of a spec, unless something is wrong with it, its notebook or its picture."""
        path, package, name = match[0], match["package"], match["name"]
        notebook = f"{package}/{name}.ipynb"
        issues = [*self._notebook_issues(path, notebook)]
        images = self._images.get((package, name), [])
        issues += [issue for image in images for issue in self._image_issues(*image)]
        spec = self._spec(path, issues)
        self.issues += issues
        if spec is None or issues:
            return
        highest = bundle_image(images[-1][0]) if images else None
        yield Visualization(**dict(spec), notebook=notebook, image=highest)

    def compare(self, found: Iterable[Visualization]) -> None:
        """Note what only shows when all of them are known: names used twice, notebooks without a spec."""
        by_name: dict[str, list[str]] = {}
        for each in found:
            by_name.setdefault(each.name, []).append(each.notebook)
        self.issues += [
            f"the name {name} is used by {' and '.join(notebooks)}"
            for name, notebooks in by_name.items()
            if len(notebooks) > 1
        ]
        described = {(match["package"], match["name"]) for match in self.specs}
        notebooks = {f"{package}/{name}.ipynb" for package, name in described}
        self.warnings += [f"{path} has no spec" for path in self._notebooks if self.specs and path not in notebooks]
        self.warnings += [
            f"{path} has no spec"
            for name, images in self._images.items()
            for path, _ in images
            if self.specs and name not in described
        ]

    def _bytes(self, path: str, limit: int) -> bytes:
        """Return a member's content. Raises ValueError."""
        member: ZipInfo = self._members[path]
        if member.file_size > limit:
            raise ValueError(f"is larger than {limit} bytes")
        try:
            return self._archive.read(member)
        except READ_ERRORS as error:
            raise ValueError(f"cannot be read: {error}") from error

    def _spec(self, path: str, issues: list[str]) -> Spec | None:
        """Return the parsed spec; problems are added to ``issues``."""
        try:
            spec, unknown = _known_spec(self._bytes(path, MAX_SPEC_BYTES))
        except ValidationError as error:
            issues += [f"{path}: {issue}" for issue in _schema_issues(error)]
            return None
        except ValueError as error:
            issues.append(f"{path} {error}")
            return None
        if unknown:
            self.warnings.append(f"{path}: not known and not kept: {', '.join(unknown)[:_SHOWN]}")
        return spec

    def _notebook_issues(self, spec_path: str, path: str) -> Iterator[str]:
        if path not in self._members:
            yield f"{spec_path} has no notebook {path}"
            return
        try:
            data = self._bytes(path, MAX_NOTEBOOK_BYTES)
        except ValueError as error:
            yield f"{path} {error}"
            return
        yield from (f"{path} {issue}" for issue in _known_issues(data))

    def _image_issues(self, path: str, height: int) -> Iterator[str]:
        try:
            pixels = png_height(self._bytes(path, MAX_IMAGE_BYTES))
        except ValueError as error:
            yield f"{path} {error}"
            return
        if pixels not in {height * factor for factor in range(1, _DENSEST + 1)}:
            yield f"{path} is {pixels} pixels high; its name says {height}, or up to {_DENSEST} times that"
        elif pixels != height:
            self.warnings.append(f"{path} is {pixels} pixels high, {pixels // height} times what its name says")


def png_height(data: bytes) -> int:
    """Return how many pixels high a PNG is. Raises ValueError unless it is one that is whole, by its CRCs."""
    if not data.startswith(_PNG_SIGNATURE):
        raise ValueError("is not a PNG image")
    chunks = dict(_png_chunks(data))
    head = chunks.get(b"IHDR", b"")
    width, height = _PNG_SIZE.unpack_from(head) if len(head) == _IHDR_BYTES else (0, 0)
    if not (width and height and b"IDAT" in chunks):
        raise ValueError("is a PNG image without a picture in it")
    return int(height)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and data of every chunk up to the last, IEND. Raises ValueError."""
    at, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        try:
            length, kind = _PNG_CHUNK.unpack_from(data, at)
            content = data[at + _PNG_CHUNK.size : at + _PNG_CHUNK.size + length]
            (crc,) = _PNG_CRC.unpack_from(data, at + _PNG_CHUNK.size + length)
        except struct.error:
            raise ValueError("is a PNG image that ends too soon") from None
        if zlib.crc32(kind + content) != crc:
            raise ValueError("is a PNG image with changed bytes: a CRC is wrong")
        yield kind, content
        at += _PNG_CHUNK.size + length + _PNG_CRC.size


def _is_packaging(name: str) -> bool:
    """Tell whether a path belongs to the wheel's own description, and not to an import package."""
    return name.split("/", 1)[0].endswith((".dist-info", ".data"))


def _matches(pattern: re.Pattern[str], names: Iterable[str]) -> list[re.Match[str]]:
    return [match for name in names if (match := pattern.fullmatch(name)) is not None]


def _images(matches: Iterable[re.Match[str]]) -> Mapping[tuple[str, str], list[tuple[str, int]]]:
    """Return path and height of every picture for each (package, name), the highest last."""
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for match in sorted(matches, key=lambda match: int(match["height"])):
        found.setdefault((match["package"], match["name"]), []).append((match[0], int(match["height"])))
    return found


def _schema_issues(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False):
        place = "".join(f"{part}: " for part in each["loc"])
        yield f"{place}{each['msg'].removeprefix('Value error, ')}"


def parse_spec(data: bytes) -> tuple[Spec, tuple[str, ...]]:
    """Return a spec and its keys that are not known. Raises ValueError, of which pydantic's is one kind."""
    document = parse_yaml(data)
    if not isinstance(document, dict):
        raise ValueError("is not a YAML mapping")  # noqa: TRY004 - one error for all that a file may hold
    known = {str(field.alias) for field in Spec.model_fields.values()}
    kept = {key: value for key, value in document.items() if key in known}
    kept["options"] = _options(document.get("options"))
    spec = Spec.model_validate(kept)
    # YAML knows numbers that JSON does not, or that no reader of bundle.json would take.
    json.dumps(spec.model_dump(mode="python"), allow_nan=False)
    return spec, tuple(str(key) for key in document if key not in known)


def _options(value: object) -> list[object]:
    """Turn the spec's list of mappings from a name to a description into a list of plain mappings."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ValueError("options is not a list")  # noqa: TRY004 - as above
    if len(value) > MAX_OPTIONS:
        raise ValueError(f"has {len(value)} options, more than {MAX_OPTIONS}")
    return [_option(entry) for entry in value]


def _option(entry: object) -> object:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ValueError("options does not hold mappings from one name to its description")
    [(name, described)] = entry.items()
    if not isinstance(described, dict | None):
        raise ValueError(f"option {name} is not a mapping")  # noqa: TRY004 - as above
    known = {field.alias for field in Option.model_fields.values()}
    return {key: value for key, value in (described or {}).items() if key in known} | {"name": name}


class _Loader(yaml.CSafeLoader):
    """Plain values only; a date stays the text that the author wrote, since JSON has no dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own way
        first: [rule for rule in rules if rule[0] != "tag:yaml.org,2002:timestamp"]
        for first, rules in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }

    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str:
        tag: str = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        if tag in _NUMBERS and len(value) > _LONGEST_NUMBER:
            raise ValueError(f"holds a number of {len(value)} characters")
        return tag


def parse_yaml(data: bytes) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Return one YAML document. Raises ValueError, also for aliases, tags and deep nesting, which specs do not need.

    Aliases make a few bytes mean gigabytes, PyYAML's C loader overruns its stack on deep nesting, and its constructors
    raise all sorts of errors for a tag on a value that it does not fit.
    """
    try:
        depth = 0
        for event in yaml.parse(data, Loader=_Loader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("uses YAML aliases, which are not accepted")  # noqa: TRY004 - as above
            if (tag := getattr(event, "tag", None)) not in _PLAIN_TAGS:
                raise ValueError(f"uses the YAML tag {str(tag)[:_SHOWN]}, and tags are not accepted")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _NESTING:
                raise ValueError("is nested too deeply")
        return yaml.load(data, Loader=_Loader)  # noqa: S506 - derived from the safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"is not valid YAML: {_one_line(error)}") from error


def prepare() -> None:
    """Have ready what reading notebooks needs, so that a process that waits for work has less to do when it comes.

    That is a library, and the schemas that it compiles when it first meets a version.
    """
    for minor in _COMMON_MINORS:
        empty = {"nbformat": _NOTEBOOK_FORMATS[-1], "nbformat_minor": minor, "metadata": {}, "cells": []}
        notebook_issues(json.dumps(empty).encode())


def notebook_issues(data: bytes) -> list[str]:
    """Return why these bytes are not a notebook that Jupyter opens; empty when they are."""
    # It brings a schema library that nothing else here needs.
    from nbformat.validator import ValidationError as Invalid  # noqa: PLC0415
    from nbformat.validator import validate  # noqa: PLC0415

    try:
        document = json.loads(data.decode())
        version, minor = document["nbformat"], document["nbformat_minor"]
        if type(version) is not int or version not in _NOTEBOOK_FORMATS:
            return [f"is of notebook format {_short(version)}, and only {_NOTEBOOK_FORMATS} are known"]
        if type(minor) is not int:
            return [f"is not a notebook: nbformat_minor is {_short(minor)}"]
        reason = _too_much(document)
        if reason is None:
            _give_ids(document)
            validate(document)
    except Invalid as error:
        return [f"is not a valid notebook: {_one_line(error)}"]
    except (ValueError, RecursionError) as error:
        return [f"is not JSON: {_one_line(error)}"]
    except (AttributeError, KeyError, TypeError) as error:
        # What is not even a mapping with a version, or with cells, cannot be put to the schema.
        return [f"is not a notebook: {_one_line(error)}"]
    return [] if reason is None else [reason]


def _too_much(document: Any) -> str | None:  # noqa: ANN401 - whatever JSON holds
    """Tell why a notebook is not put to the schema: what it takes grows with what is wrong, or with its square."""
    waiting, nodes = [document] if isinstance(document, dict | list) else [], 0
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and not _has_plain_tags(node):
            return f"is not a valid notebook: a cell's tags are not a list of at most {MAX_TAGS} texts"
        inner = node.values() if isinstance(node, dict) else node
        nodes += 1 + (len(node) if isinstance(node, dict) else 0)
        waiting += [each for each in inner if isinstance(each, dict | list)]
        if nodes + len(waiting) > MAX_NOTEBOOK_NODES:
            return f"holds more than {MAX_NOTEBOOK_NODES} lists and mappings"
    return None


def _has_plain_tags(cell: dict[str, Any]) -> bool:
    """Tell whether a cell's tags can be compared with each other in no time: they must all be different."""
    metadata = cell.get("metadata")
    tags = metadata.get("tags") if isinstance(metadata, dict) else None
    return not isinstance(tags, list) or (len(tags) <= MAX_TAGS and all(isinstance(tag, str) for tag in tags))


def _give_ids(document: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Give every cell an id, as Jupyter does on opening: a missing or repeated one is no reason to refuse."""
    if (document["nbformat"], document["nbformat_minor"]) >= (4, 5):
        for number, cell in enumerate(document["cells"]):
            cell["id"] = f"cell-{number}"


def _short(value: object) -> str:
    return repr(value)[:_SHOWN]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


_known_spec = Remembered(parse_spec, _KEPT_SPEC_BYTES)
_known_issues = Remembered(notebook_issues, _KEPT_NOTEBOOK_BYTES)
