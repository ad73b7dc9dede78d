"""The environment contract: what a machine must offer so that what is fetched on it fits the target.

pip evaluates markers (PEP 508) with the interpreter it runs in, so that one must have the target's minor version and
run on the target's operating system and architecture. Wheels are chosen by tags (PEP 600) for the glibc of the
settings, so the glibc of this machine may be another one; it must be glibc, though, since markers cannot tell musl.
"""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from config.settings import Settings, Target
from config.sizes import format_size
from worker.directories import CONTRACT, locked_directory
from worker.findings import Finding, holds, wrong

SHELL = "/bin/sh"
_PROBE_SECONDS = 30.0
"""As long as an index may be silent by default. A machine where much else starts needed more than 10 at times."""
_TEMPORARY = "moderne.agent.visualization.temporaryDirectory"
_CACHE = "moderne.agent.visualization.cache.directory"
_TARGET = "moderne.agent.visualization.target"
# The settings' secrets stay here: whoever may look at a probe sees its environment.
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR")

_VERSION = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Look at every point of the contract and return what was found, what does not hold included.

    Connects to nothing, and leaves nothing behind but the cache directory. Takes well below a second where nothing is
    wrong; a shell or a Python that hangs is waited for 30 seconds.
    """
    with ThreadPoolExecutor(max_workers=4, thread_name_prefix="contract") as pool:
        shell = [pool.submit(probe, settings) for probe in (_python3, _venv, _pip)]
        found = [
            _operating_system(),
            _c_library(settings.target),
            _architecture(settings.target),
            _interpreter(settings.target),
            *_temporary_directory(settings),
            _cache_directory(settings.cache.directory),
        ]
        return (*found[:4], *_in_shell(shell, broken=not found[4].holds), *found[4:])


def _operating_system() -> Finding:
    subject, name = "operating system", platform.system()
    if name == "Linux":
        return holds(subject, f"Linux {platform.release()}")
    return wrong(subject, f"this is {name or 'an unknown system'}", "Run the agent on Linux, as the target does.")


def _c_library(target: Target) -> Finding:
    subject = "C library"
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION")  # only glibc knows this name
    except (OSError, ValueError):
        library = None
    if library is None:
        advice = "Run the agent on a distribution with glibc, such as Debian or Ubuntu; Alpine has another one."
        return wrong(subject, "this machine's C library is not glibc", advice)
    return holds(subject, f"{library}; wheels are chosen for glibc {target.glibc}, which need not be the same")


def _architecture(target: Target) -> Finding:
    subject, machine = "architecture", platform.machine()
    if machine != target.architecture:
        return wrong(
            subject,
            f"this machine is {machine or 'unknown'}, but {_TARGET}.architecture is {target.architecture}",
            "Run the agent on a machine of the target's architecture, or change the target.",
        )
    if sys.maxsize < 2**32:
        return wrong(subject, f"this Python has 32 bits on {machine}", "Run the agent with a Python of 64 bits.")
    return holds(subject, machine)


def _interpreter(target: Target) -> Finding:
    subject = "interpreter"
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    implementation = platform.python_implementation()
    if running != target.python:
        return wrong(
            subject,
            f"Python {running} runs here, but {_TARGET}.python is {target.python}",
            f"Run this agent with Python {target.python}, or change the target.",
        )
    if implementation != "CPython":
        return wrong(subject, f"{implementation} runs here", "Run this agent with CPython, as the target does.")
    return holds(subject, f"CPython {platform.python_version()} at {sys.executable}")


# ---- what the shell finds


@dataclass(frozen=True)
class _Ran:
    """How a command in the shell ended."""

    exit_code: int
    output: str
    trouble: str
    hung: bool = False

    @property
    def last_line(self) -> str:
        return _last_line(self.output + self.trouble).rstrip(".") or f"exit code {self.exit_code}"


def _last_line(text: str) -> str:
    """Return the last line that says something, in what can be shown: wrappers say what they like before it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"[^\x20-\x7e]+", "?", lines[-1])[:_SHOWN] if lines else ""


_SHOWN = 200


class _NoShell(Exception):
    """There is no shell that could be asked anything."""


