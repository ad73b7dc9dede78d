"""The one owner of the pip subprocess."""

import compileall
import json
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import IO, Self
from urllib.parse import unquote

from bundles.target import platforms
from config.settings import Target
from worker.directories import locked_directory, sweep
from worker.gateway.collection import Choice

LOOK_EVERY_SECONDS = 0.25
FRESH = ".pip-"
"""What the pinned pip is made in."""
_KEPT_LINES = 200
_MAX_LINE_CHARACTERS = 64 * 1024
_ASIDE = re.compile(r"\s*(?:Discarding |Processing /|Collecting \S+ ?@ |WARNING: Ignoring version )")
_KEPT_ASIDES = 20
"""Of each kind."""

# What pip needs of this process's environment. Everything else stays out: PIP_*, PYTHON* and proxy variables would
# change what it does, and the rest may hold secrets.
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")


class DeadlineExceeded(Exception):
    """pip ran longer than ``fetchTimeout`` allows."""


@dataclass(frozen=True)
class PinnedPip:
    """A directory that holds pip and nothing else, compiled ahead of time."""

    directory: Path
    version: str


@dataclass(frozen=True)
class Outcome:
    """How pip ended: its exit code, and the last lines of its output."""

    exit_code: int
    lines: tuple[str, ...]
    asides: tuple[str, ...] = ()
    """The first lines, wherever they stand, in which it says that it left something out, or went elsewhere for it."""

    @classmethod
    def of(cls, exit_code: int, log: Path) -> Self:
        """Read what was printed into ``log``."""
        return cls(exit_code, tail(log), tuple(_asides(log)))


def _asides(log: Path) -> Iterator[str]:
    kept: Counter[str] = Counter()
    for line in _printed(log):
        if found := _ASIDE.match(line):
            kind = found[0].split()[0]
            kept[kind] += 1
            if kept[kind] <= _KEPT_ASIDES:
                yield line


def pin(cache: Path) -> PinnedPip:
    """Return this installation's pip in a directory of its own under ``cache``, made when it is not there yet.

    Safe to call from several processes at once: the directory appears whole, by a rename. What the installation has
    compiled is copied too, and stays good since the sources keep their times (PEP 552); only the rest is compiled.
    """
    found = distribution("pip")
    place = cache / f"pip-{found.version}"
    sweep(cache, [FRESH])
    if not place.is_dir():
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked_directory(cache, FRESH) as fresh:
            made = fresh / place.name
            made.mkdir(mode=0o700)
            source = Path(str(found.locate_file("pip")))
            shutil.copytree(source, made / "pip", copy_function=_copy, ignore=_unreadable)
            compileall.compile_dir(made, quiet=2, invalidation_mode=PycInvalidationMode.TIMESTAMP)
            try:
                made.rename(place)
            except OSError:
                if not place.is_dir():
                    raise
    return PinnedPip(place, found.version)


def _unreadable(folder: str, names: list[str]) -> set[str]:
    """Return what is compiled and not ours to read, as where root compiled it alone: it is compiled anew."""
    place = Path(folder)
    return {name for name in names if name == "__pycache__" and not os.access(place / name, os.R_OK | os.X_OK)}


def _copy(source: str, target: str) -> None:
    try:
        shutil.copy2(source, target)
    except OSError:
        # Compiled files come and go while others import pip, and may be root's alone.
        if Path(source).parent.name != "__pycache__":
            raise
        Path(target).unlink(missing_ok=True)


def choose_arguments(target: Target, requirements: Path, report: Path, *, silence_seconds: float) -> list[str]:
    """Return pip's arguments for choosing the wheels of ``requirements`` that ``target`` can load.

    pip writes into ``report`` which files it would install and downloads nothing but metadata. It chooses as
    ``pip download`` does, which goes the same way up to there, and looks at nothing that is installed.

    ``--retries 0``: the gateway retries, and knows why; it may be silent for ``silence_seconds`` while it does. The
    requirement and the address of the index stand in the file, since arguments can be read by everybody on the machine.
    """
    return [
        *("install", "--dry-run", "--ignore-installed", "--report", str(report)),
        *("--requirement", str(requirements)),
        *only_wheels(target),
        *_always(silence_seconds),
    ]


def only_wheels(target: Target) -> list[str]:
    """Return the arguments that have pip look at wheels for ``target`` alone.

    A single ``--platform`` matches only itself, so every older platform is named too.
    """
    python = target.python.replace(".", "")
    return [
        *("--only-binary", ":all:", "--implementation", "cp", "--abi", f"cp{python}"),
        *("--python-version", target.python),
        *(argument for platform in platforms(target) for argument in ("--platform", platform)),
    ]


