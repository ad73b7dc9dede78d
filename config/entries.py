"""What users wrote: one entry for each name in each source, with the source kept for every later message."""

import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from config.names import (
    BY_FIELD,
    CONFIG_VARIABLE,
    OURS,
    SETTINGS,
    TMPDIR_PROPERTY,
    TMPDIR_VARIABLE,
    Generation,
    Match,
    Style,
    begins_like_ours,
    covering,
    is_group,
    is_ours,
    match_dotted,
    match_variable,
    nearest,
    similar,
    with_smaller_numbers,
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
    misplaced: bool = False
    """Whether it is written as no source has it, such as a variable among the arguments."""


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
    """Whether a command-line argument has the agent's form and is for us to read, or was meant to."""
    return _has_form(argument) or _is_misplaced(argument)


def split_arguments(argv: Sequence[str], commands: Container[str] = ()) -> tuple[list[str], list[str]]:
    """Split a command line into the agent's arguments, from any place in it, and the rest, each in order.

    The agent's are ``--moderne.…=value``, ``-Dmoderne.…=value`` and ``-Djava.io.tmpdir=…``. One without a value also
    counts, so that reading it can say what is missing; the word behind it, which may be a secret, is in neither list.
    The first of ``commands`` is no value, though.
    """
    ours: list[str] = []
    rest: list[str] = []
    dangling = False
    for item in argv:
        is_command = item in commands and not any(word in commands for word in rest)
        if is_argument(item):
            ours.append(item)
            dangling = "=" not in item
        elif not dangling or item.startswith("-") or is_command:
            rest.append(item)
            dangling = False
        else:
            dangling = False
    return ours, rest


def split_foreign(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into what is for vizfetch and the names of what is for the agent's Java and Spring.

    So that the arguments of an agent that runs today can stay as they are. Only names of Java's and Spring's own groups
    count: any other that nobody knows is a mistake, and must not be passed over.
    """
    foreign = [item.partition("=")[0] for item in argv if _FOREIGN.match(item)]
    return [item for item in argv if not _FOREIGN.match(item)], foreign


_FOREIGN = re.compile(
    r"(?:-D|--)(?:java|javax|jdk|sun|com\.sun|https?|user|file|server|spring|management|logging)\.[\w.\[\]-]+(?:=|$)"
)


def _has_form(argument: str) -> bool:
    return bool(re.match(rf"(--|-D)moderne\.|-D{re.escape(TMPDIR_PROPERTY)}=", argument, re.IGNORECASE))


def _is_misplaced(argument: str) -> bool:
    """Whether an argument looks like a setting in a form that arguments do not have.

    A requirement is none: ``moderne_visualizations_misc==2.0`` has no ``agent`` in it. Dashes may have become others
    where text is written, and quotes a part of the argument.
    """
    found = _MISPLACED.match(argument)
    return bool(found and is_ours(found["name"], for_certain=True))


_MISPLACED = re.compile(
    r"(?P<lead>\W+D|\W*)(?P<name>[a-z][\w.\[\]-]*)(?:=(?!=)|[^\w.\[\]=-]|$)", re.IGNORECASE | re.DOTALL
)


def is_setting(variable: str) -> bool:
    """Whether an environment variable may belong to the platform, and so hold a secret of its."""
    return begins_like_ours(variable)


def is_tracing(variable: str) -> bool:
    """Whether an environment variable is one of OpenTelemetry's, and so may hold the credentials of a receiver."""
    return variable.startswith("OTEL_")


def from_arguments(arguments: Iterable[str]) -> Iterator[Written]:
    """Read ``--name=value`` and ``-Dname=value``; other arguments are left alone."""
    for argument in filter(is_argument, arguments):
        written, equals, value = argument.partition("=")
        source = SYSTEM_PROPERTIES if argument.startswith("-D") else ARGUMENTS
        misplaced = not _has_form(argument)
        lead = _MISPLACED.match(argument) if misplaced else re.match("(?P<lead>-D|--)", argument)
        assert lead  # noqa: S101 - else it would be no argument of ours
        name = written[len(lead["lead"]) :]
        written = written if lead["lead"] in {"-", "--", "-D"} else name
        yield Written(source, written, name, value if equals else None, misplaced=misplaced)


def from_environment(environment: Mapping[str, str]) -> Iterator[Written]:
    """Read the variables that belong to the platform, and ``TMPDIR``."""
    for name, value in environment.items():
        if _is_service_port(name, environment):
            continue
        if is_setting(name):
            yield Written(ENVIRONMENT, name, name, value)
        elif name == TMPDIR_VARIABLE:
            yield Written(SYSTEM, name, name, value)
        elif name != CONFIG_VARIABLE and name.upper().startswith(_OWN_VARIABLES):
            yield Written(ENVIRONMENT, name, name, value)


def understand(found: Sequence[Written]) -> tuple[list[Entry], list[Problem]]:
    """Find the setting of each name. Names of other parts of the agent are left alone."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    for item in found:
        match = _match(item)
        if match and item.value is not None and not item.misplaced:
            entries.append(Entry(item.source, shown(item.written), item.value, match, item.line))
        elif complaint := _complaint(item, match):
            problems.append(Problem(item.source.label, *complaint, item.line))
    secrets = [entry.value for entry in entries if entry.match.setting.secret]
    return entries, [_without(secrets, problem) for problem in problems]


def shown(name: str) -> str:
    """Return a name as it may be repeated: cut where a character begins that no name has, or where it gets too long.

    What follows such a character may be a value that slipped into the name, so it is not repeated.
    """
    head = re.match(r"[\w.\[\]-]{0,200}", name)
    kept = head[0] if head else ""
    return kept if kept == name else f"{kept}…"


def _shown_unknown(item: Written) -> str:
    """Return a name that nobody knows as it may be repeated: without what may be a value that is glued to it."""
    name = item.written
    if found := _SECRET_NAME.search(name):
        name = name[: found.end()]
    if item.value is None:  # all that is known for certain is the group
        ends = [found.end() for found in re.finditer(r"[.\]]", name)]
        start = len(item.written) - len(item.name)
        groups = [end for end in ends if is_group(name[start:end].rstrip("."))]
        name = name[: max(groups, default=len(name))] if not _SECRET_NAME.search(name) else name
    return shown(name) if name == item.written else f"{shown(name).rstrip('…')}…"


_SECRET_NAME = re.compile(
    "|".join(
        re.sub(r"(?<!^)([A-Z])", r"[-_]?\1", setting.name.rpartition(".")[2]).replace("url", "redis[._]url")
        for setting in SETTINGS
        if setting.secret
    ),
    re.IGNORECASE,
)


def _is_service_link(item: Written) -> bool:
    """Whether Kubernetes made this variable, as it does in each pod for a service whose name begins like our settings.

    A service named ``moderne-agent-visualization`` is likely, and its variables must not stop anything.
    """
    if item.source.style is not Style.ENVIRONMENT:
        return False
    if re.search(r"_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_[A-Z]+)?$", item.name):
        return True
    return item.name.endswith("_PORT") and _names_a_service(item.value or "")


def _is_service_port(name: str, environment: Mapping[str, str]) -> bool:
    """Whether Kubernetes made this variable for a service. It may be called like a setting, such as ``redis.port``."""
    made = name.endswith("_PORT") and f"{name.removesuffix('_PORT')}_SERVICE_HOST" in environment
    return made and _names_a_service(environment[name])


def _names_a_service(value: str) -> bool:
    return bool(re.match("(tcp|udp|sctp)://", value))


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


def _complaint(item: Written, match: Match | None) -> tuple[str, str] | None:
    """Return a name as it may be repeated and what is wrong with it; None when it is no concern of ours."""
    in_file = item.source.style is Style.FILE
    if item.misplaced:
        known = match or match_variable(item.name)
        name = _spelled(known, Style.ARGUMENT) if known else nearest(item.name, Style.ARGUMENT)
        return _shown_unknown(item), f"is not how an argument is written; write {name}=value"
    if match:
        list_or_group = "takes one value; a list or a group stands here"
        no_value = "has no value; write name=value, without a space"
        return shown(item.written), list_or_group if in_file else no_value
    if is_group(item.name) and (in_file or (item.source is not ENVIRONMENT and not is_ours(item.name))):
        return shown(item.written), "is a group of settings; write their names below it, not a value or a list"
    if item.source is ENVIRONMENT and item.name.upper().startswith(_OWN_VARIABLES):
        return _complaint_about_own(item)
    return _complaint_about_unknown(item) if is_ours(item.name) and not _is_service_link(item) else None


def _complaint_about_unknown(item: Written) -> tuple[str, str]:
    if cover := covering(item.name):
        kept = item.written[: len(item.written) - len(item.name) + len(cover)]
        return shown(kept), "takes one value; nothing can stand below it"
    suggestion = nearest(item.name, item.source.style)
    smaller = with_smaller_numbers(item.name)
    if smaller != item.name and (match_variable(smaller) or match_dotted(smaller)):
        return shown(item.written), f"the number is too large; number the indexes from 0 without gaps: {suggestion}"
    return _shown_unknown(item), f"no such setting; did you mean {suggestion}?"


def _complaint_about_own(item: Written) -> tuple[str, str] | None:
    """Tell of a variable that was meant for us: others, such as an image's version, are no concern of ours."""
    if similar(item.name.upper(), CONFIG_VARIABLE):
        return _shown_unknown(item), f"no such variable; did you mean {CONFIG_VARIABLE}?"
    leaf = item.name[len(_OWN_VARIABLES) :]
    for prefix in (f"{OURS}.", "moderne.agent."):
        if not _is_service_link(item) and (match := match_variable(re.sub("[.]", "_", prefix).upper() + leaf)):
            return _shown_unknown(item), f"no such variable; did you mean {_spelled(match, Style.ENVIRONMENT)}?"
    return None


def _spelled(match: Match, style: Style) -> str:
    index = match.index if match.setting.indexed else None
    return match.setting.spelled(style, index, match.generation or Generation.AGENT)


_OWN_VARIABLES = "VIZFETCH_"
