"""The proof that a bundle installs and its package can be imported, for those who want more than a check of files.

It runs the package's own code on the agent, in the task's venv; the check alone runs none of it.
"""

from collections.abc import Callable
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
    """Return the names of a wheel's packages and modules that stand at its top."""
    with ZipFile(wheel) as archive:
        parts = [name.split("/") for name in archive.namelist()]
    packages = {path[0] for path in parts if path[1:] == ["__init__.py"]}
    modules = {path[0].removesuffix(".py") for path in parts if len(path) == 1 and path[0].endswith(".py")}
    return sorted(name for name in packages | modules if name.isidentifier())


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