def _shell(command: str, *arguments: str, directory: Path = Path("/")) -> _Ran:
    """Run a command as users would type it: ``$1`` and so on are the ``arguments``. Raises _NoShell."""
    try:
        process = subprocess.Popen(
            [SHELL, "-c", command, "sh", *arguments],
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise _NoShell(error.strerror or str(error)) from error
    with process:
        try:
            output, trouble = process.communicate(timeout=_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            # The shell's children too: they hold the pipes open.
            os.killpg(process.pid, signal.SIGKILL)
            return _Ran(-1, "", f"it did not end within {_PROBE_SECONDS:.0f} s", hung=True)
    return _Ran(process.returncode, output.decode(errors="replace"), trouble.decode(errors="replace"))


def _in_shell(probes: list[Future[Finding]], *, broken: bool) -> Iterator[Finding]:
    """Tell what the probes found. Without a shell that is the one thing to tell.

    ``broken`` is the temporary directory, so that nothing else may be said of what fails in it.
    """
    try:
        python, venv, pip = (probe.result() for probe in probes)
    except _NoShell as error:
        yield wrong("shell", f"{SHELL} cannot be run ({error})", f"Install a POSIX shell as {SHELL}.")
        return
    yield holds("shell", SHELL)
    yield python
    if python.step not in {_MISSING, _HANGS}:  # then the others say the same again
        yield from (venv if venv.holds or not broken else wrong(_VENV, "was not tried", _TEMPORARY_FIRST), pip)


_MISSING, _HANGS = "missing", "answer"
_SEE_WHY = "See why it hangs here: a machine with too much to do, or a disk that hangs."
_VENV, _TEMPORARY_FIRST = "python3 -m venv", "Mend the temporary directory first."


def _python3(settings: Settings) -> Finding:
    subject, wanted = "python3 in the shell", settings.target.python
    ran = _shell('exec python3 -c "$1"', _VERSION)
    install = f"Install Python {wanted} and let PATH find it as python3."
    if ran.exit_code in {126, 127}:  # not executable, not found (POSIX, Shell Command Language, 2.8.2)
        return wrong(subject, f"{SHELL} finds no python3 that it can run", install, step=_MISSING)
    if ran.hung:
        advice = f"See why '{SHELL} -c \"python3 --version\"' hangs here: a wrapper in PATH, or a disk that hangs."
        return wrong(subject, f"python3 hangs ({ran.last_line})", advice, step=_HANGS)
    version, _, path = _last_line(ran.output).partition(" ")
    if ran.exit_code != 0:
        return wrong(subject, f"python3 does not run ({ran.last_line})", install)
    if version != wanted:
        found = f"python3 is Python {version} ({path}), but {_TARGET}.python is {wanted}"
        return wrong(subject, found, f"Let PATH find Python {wanted} first, or change the target.")
    return holds(subject, f"Python {version} at {path}")


def _venv(settings: Settings) -> Finding:
    """Make a venv without pip, and see that it could have had one: bootstrapping it takes seconds."""
    subject = _VENV
    try:
        with locked_directory(settings.temporary_directory, CONTRACT) as place:
            command = 'python3 -m venv --without-pip "$1" && exec python3 -c "import ensurepip"'
            ran = _shell(command, f"{place}/venv", directory=place)
    except OSError:
        return wrong(subject, "was not tried", _TEMPORARY_FIRST)
    if ran.exit_code == 0:
        return holds(subject, "makes virtual environments")
    if ran.hung:
        return wrong(subject, f"hangs ({ran.last_line})", _SEE_WHY, step=_HANGS)
    package = f"the package python{settings.target.python}-venv on Debian and Ubuntu"
    return wrong(subject, f"fails ({ran.last_line})", f"Install what is missing: {package}.")


def _pip(settings: Settings) -> Finding:
    subject = "python3 -m pip"
    ran = _shell("exec python3 -m pip --version")
    if ran.exit_code == 0:
        return holds(subject, " ".join(ran.output.split()[:2]))
    if ran.hung:
        return wrong(subject, f"hangs ({ran.last_line})", _SEE_WHY, step=_HANGS)
    package = "the package python3-pip on Debian and Ubuntu, or python3 -m ensurepip"
    return wrong(subject, f"fails ({ran.last_line})", f"Install pip for Python {settings.target.python}: {package}.")


# ---- directories


def _temporary_directory(settings: Settings) -> Iterator[Finding]:
    directory, subject = settings.temporary_directory, "temporary directory"
    try:
        with locked_directory(directory, CONTRACT) as place:
            program = place / "program"
            program.write_text(f"#!{SHELL}\nexit 0\n")
            program.chmod(0o700)
            executable = _runs(program)
            free_bytes = shutil.disk_usage(place).free
    except OSError as error:
        advice = f"Make it writable for this user, or set {_TEMPORARY} to a directory that is."
        yield wrong(subject, f"{directory} cannot be written ({error.strerror})", advice)
        return
    yield holds(subject, f"{directory} is writable")
    yield _executable(directory, executable)
    yield _free_space(directory, free_bytes, settings.min_free_space_bytes)


def _runs(program: Path) -> bool:
    """Tell whether a program can be started. What it needs to run is another matter."""
    try:
        subprocess.run([program], env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False)
    except PermissionError:
        return False
    except (OSError, subprocess.TimeoutExpired):
        return True  # the shell is missing or hangs, which another point tells
    return True


def _executable(directory: Path, executable: bool) -> Finding:  # noqa: FBT001 - private, named at its call
    subject = "programs"
    if executable:
        return holds(subject, "programs can be run there")
    advice = f"Mount it without noexec, or set {_TEMPORARY} to a directory where programs can be run."
    return wrong(subject, f"programs in {directory} cannot be run (mounted with noexec?)", advice)


def _free_space(directory: Path, free_bytes: int, needed_bytes: int) -> Finding:
    subject, needed = "free space", format_size(needed_bytes)
    if free_bytes >= needed_bytes:
        return holds(subject, f"{_rounded(free_bytes)} free, at least {needed} needed")
    return wrong(
        subject,
        f"{directory} has {_rounded(free_bytes)} free, less than minFreeSpace ({needed})",
        f"Free some space, name another directory in {_TEMPORARY}, or lower moderne.agent.visualization.minFreeSpace.",
    )


def _rounded(size_bytes: int) -> str:
    unit, name = next(((2**power, name) for power, name in ((40, "TiB"), (30, "GiB")) if size_bytes >= 2**power), _MIB)
    return f"{size_bytes / unit:.1f} {name}"


_MIB = (2**20, "MiB")


_A_BLOCK = 4096


def _cache_directory(directory: Path) -> Finding:
    subject = "cache directory"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        owner = directory.stat().st_uid
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"\0" * _A_BLOCK)  # a full disk has room for names
    except OSError as error:
        advice = f"Make it writable for this user, or set {_CACHE} to a directory that is."
        return wrong(subject, f"{directory} cannot be written ({error.strerror})", advice)
    if owner not in {0, os.getuid()}:
        # Programs are run from there, such as pip.
        advice = f"Set {_CACHE} to a directory of this user's own."
        return wrong(subject, f"{directory} belongs to another user (number {owner})", advice)
    return holds(subject, f"{directory} is writable")
