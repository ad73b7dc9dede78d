"""The server runs pip as ``worker.pip`` does, and leaves no process behind, whoever of the chain is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from config.settings import Target
from tests.support.index_server import IndexServer
from tests.support.wheels import build_wheel
from tests.worker.test_pip import gone, nothing, pinned
from worker.environment import TaskDirectory, task_directory
from worker.pip import DeadlineExceeded, Outcome, PinnedPip, choose_arguments, run
from worker.pip_server import PipServer

__all__ = ["pinned"]


@pytest.fixture
def server(pinned: PinnedPip) -> Iterator[PipServer]:
    with PipServer(pinned) as server:
        yield server


@pytest.fixture
def silence() -> Iterator[str]:
    """An index that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/simple/"


def options(task: TaskDirectory, **more: Any) -> dict[str, Any]:
    return {"scratch": task.scratch, "log": task.log, "timeout_seconds": 60, "check": nothing} | more


def asked(task: TaskDirectory, index: str, requirement: str) -> list[str]:
    task.requirements.write_text(f"--index-url {index}\n{requirement}\n")
    return choose_arguments(Target(), task.requirements, task.report, silence_seconds=60)


def only_child(pid: int) -> int | None:
    with suppress(FileNotFoundError):
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(found[0]) if found else None
    return None


def pip_of(server: PipServer) -> int:
    """Return the process that runs pip, once it has its session."""
    for _ in range(400):
        pid = None if server.pid is None else only_child(server.pid)
        with suppress(ProcessLookupError):  # what the server asks at its start ends soon
            if pid is not None and os.getsid(pid) == pid:
                return pid
        time.sleep(0.05)
    raise AssertionError("pip was not started")


def in_the_middle(server: PipServer, act: Callable[[int], None]) -> threading.Thread:
    """Do something to the pip that runs, from a thread: the server must be started by the one that stays."""
    thread = threading.Thread(target=lambda: act(pip_of(server)))
    thread.start()
    return thread


def test_it_chooses_what_a_subprocess_chooses(tmp_path: Path, pinned: PinnedPip, server: PipServer) -> None:
    with IndexServer() as index:
        for wheel in [build_wheel(tmp_path, "acme", requires=["acme-base"]), build_wheel(tmp_path, "acme-base")]:
            index.add(wheel.name, wheel)
        found = []
        for way in (run, server.run, server.run):
            with task_directory(tmp_path, pinned) as task:
                outcome = way(task.python, asked(task, index.url, "acme"), **options(task))
                lines = [line.replace(str(task.root), "") for line in outcome.lines if "Downloading" not in line]
                names = [each["metadata"]["name"] for each in json.loads(task.report.read_text())["install"]]
                found.append((outcome.exit_code, lines, sorted(names)))
    assert found[0][2] == ["acme", "acme-base"]
    assert found[0] == found[1] == found[2]


def test_one_process_serves_one_download_after_the_other(tmp_path: Path, pinned: PinnedPip, server: PipServer) -> None:
    pids = set()
    for _ in range(3):
        with task_directory(tmp_path, pinned) as task:
            outcome = server.run(task.python, ["--version"], **options(task))
            assert outcome.exit_code == 0
            assert f"pip {pinned.version} from {pinned.directory}/pip" in outcome.lines[-1]
            pids.add(server.pid)
    assert len(pids) == 1


def test_it_may_be_started_before_the_first_download(tmp_path: Path, pinned: PinnedPip, server: PipServer) -> None:
    assert server.pid is None
    server.start()
    server.start()
    started = server.pid
    assert started is not None
    with task_directory(tmp_path, pinned) as task:
        assert server.run(task.python, ["--version"], **options(task)).exit_code == 0
    assert server.pid == started


