import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.settings import Target
from worker.environment import TaskDirectory, task_directory
from worker.pip import DeadlineExceeded, Outcome, PinnedPip, choose_arguments, pin, run


@pytest.fixture(scope="session")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> PinnedPip:
    return pin(tmp_path_factory.mktemp("cache"))


def nothing() -> None:
    """A check that never ends pip."""


def python_code(task: TaskDirectory, code: str) -> Path:
    """Replace the task's pip by ``code``: what is tested here is how a subprocess is owned, whatever it does."""
    package = task.root / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "pip"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(code)
    return task.python


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    for _ in range(100):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def test_the_pinned_directory_holds_pip_alone_and_compiled(pinned: PinnedPip) -> None:
    assert [path.name for path in pinned.directory.iterdir()] == ["pip"]
    assert list(pinned.directory.glob("pip/__pycache__/__main__.*.pyc"))


def test_pinning_twice_gives_the_same_place(tmp_path: Path) -> None:
    assert pin(tmp_path) == pin(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_what_was_left_by_a_worker_that_was_killed_while_it_pinned_is_swept(tmp_path: Path) -> None:
    maker = (
        "import os, pathlib, signal, worker.pip\n"
        "worker.pip.compileall.compile_dir = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"worker.pip.pin(pathlib.Path({str(tmp_path)!r}))\n"
    )
    killed = subprocess.run([sys.executable, "-c", maker], check=False)
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".pip-")
    place = pin(tmp_path).directory
    assert list(tmp_path.iterdir()) == [place]
    assert place.stat().st_mode & 0o777 == 0o700


def test_the_task_s_python_runs_exactly_the_pinned_pip(tmp_path: Path, pinned: PinnedPip) -> None:
    with task_directory(tmp_path, pinned) as task:
        outcome = run(task.python, ["--version"], scratch=task.scratch, log=task.log, timeout_seconds=60, check=nothing)
    assert outcome.exit_code == 0
    assert f"pip {pinned.version} from {pinned.directory}/pip" in outcome.lines[-1]


def test_of_much_that_was_printed_the_end_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"Collecting x\n" * 100_000 + b"x" * 1_000_000 + b"\n\xff\r\nthe end")
    outcome = Outcome.of(0, log)
    assert outcome.lines[-2:] == ("\ufffd", "the end")
    assert len(outcome.lines) == 200
    assert outcome.asides == ()


def test_of_each_kind_of_aside_some_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("WARNING: Ignoring version 1\n" * 25 + "Collecting foo @ git+https://example\n" + "x\n" * 300)
    asides = Outcome.of(0, log).asides
    assert (len(asides), asides[-1]) == (21, "Collecting foo @ git+https://example")


def test_compiled_files_that_cannot_be_copied_are_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while another process writes them, or where they are root's alone."""
    compiled = tmp_path / "installed" / "pip" / "__pycache__"
    compiled.mkdir(parents=True)
    (compiled.parent / "__init__.py").touch()
    name = f"__init__.{sys.implementation.cache_tag}.pyc"
    (compiled / name).symlink_to(tmp_path / "gone")

    class Installed:
        version = "1.0"

        def locate_file(self, path: str) -> Path:
            return tmp_path / "installed" / path

    monkeypatch.setattr("worker.pip.distribution", lambda _: Installed())
    made = pin(tmp_path / "cache").directory
    assert (made / "pip" / "__pycache__" / name).is_file()


def test_nothing_of_our_environment_reaches_pip(
    tmp_path: Path, pinned: PinnedPip, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "PIP_INDEX_URL",
        "PYTHONPATH",
        "https_proxy",
        "AWS_SECRET_ACCESS_KEY",
        "MODERNE_AGENT_PYPI_0_PASSWORD",
    ):
        monkeypatch.setenv(name, "planted")
    with task_directory(tmp_path, pinned) as task:
        python_code(task, "import os\nfor item in os.environ.items(): print(*item)")
        outcome = run(task.python, [], scratch=task.scratch, log=task.log, timeout_seconds=60, check=nothing)
        assert "planted" not in "\n".join(outcome.lines)
        assert f"HOME {task.scratch}" in outcome.lines
        assert "PIP_CONFIG_FILE /dev/null" in outcome.lines


def test_a_deadline_ends_pip_and_what_it_started(tmp_path: Path, pinned: PinnedPip) -> None:
    with task_directory(tmp_path, pinned) as task:
        python_code(
            task,
            "import subprocess, sys, time\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
            "print(child.pid, flush=True)\ntime.sleep(600)",
        )
        with pytest.raises(DeadlineExceeded):
            run(task.python, [], scratch=task.scratch, log=task.log, timeout_seconds=2, check=nothing)
        assert gone(int(task.log.read_text()))


def test_whatever_the_check_raises_ends_pip(tmp_path: Path, pinned: PinnedPip) -> None:
    class Enough(Exception):
        pass

    with task_directory(tmp_path, pinned) as task:
        python_code(task, "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")

        def check() -> None:
            if task.log.read_text():
                raise Enough

        with pytest.raises(Enough):
            run(task.python, [], scratch=task.scratch, log=task.log, timeout_seconds=60, check=check)
        assert gone(int(task.log.read_text()))


def test_what_pip_leaves_running_is_ended_with_it(tmp_path: Path, pinned: PinnedPip) -> None:
    with task_directory(tmp_path, pinned) as task:
        python_code(
            task,
            "import subprocess, sys\n"
            "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\nprint(child.pid)",
        )
        outcome = run(task.python, [], scratch=task.scratch, log=task.log, timeout_seconds=60, check=nothing)
        assert gone(int(outcome.lines[0]))


def test_pip_dies_with_a_worker_that_is_killed(tmp_path: Path, pinned: PinnedPip) -> None:
    worker = (
        "import sys, pathlib\n"
        "from worker.environment import task_directory\n"
        "from worker.pip import PinnedPip, run\n"
        "from tests.worker.test_pip import python_code\n"
        f"pip = PinnedPip(pathlib.Path({str(pinned.directory)!r}), {pinned.version!r})\n"
        f"with task_directory(pathlib.Path({str(tmp_path)!r}), pip) as task:\n"
        "    python_code(task, 'import os, time\\nprint(os.getpid(), flush=True)\\ntime.sleep(600)')\n"
        "    print(task.log, flush=True)\n"
        "    run(task.python, [], scratch=task.scratch, log=task.log, timeout_seconds=600, check=lambda: None)\n"
    )
    with subprocess.Popen([sys.executable, "-c", worker], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        log = Path(process.stdout.readline().strip())
        while not (log.exists() and log.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    assert gone(int(log.read_text()))


def test_the_arguments_hold_neither_the_requirement_nor_an_index(tmp_path: Path) -> None:
    arguments = choose_arguments(Target(), tmp_path / "requirements.txt", tmp_path / "report", silence_seconds=900)
    assert not any("http" in argument for argument in arguments)
    assert arguments.count("--platform") > 30
    assert "manylinux_2_35_x86_64" in arguments
    assert "manylinux_2_36_x86_64" not in arguments
    assert os.path.sep.join([str(tmp_path), "requirements.txt"]) in arguments
