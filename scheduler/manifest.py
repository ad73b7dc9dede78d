"""What users ask for: requirements, a plain list of them, or a YAML manifest."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from config import kinds
from config.durations import format_duration, parse_duration
from jobs.models import Priority

MIN_REFRESH_SECONDS = 1.0
"""As often as a scheduler can be relied on to look; how often it makes sense is up to ``cache.pageTtl``."""

MAX_ENTRIES = 20_000
"""Redis takes a batch in one go, and answers nobody else meanwhile."""

_NEWLINE = re.compile(r"\r\n|\r|\n")  # not str.splitlines: editors do not count form feeds as lines
_COMMENT = re.compile(r"(^|\s)#.*$")
_MAX_LINE = 1000
_MAX_FILE_BYTES = 8 * 2**20
_MAX_DEPTH = 10
_SHOWN = 80


class InvalidManifest(Exception):
    """Something that was asked for cannot be understood; ``problems`` says what, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Entry:
    """One visualization package that is asked for."""

    requirement: Requirement
    index: str | None = None
    """The only index to ask, by its name (``pypi[1]``)."""
    require_specs: bool | None = None
    """None: as the settings say."""
    priority: Priority | None = None
    """None: as the whole batch."""
    target: Mapping[str, str] = field(default_factory=dict)
    """By the names of ``config.settings.Target``; what it lacks is as the settings say."""


@dataclass(frozen=True)
class Asked:
    """All that was asked for at once."""

    entries: tuple[Entry, ...]
    repeated: tuple[Entry, ...] = ()
    """Those of a manifest with ``refresh``."""
    refresh_seconds: float | None = None


def _interval(text: str) -> str:
    if parse_duration(text) < MIN_REFRESH_SECONDS:
        raise ValueError(f"shorter than {format_duration(MIN_REFRESH_SECONDS)}, the least there is")
    return text


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Target(_Strict):
    python: Annotated[str, AfterValidator(kinds.python_version)] | None = None
    glibc: Annotated[str, AfterValidator(kinds.glibc_version)] | None = None
    architecture: Annotated[str, AfterValidator(kinds.architecture)] | None = None


class _Visualization(_Strict):
    package: str
    index: int | None = Field(default=None, ge=0)
    requireSpecs: bool | None = None  # noqa: N815 - the name in the file
    priority: Literal["high", "normal", "low"] | None = None
    target: _Target = _Target()


def _whole(value: object) -> object:
    if type(value) is not int:  # true and 1.0 are equal to 1
        raise ValueError("must be 1")
    return value


class _Manifest(_Strict):
    version: Annotated[Literal[1], BeforeValidator(_whole)]
    visualizations: tuple[_Visualization, ...] = Field(strict=False, min_length=1)
    refresh: Annotated[str, AfterValidator(_interval)] | None = None


def parse_requirement(text: str) -> Requirement:
    """Return the requirement in ``text`` with its names normalised; raises ``ValueError`` that says what is wrong.

    PEP 508 by ``packaging``; direct references (URLs, paths, version control) and options are refused, since the
    configured indexes are the only source.
    """
    if len(text) > _MAX_LINE:
        raise ValueError(f"is longer than {_MAX_LINE} characters")
    if text.startswith("-"):
        raise ValueError("is an option: only package requirements such as `name==1.0` are taken")
    if not text.isascii() or not text.isprintable():
        raise ValueError("has characters that no requirement has: only printable ASCII is taken")
    try:
        requirement = Requirement(text)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"is no requirement such as `name` or `name==1.0` ({_shown(reason)})") from error
    except RecursionError as error:  # the parser descends with each bracket of a marker
        raise ValueError("is no requirement such as `name` or `name==1.0` (too many brackets)") from error
    if requirement.url:
        raise ValueError("names a URL: packages come from the configured indexes only")
    # packaging lets pass what PEP 508 does not: a name ends with a letter or a digit.
    if not requirement.name[-1].isalnum():
        raise ValueError("is no requirement such as `name` or `name==1.0` (a name ends with a letter or a digit)")
    requirement.name = canonicalize_name(requirement.name)
    requirement.extras = {canonicalize_name(extra) for extra in requirement.extras}  # PEP 685
    return requirement


