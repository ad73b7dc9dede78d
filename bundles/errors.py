"""What can be wrong with a bundle. Upper floors translate these into the kinds of a job's failure."""

from collections.abc import Sequence


def printable(text: str) -> str:
    """Return a text that a terminal can show: what packages and stores hold may be written to control it."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


class BundleError(Exception):
    """The root of all errors of this package; ``message`` is one text for people, without a secret."""

    also: "tuple[BundleError, ...]" = ()
    """Further problems that the same check found."""

    def __init__(self, message: str) -> None:
        shown = printable(message)
        super().__init__(shown)
        self.message = shown

    def __str__(self) -> str:
        return "\n".join([self.message, *(f"also: {other.message}" for other in self.also)])


class WheelError(BundleError):
    """Something is wrong with one wheel, ``filename``."""

    def __init__(self, filename: str, message: str) -> None:
        super().__init__(message)
        self.filename = filename


class BrokenWheel(WheelError):
    """The file is not a sound wheel, or not the one that its name says."""

    def __init__(self, filename: str, issues: Sequence[str]) -> None:
        super().__init__(filename, f"{filename} is a broken wheel: {_join(issues)}")
        self.issues = tuple(issues)


class HashMismatch(WheelError):
    """The file's bytes are not the promised ones."""

    def __init__(self, filename: str, expected: str, actual: str) -> None:
        super().__init__(filename, f"{filename} has sha256 {actual}, but {expected} was promised")
        self.expected = expected
        self.actual = actual


class WrongTarget(WheelError):
    """The wheel is sound, but the target environment cannot use it."""

    def __init__(self, filename: str, reason: str) -> None:
        super().__init__(filename, f"{filename} does not fit the target: {reason}")
        self.reason = reason


class NotClosed(BundleError):
    """The wheels are not exactly the requirement and what it depends on."""

    def __init__(self, issues: Sequence[str]) -> None:
        super().__init__(f"the set of wheels is not complete and exact: {_join(issues)}")
        self.issues = tuple(issues)


class NoVisualizations(BundleError):
    """A sound package, but without a single visualization spec."""

    def __init__(self, package: str) -> None:
        super().__init__(
            f"{package} holds no visualization: its wheel has no specs/NAME.yml inside the import package; "
            "ask for another package, or set requireSpecs to false to publish it nevertheless"
        )
        self.package = package


class InvalidVisualization(BundleError):
    """A spec, notebook or image of the package is wrong."""

    def __init__(self, issues: Sequence[str]) -> None:
        super().__init__(f"the package's visualizations are not valid: {_join(issues)}")
        self.issues = tuple(issues)


class StorageError(BundleError):
    """The object store failed or refused; ``path`` is the object, or the prefix, that was asked for."""

    def __init__(self, operation: str, path: str, reason: str) -> None:
        super().__init__(f"the store could not {operation} {path or 'its root'}: {reason}")
        self.operation = operation
        self.path = path
        self.reason = reason


class BrokenBundle(BundleError):
    """A published bundle is not what its own description says."""

    def __init__(self, path: str, issues: Sequence[str]) -> None:
        super().__init__(f"the published {path} is broken: {_join(issues)}")
        self.path = path
        self.issues = tuple(issues)


class NotPublished(BundleError):
    """The store has no bundle of that name and version; ``nothing_in`` is where it is when it has none at all."""

    def __init__(self, name: str, version: str | None = None, *, nothing_in: str | None = None) -> None:
        wanted = name if version is None else f"{name}=={version}"
        hint = "`vizfetch list` shows what is" if nothing_in is None else f"nothing at all is, in {nothing_in}"
        super().__init__(f"{wanted} is not published; {hint}")
        self.name = name
        self.version = version


class FolderTaken(BundleError):
    """Another pull writes to the same folder."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"another pull writes to {folder} just now; wait for its end, or choose another folder")
        self.folder = folder


class Fenced(BundleError):
    """The right to publish was lost in the middle; nothing that a reader sees was written after that."""

    def __init__(self) -> None:
        super().__init__("publishing stopped: another attempt owns this job now")


_SHOWN = 5
_LONGEST = 500
"""Characters of one issue: it may quote what it is about, and that may be a whole file."""


def raise_all(problems: Sequence[BundleError]) -> None:
    """Raise the most telling of the problems, with the others in its ``also``; nothing when there are none."""
    if not problems:
        return
    first, *others = sorted(problems, key=lambda problem: _FIRST.index(type(problem)))
    first.also = tuple(others)
    raise first


_FIRST: tuple[type[BundleError], ...] = (
    HashMismatch,
    BrokenWheel,
    WrongTarget,
    NotClosed,
    InvalidVisualization,
    NoVisualizations,
)
"""What explains the others comes first: a wheel with other bytes is broken for that reason."""


def _join(issues: Sequence[str]) -> str:
    """Return the first issues as one text: an archive may have a hundred thousand, a reader has less time."""
    more = len(issues) - _SHOWN
    shown = [each if len(each) <= _LONGEST else f"{each[:_LONGEST]}…" for each in issues[:_SHOWN]]
    return "; ".join([*shown, *([f"and {more} more"] if more > 0 else [])])