def chosen(report: Path, index_url: str) -> list[Choice]:
    """Read from pip's installation report which files of the index it chose.

    Anything else that it may name is left out. It then is missing from the bundle, which the checks notice.
    https://pip.pypa.io/en/stable/reference/installation-report/
    """
    files = f"{index_url.removesuffix('simple/')}files/"
    installed = json.loads(report.read_bytes())["install"]
    urls = [each["download_info"]["url"] for each in installed]
    parts = [url.removeprefix(files).split("/") for url in urls if url.startswith(files)]
    return [Choice(project=project, filename=unquote(filename)) for project, filename in parts]


def build_arguments(requirements: Path, destination: Path, *, silence_seconds: float) -> list[str]:
    """Return pip's arguments for the wheels of ``requirements``, built where there is nothing but source.

    pip can build for its own environment only, so it is not told of the target: the index shows it nothing else than
    what the target can load. Wheels are preferred, also older ones, since a build runs what strangers wrote.

    What builds need is fetched within the same process. By default pip starts another one for that, with the address of
    the index, which holds the task's token, among its arguments.
    """
    return [
        "wheel",
        *("--requirement", str(requirements), "--wheel-dir", str(destination)),
        *("--prefer-binary", "--use-feature", "inprocess-build-deps"),
        *_always(silence_seconds),
    ]


def _always(silence_seconds: float) -> tuple[str, ...]:
    return (
        *("--no-input", "--no-cache-dir", "--disable-pip-version-check", "--progress-bar", "off"),
        *("--retries", "0", "--timeout", str(int(silence_seconds))),
    )


def run(
    python: Path,
    arguments: Sequence[str],
    *,
    scratch: Path,
    log: Path,
    timeout_seconds: float,
    check: Callable[[], None],
) -> Outcome:
    """Run pip with ``python`` until it ends, and return how it did; like ``run_python`` otherwise."""
    return run_python(
        python,
        ["-m", "pip", *arguments],
        scratch=scratch,
        log=log,
        timeout_seconds=timeout_seconds,
        check=check,
    )


def run_python(
    python: Path,
    arguments: Sequence[str],
    *,
    scratch: Path,
    log: Path,
    timeout_seconds: float,
    check: Callable[[], None],
) -> Outcome:
    """Run ``python`` until it ends, and return how it did.

    It runs in a session of its own, with ``scratch`` for its home and temporary files and ``log`` for its output.
    ``check`` is called several times a second; whatever it raises ends the process and is passed on. Whichever way
    this function is left, the whole process group is gone.

    Raises ``DeadlineExceeded`` after ``timeout_seconds``.
    """
    with log.open("wb") as output:
        process = _start(python, arguments, scratch, output)
        try:
            wait_for(process.pid, time.monotonic() + timeout_seconds, check)
        finally:
            # Before the wait below: until then the number cannot belong to another process group.
            _kill_group(process.pid)
            exit_code = process.wait()
    return Outcome.of(exit_code, log)


def _start(python: Path, arguments: Sequence[str], scratch: Path, output: IO[bytes]) -> "subprocess.Popen[bytes]":
    # -I: neither the working directory nor the user's own packages are importable.
    return subprocess.Popen(
        [str(python), "-I", *arguments],
        cwd=scratch,
        env=environment(os.environ, scratch),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def environment(ours: Mapping[str, str], scratch: Path) -> dict[str, str]:
    """Return the environment of a pip whose home and temporary directory is ``scratch``; ``ours`` is this process's."""
    passed_on = {name: ours[name] for name in _PASSED_ON if name in ours}
    place = str(scratch)
    return passed_on | {
        "HOME": place,
        "TMPDIR": place,
        "PIP_CONFIG_FILE": os.devnull,
        # A package may name a URL or a repository instead of another package (PEP 508). Nothing but this machine's own
        # address, where the gateway is, can be reached: port 9 discards, and git has no protocol left to speak.
        **dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9"),
        "no_proxy": "127.0.0.1",
        "GIT_ALLOW_PROTOCOL": "none",
        # https://reproducible-builds.org/specs/source-date-epoch/: the same source gives the same wheel, and so the
        # same bundle. The first day that a zip archive can tell.
        "SOURCE_DATE_EPOCH": "315532800",
    }


def wait_for(pid: int, deadline: float, check: Callable[[], None]) -> None:
    """Wait until a process ends, and call ``check`` several times a second.

    Raises what that raises, ``DeadlineExceeded`` after ``deadline`` on the monotonic clock, and ProcessLookupError when
    there is no such process.
    """
    ended = os.pidfd_open(pid)
    try:
        while not select.select([ended], [], [], LOOK_EVERY_SECONDS)[0]:
            check()
            if time.monotonic() > deadline:
                raise DeadlineExceeded
    finally:
        os.close(ended)


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def tail(log: Path) -> tuple[str, ...]:
    """Return the last lines of what pip printed."""
    return tuple(deque(_printed(log), _KEPT_LINES))


def _printed(log: Path) -> Iterator[str]:
    """Yield the lines; a build may print any number of them, of any length."""
    with log.open(encoding="utf-8", errors="replace") as file:
        while line := file.readline(_MAX_LINE_CHARACTERS):
            yield line.rstrip("\n")