def collect(requirements: Sequence[str], file: Path | None = None) -> list[Entry]:
    """Return the entries of ``asked_for`` alone."""
    return list(asked_for(requirements, file).entries)


def asked_for(requirements: Sequence[str], file: Path | None = None) -> Asked:
    """Return what is asked for by requirements given one by one and in ``file``.

    The file is a requirements list, or a YAML manifest when its name ends in .yml or .yaml.
    Raises ``InvalidManifest`` with all that is wrong, each with its line or its place.
    """
    found: list[Asked] = []
    problems: list[str] = []
    for source in (partial(_from_arguments, requirements), *([partial(_from_file, file)] if file else [])):
        try:
            found.append(source())
        except InvalidManifest as error:
            problems.extend(error.problems)
    entries = tuple(entry for asked in found for entry in asked.entries)
    if not entries and not problems:
        problems.append("no package is named: give requirements such as `name==1.0`, or a file of them with -r")
    if problems:
        raise InvalidManifest(problems)
    return Asked(entries, found[-1].repeated, found[-1].refresh_seconds)


def from_text(text: str, name: str, *, manifest: bool = False) -> Asked:
    """Return what is asked for in the text of a requirements list, or of a YAML manifest, that is called ``name``.

    Raises ``InvalidManifest`` as ``asked_for`` does.
    """
    return _from_yaml(Path(name), text) if manifest else _from_list(Path(name), text)


def _from_arguments(texts: Sequence[str]) -> Asked:
    return Asked(tuple(_entries((f"`{_shown(text)}`", text) for text in texts)))


def _from_file(path: Path) -> Asked:
    try:
        # With the mark that some editors put in front; newlines as they are, since they are counted below.
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest([f"{path} cannot be read: {error}"]) from error
    if len(text) > _MAX_FILE_BYTES:
        raise InvalidManifest([f"{path} is larger than {_MAX_FILE_BYTES // 2**20} MiB"])
    return _from_yaml(path, text) if path.suffix in {".yml", ".yaml"} else _from_list(path, text)


def _from_list(path: Path, text: str) -> Asked:
    lines = ((number, _COMMENT.sub("", line).strip()) for number, line in enumerate(_NEWLINE.split(text), 1))
    entries = _entries((f"{path} line {number}: `{_shown(line)}`", line) for number, line in lines if line)
    if not entries:
        raise InvalidManifest([f"{path} names no package"])
    return Asked(tuple(entries))


def _from_yaml(path: Path, text: str) -> Asked:
    manifest, lines = _read_manifest(path, text)
    parsed = _entries(
        (
            f"{path} line {lines.of('visualizations', n, 'package')}: visualizations[{n}]: `{_shown(asked.package)}`",
            asked.package,
        )
        for n, asked in enumerate(manifest.visualizations)
    )
    entries = tuple(
        Entry(
            requirement=entry.requirement,
            index=None if asked.index is None else f"pypi[{asked.index}]",
            require_specs=asked.requireSpecs,
            priority=None if asked.priority is None else Priority(asked.priority),
            target=asked.target.model_dump(exclude_none=True),
        )
        for entry, asked in zip(parsed, manifest.visualizations, strict=True)
    )
    if manifest.refresh is None:
        return Asked(entries)
    return Asked(entries, entries, parse_duration(manifest.refresh))


def _read_manifest(path: Path, text: str) -> tuple[_Manifest, "_Lines"]:
    content, lines = _read_yaml(path, text)
    try:
        manifest = _Manifest.model_validate(content)
    except ValidationError as error:
        found = [e for e in error.errors() if not _follows(e["loc"], e["type"], error)]
        raise InvalidManifest([_wrong_value(path, lines, e["loc"], _words(e)) for e in found]) from error
    return manifest, lines


