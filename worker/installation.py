"""The proof that a bundle installs and its package can be imported, for those who want more than a check of files.

It runs the package's own code on the agent, in the task's venv; the check alone runs none of it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from zipfile import ZipFile

from bundles.lock import requirements
from bundles.models import Bundle
from jobs.errors import ErrorKind
from worker.environment import TaskDirectory
from worker.errors import FetchError
from worker.pip import DeadlineExceeded, Outcome, run, run_python

_IMPORT = "import importlib, sys\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
_DISK_FULL = "No space left on device"
_SHOWN_LINES = 3


def prove_installation(
    bundle: Bundle, task: TaskDirectory, memory: Path, *, timeout_seconds: float, check: Callable[[], None]
) -> None:
    """Install the bundle into the task's venv, as users do it without any index, and import its package.

    What was proved once is remembered in ``memory`` by the bundle's id, and not done again. ``check`` is called
    several times a second; whatever it raises is passed on. Raises FetchError.
    """
    proved = memory / bundle.id
    if proved.exists():
        return
    try:
        _install(bundle, task, timeout_seconds, check)
        _import(bundle, task, timeout_seconds, check)
    except DeadlineExceeded as error:
        raise FetchError(
            ErrorKind.DEADLINE,
            "The trial installation took longer than moderne.agent.visualization.fetchTimeout allows.",
        ) from error
    memory.mkdir(parents=True, exist_ok=True)
    proved.touch()


def _install(bundle: Bundle, task: TaskDirectory, timeout_seconds: float, check: Callable[[], None]) -> None:
    listed = task.root / "installation.txt"
    listed.write_bytes(requirements(bundle))
    arguments = [
        "install",
        *("--no-index", "--no-deps", "--require-hashes", "--only-binary", ":all:"),
        *("--find-links", str(task.wheels), "--requirement", str(listed)),
        *("--no-compile", "--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"),
    ]
    outcome = run(
        task.python, arguments, scratch=task.scratch, log=task.log, timeout_seconds=timeout_seconds, check=check
    )
    if outcome.exit_code != 0:
        raise _failure(bundle, "be installed", outcome)


def _import(bundle: Bundle, task: TaskDirectory, timeout_seconds: float, check: Callable[[], None]) -> None:
    arguments = ["-c", _IMPORT, *import_names(task.wheels / bundle.package.filename)]
    outcome = run_python(
        task.python, arguments, scratch=task.scratch, log=task.log, timeout_seconds=timeout_seconds, check=check
    )
    if outcome.exit_code != 0:
        raise _failure(bundle, "be imported", outcome)


def import_names(wheel: Path) -> list[str]:
    """Return the names to import so that a wheel's own code runs: its outermost packages and modules.

    A folder without ``__init__.py`` (a namespace package, PEP 420) runs nothing: what counts is inside. When there is
    nothing but data, the folder itself is named, so that its absence shows.
    """
    with ZipFile(wheel) as archive:
        paths = [_installed(name.split("/")) for name in archive.namelist()]
    # Whoever imports a __main__ runs a command.
    names = [path for path in paths if all(map(str.isidentifier, path[:-1])) and path[-1:] != ("__main__.py",)]
    packages = {path[:-1] for path in names if path[1:] and path[-1] == "__init__.py"}
    outermost = {each for each in packages if not any(each[:length] in packages for length in range(1, len(each)))}
    modules = {(path[0].removesuffix(".py"),) for path in names if len(path) == 1 and path[0].endswith(".py")}
    folders = {path[:1] for path in names if path[1:]}
    chosen = outermost | modules or _inner_modules(names) or folders
    return sorted(".".join(each) for each in chosen if all(part.isidentifier() for part in each))


def _installed(path: list[str]) -> tuple[str, ...]:
    """Return where a member of a wheel is installed, as far as it is importable there (PEP 427, ``.data``)."""
    in_data = path[0].endswith(".data") and path[1:2] in (["purelib"], ["platlib"])
    return tuple(path[2:] if in_data else path)


def _inner_modules(names: Iterable[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Return the modules in namespace packages."""
    return {(*path[:-1], path[-1].removesuffix(".py")) for path in names if path and path[-1].endswith(".py")}


def _failure(bundle: Bundle, what: str, outcome: Outcome) -> FetchError:
    if any(_DISK_FULL in line for line in outcome.lines):
        return FetchError(ErrorKind.DISK_FULL, "The disk of temporaryDirectory is full: free space there.")
    told = " ".join(line.removeprefix("ERROR: ") for line in outcome.lines[-_SHOWN_LINES:])
    return FetchError(
        ErrorKind.BROKEN_WHEEL,
        f"{bundle.name} {bundle.version} passed the check of its files but could not {what} on this agent: {told} "
        "(moderne.agent.visualization.verify=check leaves this trial out; it needs an agent whose glibc is not older "
        "than the target's.)",
    )