def test_what_pip_asks_the_system_is_asked_once_and_leaves_nothing(
    tmp_path: Path, pinned: PinnedPip, server: PipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip names the distribution, and Rust's version, to each index, for which it starts other programs."""
    told, programs = tmp_path / "told", tmp_path / "bin"
    programs.mkdir()
    for name in ("lsb_release", "rustc"):
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$HOME" >> {told}\nmkdir -p "$HOME/.{name}"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    with IndexServer() as index:
        wheel = build_wheel(tmp_path, "acme")
        index.add(wheel.name, wheel)
        for _ in range(3):
            with task_directory(tmp_path, pinned) as task:
                assert server.run(task.python, asked(task, index.url, "acme"), **options(task)).exit_code == 0
    asked_programs = dict(line.split() for line in told.read_text().splitlines())
    assert sorted(asked_programs) == ["lsb_release", "rustc"]
    assert len(told.read_text().splitlines()) == 2
    assert not [name for name, home in asked_programs.items() if Path(home, f".{name}").exists()]


def test_exit_codes_and_errors_are_pip_s_own(tmp_path: Path, pinned: PinnedPip, server: PipServer) -> None:
    for wrong in (["no-such-command"], ["download", "--no-such-option"], ["download", "--requirement", "/nowhere"]):
        with task_directory(tmp_path, pinned) as task:
            plain = run(task.python, wrong, **options(task))
        with task_directory(tmp_path, pinned) as task:
            forked = server.run(task.python, wrong, **options(task))
        # The usage above it names the interpreter, which is another one in each task.
        assert (forked.exit_code, forked.lines[-1]) == (plain.exit_code, plain.lines[-1])
        assert plain.exit_code != 0


def test_it_is_pip_in_the_task_s_own_surroundings(
    tmp_path: Path, pinned: PinnedPip, server: PipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("PIP_INDEX_URL", "http://planted/")
    with task_directory(tmp_path, pinned) as task:
        outcome = server.run(task.python, ["debug"], **options(task))
        assert f"sys.executable: {task.python}" in outcome.lines
        assert server.pid
        assert "planted" not in Path(f"/proc/{server.pid}/environ").read_text() + "\n".join(outcome.lines)
        config = server.run(task.python, ["config", "debug"], **options(task))
        assert "  PIP_CONFIG_FILE='/dev/null'" in config.lines
        assert f"  {task.root}/venv/pip.conf, exists: False" in config.lines


def test_nothing_but_pip_can_be_imported_there(tmp_path: Path, pinned: PinnedPip, server: PipServer) -> None:
    with task_directory(tmp_path, pinned) as task:
        server.run(task.python, ["--version"], **options(task))
    maps = Path(f"/proc/{server.pid}/maps").read_text()
    assert "site-packages" not in maps.replace(str(pinned.directory), "")


def test_a_deadline_ends_pip_and_the_next_one_is_served(
    tmp_path: Path, pinned: PinnedPip, server: PipServer, silence: str
) -> None:
    pids: list[int] = []
    with task_directory(tmp_path, pinned) as task:
        watcher = in_the_middle(server, pids.append)
        with pytest.raises(DeadlineExceeded):
            server.run(task.python, asked(task, silence, "acme"), **options(task, timeout_seconds=5))
        watcher.join()
        assert gone(pids[0])
        assert server.run(task.python, ["--version"], **options(task)).exit_code == 0


def test_a_deadline_counts_while_the_server_starts(
    tmp_path: Path, pinned: PinnedPip, server: PipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it has asked meanwhile, which hangs, ends with it."""
    told, program = tmp_path / "told", tmp_path / "bin" / "lsb_release"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho $$ > {told}\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    clock = SimpleNamespace(monotonic=lambda: 1e6 if told.exists() else 0.0)  # it hangs until the time is over
    monkeypatch.setattr("worker.pip_server.time", clock)
    with task_directory(tmp_path, pinned) as task, pytest.raises(DeadlineExceeded):
        server.run(task.python, ["--version"], **options(task))
    assert gone(int(told.read_text()))


def test_whatever_the_check_raises_ends_pip(tmp_path: Path, pinned: PinnedPip, server: PipServer, silence: str) -> None:
    class Enough(Exception):
        pass

    pids: list[int] = []

    def check() -> None:
        if pids:
            raise Enough

    with task_directory(tmp_path, pinned) as task:
        in_the_middle(server, pids.append)
        with pytest.raises(Enough):
            server.run(task.python, asked(task, silence, "acme"), **options(task, check=check))
        assert gone(pids[0])


def test_a_killed_server_takes_pip_along_and_is_replaced(
    tmp_path: Path, pinned: PinnedPip, server: PipServer, silence: str
) -> None:
    pids: list[int] = []

    def kill(pid: int) -> None:
        pids.append(pid)
        assert server.pid
        os.kill(server.pid, signal.SIGKILL)

    with task_directory(tmp_path, pinned) as task:
        in_the_middle(server, kill)
        outcome = server.run(task.python, asked(task, silence, "acme"), **options(task))
        assert outcome == Outcome(-signal.SIGKILL, outcome.lines)
        assert gone(pids[0])
        assert server.run(task.python, ["--version"], **options(task)).exit_code == 0
        assert server.pid
        os.kill(server.pid, signal.SIGKILL)  # also between two downloads
        time.sleep(0.2)
        assert server.run(task.python, ["--version"], **options(task)).exit_code == 0


def test_a_killed_pip_is_told_as_such(tmp_path: Path, pinned: PinnedPip, server: PipServer, silence: str) -> None:
    with task_directory(tmp_path, pinned) as task:
        in_the_middle(server, lambda pid: os.kill(pid, signal.SIGKILL))
        outcome = server.run(task.python, asked(task, silence, "acme"), **options(task))
        assert outcome.exit_code == -signal.SIGKILL
        assert server.run(task.python, ["--version"], **options(task)).exit_code == 0


def test_a_frozen_server_is_given_up(
    tmp_path: Path, pinned: PinnedPip, server: PipServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.pip_server._ANSWER_SECONDS", 0.5)
    with task_directory(tmp_path, pinned) as task:
        assert server.run(task.python, ["--version"], **options(task)).exit_code == 0
        frozen = server.pid
        assert frozen
        os.kill(frozen, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            server.run(task.python, ["--version"], **options(task, check=_after(1.0)))
        assert gone(frozen)
        assert server.run(task.python, ["--version"], **options(task)).exit_code == 0


def _after(seconds: float) -> Callable[[], None]:
    end = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > end:
            raise TimeoutError

    return check


@pytest.mark.parametrize("times", [1, 5])
def test_nothing_outlives_a_worker_that_is_killed(tmp_path: Path, pinned: PinnedPip, silence: str, times: int) -> None:
    worker = (
        "import pathlib\n"
        "from tests.worker.test_pip_server import asked, options\n"
        "from worker.environment import task_directory\n"
        "from worker.pip import PinnedPip\n"
        "from worker.pip_server import PipServer\n"
        f"pip = PinnedPip(pathlib.Path({str(pinned.directory)!r}), {pinned.version!r})\n"
        "server = PipServer(pip)\n"
        f"with task_directory(pathlib.Path({str(tmp_path)!r}), pip) as task:\n"
        "    server.run(task.python, ['--version'], **options(task))\n"
        "    print(server.pid, flush=True)\n"
        f"    server.run(task.python, asked(task, {silence!r}, 'acme'), **options(task))\n"
    )
    for number in range(times):
        with subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            server = int(process.stdout.readline())
            pip = None
            while pip is None:
                pip = only_child(server)
            time.sleep(0.1 * number)  # at any moment of its life
            process.send_signal(signal.SIGKILL)
        assert gone(server)
        assert gone(pip)
