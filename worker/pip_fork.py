"""A process that has pip imported, and forks for each download. Run by ``worker.pip_server``; imports nothing of ours.

    python -I -S pip_fork.py DIRECTORY PARENT

DIRECTORY holds pip and nothing else; with ``-S`` no other package can be imported. PARENT is the process that it must
not outlive. A line of JSON on standard input is a job; the answer is the number of the process that runs it, which has
a session of its own. The line ``end`` kills what is left of that session and is answered with pip's exit code. Until
then the number belongs to nobody else, since the process is not waited for.
"""

import ctypes
import gc
import importlib
import json
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

END = "end"
_PR_SET_PDEATHSIG = 1
_SOON_NEEDED = (
    "pip._internal.cli.main",
    "pip._internal.cli.autocompletion",
    "pip._internal.cli.main_parser",
    "pip._internal.commands.install",
    "pip._internal.metadata.importlib",
    "pip._internal.resolution.resolvelib.resolver",
    "pip._internal.utils.wheel",
    "pip._vendor.distro",
    "pip._vendor.truststore",
    "argparse",
    "encodings.ascii",
    "encodings.cp437",
    "encodings.idna",
    "netrc",
)
"""What a download would import. One that another pip lacks does not matter: its jobs import what they need."""
_SOON_ASKED = (
    ("pip._internal.network.session", "user_agent"),
    ("pip._internal.cli.index_command", "_create_truststore_ssl_context"),
)
"""What pip works out once in a process and remembers: it asks the system who it is, which starts other programs, and
reads the authorities, which nobody needs who asks the gateway. Forks have the answers."""


def main() -> None:
    """Serve until standard input ends."""
    directory, parent = sys.argv[1:]
    _die_with(int(parent))
    jobs = _take_input()
    sys.path.insert(0, directory)
    for name in _SOON_NEEDED:
        with suppress(ImportError):
            importlib.import_module(name)
    for name, function in _SOON_ASKED:
        with suppress(Exception):
            getattr(importlib.import_module(name), function)()
    # https://docs.python.org/3/library/gc.html#gc.freeze: what is there stays shared by all forks.
    gc.collect()
    gc.freeze()
    # What pip makes of its answers is needed to its end; by default it is looked through again for every 700 of them.
    gc.set_threshold(50_000)
    pid = 0
    for line in jobs:
        if line.strip() == END:
            _tell(_end(pid))
        else:
            pid = _start(json.loads(line))
            _tell(pid)


def _take_input() -> TextIO:
    """Keep standard input for this process: what pip starts gets nothing to read."""
    jobs = os.fdopen(os.dup(0), encoding="utf-8")  # which no other program inherits (PEP 446)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return jobs


def _start(job: dict[str, Any]) -> int:
    ours = os.getpid()
    pid = os.fork()
    if pid == 0:
        _run(job, ours)
    return pid


def _run(job: dict[str, Any], parent: int) -> NoReturn:
    """Be pip, and nothing else any more."""
    code = 1
    try:
        os.setsid()
        _die_with(parent)
        _move_in(job)
        code = _pip(job["arguments"])
    except BaseException:  # noqa: BLE001 - as the interpreter does with what nobody catches
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _move_in(job: dict[str, Any]) -> None:
    """Take the place of an interpreter that was started in the task's venv with this output and environment."""
    log = os.open(job["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["scratch"])
    sys.prefix = sys.exec_prefix = job["venv"]
    sys.executable = job["python"]


def _pip(arguments: list[str]) -> int:
    from pip._internal.cli.main import main as pip  # noqa: PLC0415 - it is not there before DIRECTORY is on the path

    sys.argv = [str(Path(sys.path[0], "pip", "__main__.py")), *arguments]
    try:
        return int(pip(arguments))
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)


def _end(pid: int) -> int:
    """Kill the whole session and return how its first process had ended, as ``subprocess`` tells it."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):  # it may not have had its session yet
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that made it ends (prctl(2))."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the question was asked
        os._exit(1)


def _tell(number: int) -> None:
    os.write(1, b"%d\n" % number)


if __name__ == "__main__":
    main()
