"""What went wrong, in a kind and in words.

The gateway's record of the task is the authority. pip falls back to an older version when a page cannot be had, and
prints the same sentence for a login page, an index that is down and a package that does not exist; so its text is asked
only when the record knows of nothing.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bundles.errors import (
    BrokenWheel,
    BundleError,
    HashMismatch,
    InvalidVisualization,
    NotClosed,
    NoVisualizations,
    StorageError,
    WrongTarget,
)
from config.secrets import mask_url
from jobs.errors import ErrorKind
from worker.errors import FetchError
from worker.gateway.record import Availability, Project, Record
from worker.pip import Outcome

_NOTHING_MATCHES = re.compile(r"No matching distribution found for (?P<requirement>[^\n]+?)(?: \(from .*)?$")
_CONFLICT = "ResolutionImpossible"
_DIRECT_REFERENCE = re.compile(
    r"^(?:Collecting (?P<name>\S+) ?@ (?P<url>\S+)|Processing (?P<path>/\S+)) \(from (?P<by>[^-\s]\S*?)->"
)
_OTHER_INSIDE = re.compile(r"Discarding \S*/(?P<file>[^/\s#]+)\S* .*has (?P<why>inconsistent .*)")
"""pip says so in passing, and takes an older version. The gateway refuses such files first, as far as they can be told:
what a source turns out to be only a build shows."""
_INVALID_METADATA = re.compile(r"Ignoring version (?P<version>\S+) of (?P<name>\S+) since it has invalid metadata")
_YANKED = re.compile(r"Ignored the following yanked versions: (?P<versions>.+)")
_DISK_FULL = ("No space left on device", "Disk quota exceeded")
_BUILD_FAILED = ("metadata-generation-failed", "Failed to build", "Failed building wheel")
_SHOWN_VERSIONS = 8
_SHOWN_LINES = 5

_BUNDLE_KINDS: tuple[tuple[type[BundleError], ErrorKind], ...] = (
    (HashMismatch, ErrorKind.HASH_MISMATCH),
    (BrokenWheel, ErrorKind.BROKEN_WHEEL),
    (WrongTarget, ErrorKind.NO_COMPATIBLE_WHEEL),
    (NotClosed, ErrorKind.RESOLUTION_CONFLICT),
    (NoVisualizations, ErrorKind.NO_VISUALIZATIONS),
    (InvalidVisualization, ErrorKind.INVALID_VISUALIZATION),
    (StorageError, ErrorKind.STORAGE),
)


def judge(requirement: Requirement, outcome: Outcome, record: Record) -> None:
    """Raise ``FetchError`` unless the download went well in every respect, also when pip says that it did."""
    if record.incidents:
        # Of several, the one that somebody has to act on is told before one that may pass, and what happened before
        # what was only left alone.
        worst = min(record.incidents, key=lambda incident: (incident.kind.retryable, incident.attempts == 0))
        raise FetchError(
            worst.kind,
            worst.message,
            index=worst.index,
            again_in_seconds=worst.again_in_seconds,
            tried=worst.attempts > 0,
        )
    if direct := _first(_DIRECT_REFERENCE, outcome.asides):
        raise FetchError(
            ErrorKind.INVALID_REQUIREMENT,
            f"{direct['by']} needs `{mask_url(direct['url'] or direct['path'])}`, which is no package of an index: "
            "packages come from the configured indexes only. Ask who publishes it to name a package instead.",
        )
    if other := _first(_OTHER_INSIDE, outcome.asides):
        raise FetchError(
            ErrorKind.BROKEN_WHEEL,
            f"{other['file']} is not what its name says, so pip passed over it: {other['why']}. Ask who publishes it "
            "to replace or yank it.",
        )
    if outcome.exit_code != 0:
        raise _pip_failure(requirement, outcome, record)


def passed_over(outcome: Outcome, projects: Collection[str]) -> tuple[str, ...]:
    """Return a warning for each version of these projects that pip left out, since nobody can read its metadata.

    It says so and takes an older one, which the index's own people may not expect.
    """
    found = (_INVALID_METADATA.search(line) for line in outcome.asides)
    return tuple(
        f"{each['name']} {each['version']} was passed over: nobody can read its metadata"
        for each in found
        if each and canonicalize_name(each["name"]) in projects
    )


def bundle_failure(error: BundleError) -> FetchError:
    """Return the failure for an error of the bundle or its store."""
    kind = next((kind for type_, kind in _BUNDLE_KINDS if isinstance(error, type_)), ErrorKind.INTERNAL)
    return FetchError(kind, str(error))


def _pip_failure(requirement: Requirement, outcome: Outcome, record: Record) -> FetchError:
    text = "\n".join(outcome.lines)
    if any(sign in text for sign in _DISK_FULL):
        return FetchError(ErrorKind.DISK_FULL, "The disk of temporaryDirectory is full: free space there.")
    if _CONFLICT in text:
        return FetchError(ErrorKind.RESOLUTION_CONFLICT, _conflict(outcome.lines))
    if invalid := _first(_INVALID_METADATA, outcome.asides):
        return FetchError(
            ErrorKind.BROKEN_WHEEL,
            f"{invalid['name']} {invalid['version']} has metadata that nobody can read. Ask who publishes it to "
            "replace or yank it.",
        )
    missing = _unmatched(outcome.lines)
    if missing is None and any(sign in text for sign in _BUILD_FAILED):
        return FetchError(
            ErrorKind.NO_COMPATIBLE_WHEEL,
            "A package that exists as source only could not be built, and there is no wheel of it for the target: "
            f"{_build_output(outcome.lines)}",
        )
    if missing is None:
        return FetchError(
            ErrorKind.INTERNAL, f"pip failed with exit code {outcome.exit_code}: {_errors(outcome.lines)}"
        )
    name = canonicalize_name(missing.name)
    project = next((project for project in record.projects if project.name == name), None)
    asked_by = "" if name == canonicalize_name(requirement.name) else f", which `{requirement}` needs"
    yanked = _first(_YANKED, outcome.lines)
    return _unmatched_failure(missing, asked_by, project, frozenset(yanked["versions"].split(", ") if yanked else ()))


def _first(pattern: re.Pattern[str], lines: Iterable[str]) -> re.Match[str] | None:
    return next((found for line in lines if (found := pattern.search(line))), None)


def _unmatched(lines: Iterable[str]) -> Requirement | None:
    for line in lines:
        if found := _NOTHING_MATCHES.search(line):
            try:
                return Requirement(found["requirement"])
            except InvalidRequirement:
                continue
    return None


def _unmatched_failure(
    missing: Requirement, asked_by: str, project: Project | None, yanked: frozenset[str]
) -> FetchError:
    if project is None or project.index is None:
        return FetchError(
            ErrorKind.NOT_FOUND,
            f"No index has the package {missing.name}{asked_by}. Check the name, and that the index which has it is "
            "configured.",
        )
    fitting = [version for version in project.versions if _matches(missing, version)]
    if not fitting:
        return FetchError(
            ErrorKind.NOT_FOUND,
            f"The index {project.index} has no version of {missing.name} that satisfies `{missing}`{asked_by}. "
            f"It has {_newest(project.versions)}.{_status(project)}",
            index=project.index,
        )
    if yanked.issuperset(fitting):
        return FetchError(
            ErrorKind.NOT_FOUND,
            f"Every version of {missing.name} that satisfies `{missing}`{_inserted(asked_by)} was yanked from the "
            f"index {project.index}: {_newest(fitting)}. Pin one exactly (`{missing.name}=={fitting[0]}`) to take it "
            "all the same.",
            index=project.index,
        )
    return _unusable(missing, asked_by, project, fitting)


def _unusable(missing: Requirement, asked_by: str, project: Project, fitting: Sequence[str]) -> FetchError:
    reasons = {project.versions[version] for version in fitting}
    shown = _newest(fitting)
    if reasons == {Availability.OTHER_PYTHON}:
        return FetchError(
            ErrorKind.PYTHON_INCOMPATIBLE,
            f"No version of {missing.name} that satisfies `{missing}`{_inserted(asked_by)} is made for the target's "
            f"Python: {shown} on the index {project.index} need another one. Ask for another version, or another "
            "target.",
            index=project.index,
        )
    return FetchError(
        ErrorKind.NO_COMPATIBLE_WHEEL,
        f"No version of {missing.name} that satisfies `{missing}`{_inserted(asked_by)} has a wheel for the target: "
        f"{project.index} has {shown} ({', '.join(sorted(reasons))}).{_status(project)}{_remedy(reasons)}",
        index=project.index,
    )


def _inserted(clause: str) -> str:
    """Return a clause for the middle of a sentence, where it ends with a comma."""
    return f"{clause}," if clause else ""


def _remedy(reasons: Collection[Availability]) -> str:
    if Availability.SOURCE_ONLY in reasons:
        return " moderne.agent.visualization.sdists can let it be built."
    return ""


def _status(project: Project) -> str:
    return f" The index says of the project: {project.status}." if project.status else ""


def _matches(requirement: Requirement, version: str) -> bool:
    return requirement.specifier.contains(version, prereleases=True)


def _newest(versions: Iterable[str]) -> str:
    def order(version: str) -> tuple[bool, Version | str]:
        try:
            return (True, Version(version))
        except InvalidVersion:
            return (False, version)

    ordered = sorted(versions, key=order, reverse=True)
    more = f" and {len(ordered) - _SHOWN_VERSIONS} older ones" if len(ordered) > _SHOWN_VERSIONS else ""
    return (", ".join(ordered[:_SHOWN_VERSIONS]) or "no versions at all") + more


def _conflict(lines: Sequence[str]) -> str:
    """Return pip's explanation of a conflict: the indented lines below "The conflict is caused by"."""
    start = next((n for n, line in enumerate(lines) if line.startswith("The conflict is caused by")), None)
    if start is None:
        return f"The requirements contradict each other: {_errors(lines)}"
    causes = [line.strip() for line in _until_blank(lines[start + 1 :])]
    return f"The requirements contradict each other: {'; '.join(causes)}."


def _build_output(lines: Sequence[str]) -> str:
    """Return the end of what a build printed, which pip shows between two marks, and which package it was."""
    start = next((number for number, line in enumerate(lines) if "lines of output]" in line), None)
    end = next((number for number, line in enumerate(lines) if "[end of output]" in line), None)
    if start is None or end is None:
        return _errors(lines)
    named = [line.strip() for line in lines if "─>" in line and "[" not in line]
    return " ".join([*(line.strip() for line in lines[start + 1 : end][-_SHOWN_LINES:]), *named])


def _until_blank(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if not line.strip():
            return
        yield line


def _errors(lines: Sequence[str]) -> str:
    told = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")] or list(lines)
    return " ".join(told[-_SHOWN_LINES:])