def _follows(place: tuple[str | int, ...], kind: str, error: ValidationError) -> bool:
    """Tell whether a list is called too short only because pydantic does not count entries that are wrong."""
    inside = (other["loc"] for other in error.errors() if len(other["loc"]) > len(place))
    return kind == "too_short" and any(other[: len(place)] == place for other in inside)


_WORDS = {
    "extra_forbidden": "no such key is known here",
    "missing": "is missing",
    "string_type": "must be text; put quotes around it",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list: lines that begin with `- `",
    "model_type": "must be a mapping of keys to values",
    "too_short": "must have at least 1 entry",
}
"""What users are told instead of pydantic's words for programmers."""


def _words(error: ErrorDetails) -> str:
    if error["type"] == "literal_error":
        return f"must be {error['ctx']['expected']}"
    return _WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))


def _wrong_value(path: Path, lines: "_Lines", place: Sequence[str | int], what: str) -> str:
    name = _shown(".".join(map(str, place))) or "as a whole"
    return f"{path} line {lines.of(*place)}: {name}: {_shown(what, 300)}"


class _Lines:
    """Where in a YAML document each value stands."""

    def __init__(self, root: yaml.Node | None) -> None:
        self._root = root

    def of(self, *place: str | int) -> int:
        """Return the number of the line at which the value at ``place``, or what holds it, begins."""
        found = self._root
        for step in place:
            inner = _inner(found, step)
            if inner is None:
                break
            found = inner
        return _line(found.start_mark) if found else 1


def _line(mark: Any) -> int:  # noqa: ANN401 - PyYAML has two unrelated classes of marks
    return int(mark.line) + 1


def _inner(node: yaml.Node | None, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return next(iter(node.value[step : step + 1]), None)
    return None


def _read_yaml(path: Path, text: str) -> tuple[Any, _Lines]:
    """Return what a YAML document holds, and where; raises ``InvalidManifest`` also for what YAML would let pass."""
    # libyaml's is ten times as fast, where there is one.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        _refuse_bombs(path, text)
        node = loader.get_single_node()
        _refuse_repetition(path, node)
        return (loader.construct_document(node) if node else None), _Lines(node)
    except yaml.YAMLError as error:
        raise InvalidManifest([f"{path} is no YAML: {error}"]) from error
    except ValueError as error:  # PyYAML reads 2001-99-99 as a date, and lets the failure pass
        raise InvalidManifest([f"{path} holds a value that YAML does not allow: {_shown(str(error))}"]) from error
    finally:
        loader.dispose()


def _refuse_bombs(path: Path, text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        # An alias can stand for exponentially much; no manifest needs one.
        if isinstance(event, yaml.AliasEvent):
            raise InvalidManifest([f"{path} line {_line(event.start_mark)}: YAML aliases, which manifests may not use"])
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise InvalidManifest([f"{path} line {_line(event.start_mark)}: nested deeper than any manifest is"])


def _refuse_repetition(path: Path, root: yaml.Node | None) -> None:
    """YAML forbids a key twice in a mapping, yet PyYAML takes the last one in silence."""
    problems, nodes = [], [root]
    while nodes:
        node = nodes.pop()
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, value in node.value:
                nodes.append(value)
                if isinstance(key, yaml.ScalarNode):
                    if key.value in seen:
                        line = _line(key.start_mark)
                        problems.append(f"{path} line {line}: `{_shown(key.value)}` stands there twice")
                    seen.add(key.value)
        elif isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
    if problems:
        raise InvalidManifest(problems)


def _entries(named: Iterable[tuple[str, str]]) -> list[Entry]:
    entries, problems = [], []
    for number, (name, text) in enumerate(named):
        if number == MAX_ENTRIES:
            problems.append(f"more than {MAX_ENTRIES} packages at once: make several batches of them")
            break
        try:
            entries.append(Entry(parse_requirement(text)))
        except ValueError as error:
            problems.append(f"{name} {error}")
    if problems:
        raise InvalidManifest(problems)
    return entries


def _shown(text: str, length: int = _SHOWN) -> str:
    # Text of others may hold what steers a terminal.
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:length])
    return shown if len(text) <= length else f"{shown[: length - 3]}..."
