"""What users ask for: requirements, a plain list of them, or a YAML manifest."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import yaml
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel, ConfigDict, Field, ValidationError

_COMMENT = re.compile(r"(^|\s)#.*$")
_MAX_LINE = 1000
_MAX_FILE_BYTES = 8 * 2**20


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


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Visualization(_Strict):
    package: str
    index: int | None = Field(default=None, ge=0)
    requireSpecs: bool | None = None  # noqa: N815 - the name in the file


class _Manifest(_Strict):
    version: Literal[1]
    visualizations: tuple[_Visualization, ...] = Field(strict=False, min_length=1)
    refresh: str | None = None


def parse_requirement(text: str) -> Requirement:
    """Return the requirement in ``text`` with its name normalised; raises ``ValueError`` that says what is wrong.

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
        raise ValueError(f"is no requirement such as `name` or `name==1.0` ({reason})") from error
    if requirement.url:
        raise ValueError("names a URL: packages come from the configured indexes only")
    requirement.name = canonicalize_name(requirement.name)
    return requirement


def collect(requirements: Sequence[str], file: Path | None = None) -> list[Entry]:
    """Return the entries for requirements given one by one and for those in ``file``.

    The file is a requirements list, or a YAML manifest when its name ends in .yml or .yaml.
    Raises ``InvalidManifest`` with all that is wrong, each with its line or its place.
    """
    entries: list[Entry] = []
    problems: list[str] = []
    for source in (partial(_from_arguments, requirements), *([partial(_from_file, file)] if file else [])):
        try:
            entries.extend(source())
        except InvalidManifest as error:
            problems.extend(error.problems)
    if not entries and not problems:
        problems.append("no package is named: give requirements such as `name==1.0`, or a file of them with -r")
    if problems:
        raise InvalidManifest(problems)
    return entries


def _from_arguments(texts: Sequence[str]) -> list[Entry]:
    return _entries((f"`{_shown(text)}`", text) for text in texts)


def _from_file(path: Path) -> list[Entry]:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidManifest([f"{path} cannot be read: {error}"]) from error
    if len(text) > _MAX_FILE_BYTES:
        raise InvalidManifest([f"{path} is larger than {_MAX_FILE_BYTES // 2**20} MiB"])
    return _from_yaml(path, text) if path.suffix in {".yml", ".yaml"} else _from_list(path, text)


def _from_list(path: Path, text: str) -> list[Entry]:
    lines = ((number, _COMMENT.sub("", line).strip()) for number, line in enumerate(text.splitlines(), 1))
    entries = _entries((f"{path} line {number}: `{_shown(line)}`", line) for number, line in lines if line)
    if not entries:
        raise InvalidManifest([f"{path} names no package"])
    return entries


def _from_yaml(path: Path, text: str) -> list[Entry]:
    manifest = _read_manifest(path, text)
    named = enumerate(manifest.visualizations)
    entries = _entries((f"{path} visualizations[{n}]: `{_shown(v.package)}`", v.package) for n, v in named)
    return [
        Entry(
            requirement=entry.requirement,
            index=None if asked.index is None else f"pypi[{asked.index}]",
            require_specs=asked.requireSpecs,
        )
        for entry, asked in zip(entries, manifest.visualizations, strict=True)
    ]


def _read_manifest(path: Path, text: str) -> _Manifest:
    try:
        # An alias can stand for exponentially much; no manifest needs one.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise InvalidManifest([f"{path} uses YAML aliases, which manifests may not"])
        manifest = _Manifest.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InvalidManifest([f"{path} is no YAML: {error}"]) from error
    except ValidationError as error:
        problems = [f"{path} {'.'.join(map(str, e['loc'])) or 'as a whole'}: {e['msg']}" for e in error.errors()]
        raise InvalidManifest(problems) from error
    if manifest.refresh:
        raise InvalidManifest([f"{path} refresh: this version of vizfetch cannot look again by itself; leave it out"])
    return manifest


def _entries(named: Iterator[tuple[str, str]]) -> list[Entry]:
    entries, problems = [], []
    for name, text in named:
        try:
            entries.append(Entry(parse_requirement(text)))
        except ValueError as error:
            problems.append(f"{name} {error}")
    if problems:
        raise InvalidManifest(problems)
    return entries


def _shown(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004
