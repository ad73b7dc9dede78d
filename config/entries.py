"""What users wrote: one entry for each name in each source, with the source kept for every later message."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from config.names import (
    BY_FIELD,
    TMPDIR_PROPERTY,
    TMPDIR_VARIABLE,
    Match,
    Style,
    covering,
    is_ours,
    match_dotted,
    match_variable,
    nearest,
)
from config.problems import Problem
from config.secrets import MASK, SHORTEST_MASKED


@dataclass(frozen=True)
class Source:
    """Where entries come from."""

    label: str
    style: Style
    rank: int
    """The lower wins."""


ARGUMENTS = Source("argument", Style.ARGUMENT, 0)
SYSTEM_PROPERTIES = Source("system property", Style.SYSTEM_PROPERTY, 1)
ENVIRONMENT = Source("environment", Style.ENVIRONMENT, 2)
SYSTEM = Source("environment", Style.ENVIRONMENT, 4)
"""Variables that are not ours, weaker than everything that was written for us."""


def settings_file(label: str) -> Source:
    """Return the source that a settings file is."""
    return Source(label, Style.FILE, 3)


@dataclass(frozen=True)
class Written:
    """A name and its value as found in a source, not yet understood."""

    source: Source
    written: str
    """With the dashes of an argument."""
    name: str
    value: str | None = field(repr=False)
    """None when the name has no value at all."""
    line: int | None = None


@dataclass(frozen=True)
class Entry:
    """A setting's value in one source."""

    source: Source
    written: str
    value: str = field(repr=False)
    match: Match
    line: int | None = None

    def problem(self, message: str) -> Problem:
        """Return a problem with this entry."""
        return Problem(self.source.label, self.written, message, self.line)


def is_argument(argument: str) -> bool:
    """Whether a command-line argument has the agent's form and is for us to read."""
    return bool(re.match(rf"(--|-D)moderne\.|-D{re.escape(TMPDIR_PROPERTY)}=", argument, re.IGNORECASE))


def is_setting(variable: str) -> bool:
    """Whether an environment variable may belong to the platform, and so hold a secret of its."""
    return variable[:7].upper() == "MODERNE"


def from_arguments(arguments: Iterable[str]) -> Iterator[Written]:
    """Read ``--name=value`` and ``-Dname=value``; other arguments are left alone."""
    for argument in filter(is_argument, arguments):
        written, equals, value = argument.partition("=")
        source = ARGUMENTS if argument.startswith("--") else SYSTEM_PROPERTIES
        yield Written(source, written, written[2:], value if equals else None)


def from_environment(environment: Mapping[str, str]) -> Iterator[Written]:
    """Read the variables that belong to the platform, and ``TMPDIR``."""
    for name, value in environment.items():
        if is_setting(name):
            yield Written(ENVIRONMENT, name, name, value)
        elif name == TMPDIR_VARIABLE:
            yield Written(SYSTEM, name, name, value)


def understand(found: Sequence[Written]) -> tuple[list[Entry], list[Problem]]:
    """Find the setting of each name. Names of other parts of the agent are left alone."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for item in found:
        match = _match(item)
        if match and item.value is not None:
            entries.append(Entry(item.source, shown(item.written), item.value, match, item.line))
        elif match or (is_ours(item.name) and not _is_service_link(item)):
            problems.append(Problem(item.source.label, *_complaint(item, match), item.line))
    secrets = [entry.value for entry in entries if entry.match.setting.secret]
    return entries, [_without(secrets, problem) for problem in problems]


def shown(name: str) -> str:
    """Return a name as it may be repeated: cut where a character begins that no name has, or where it gets too long.

    What follows such a character may be a value that slipped into the name, so it is not repeated.
    """
    head = re.match(r"[\w.\[\]-]{0,200}", name)
    kept = head[0] if head else ""
    return kept if kept == name else f"{kept}…"


def _is_service_link(item: Written) -> bool:
    """Whether Kubernetes made this variable, as it does in each pod for a service whose name begins like our settings.

    A service named ``moderne-agent-visualization`` is likely, and its variables must not stop anything.
    """
    if item.source.style is not Style.ENVIRONMENT:
        return False
    if re.search(r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?$", item.name):
        return True
    return item.name.endswith("_PORT") and bool(re.match("(tcp|udp|sctp)://", item.value or ""))


def _without(secrets: Sequence[str], problem: Problem) -> Problem:
    """Mask secrets that also stand in a name that nobody knows, as when a template was filled in wrongly."""
    name = problem.name
    for secret in secrets:
        if len(secret) >= SHORTEST_MASKED:
            name = name.replace(secret, MASK)
    return replace(problem, name=name)


def _match(item: Written) -> Match | None:
    if item.source is SYSTEM:
        return Match(BY_FIELD["temporary_directory"])
    if item.source.style is Style.ENVIRONMENT:
        return match_variable(item.name)
    if item.source.style is Style.SYSTEM_PROPERTY and item.name.lower() == TMPDIR_PROPERTY:
        return Match(BY_FIELD["temporary_directory"])
    return match_dotted(item.name)


def _complaint(item: Written, match: Match | None) -> tuple[str, str]:
    cover = covering(item.name)
    if cover:
        kept = item.written[: len(item.written) - len(item.name) + len(cover)]
        return shown(kept), "takes one value; nothing can stand below it"
    if not match:
        return shown(item.written), f"no such setting; did you mean {nearest(item.name, item.source.style)}?"
    if item.source.style is Style.FILE:
        return shown(item.written), "takes one value; a list or a group stands here"
    return shown(item.written), "has no value; write name=value, without a space"
