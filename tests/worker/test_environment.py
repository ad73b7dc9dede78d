import os
import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import CacheSettings, Settings, Target
from worker.directories import sweep
from worker.environment import check_environment, task_directory
from worker.errors import UnfitEnvironment
from worker.pip import PinnedPip

PIP = PinnedPip(Path("/nonexistent"), "0")


def settings(tmp_path: Path, **changes: object) -> Settings:
    cache = CacheSettings(directory=tmp_path / "cache")
    mine = Settings(nickname="test", temporary_directory=tmp_path, min_free_space_bytes=1, cache=cache)
    return mine.model_copy(update=changes)


def test_a_task_s_directory_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    with task_directory(tmp_path, PIP) as task:
        assert task.root.stat().st_mode & 0o777 == 0o700
        assert task.python.exists()
        root = task.root
    assert not root.exists()


def test_it_is_gone_also_when_the_task_fails(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), task_directory(tmp_path, PIP):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_sweep_removes_what_a_killed_worker_left_and_nothing_else(tmp_path: Path) -> None:
    maker = (
        "import os, signal, pathlib\n"
        "from worker.environment import task_directory\n"
        "from worker.pip import PinnedPip\n"
        f"with task_directory(pathlib.Path({str(tmp_path)!r}), PinnedPip(pathlib.Path('/nonexistent'), '0')):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", maker], check=False)
    (left,) = tmp_path.iterdir()
    (tmp_path / "something-else").mkdir()
    with task_directory(tmp_path, PIP) as task:
        assert sweep(tmp_path) == [left]
        assert task.python.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["something-else"]
    assert sweep(tmp_path) == []


def test_a_directory_that_is_just_being_made_is_not_swept(tmp_path: Path) -> None:
    fresh = tmp_path / "vizfetch-task-fresh"
    fresh.mkdir()
    assert sweep(tmp_path) == []
    os.utime(fresh, (0, 0))
    assert sweep(tmp_path) == [fresh]


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (tmp_path / "vizfetch-task-link").symlink_to(kept)
    assert sweep(tmp_path) == []
    assert kept.exists()


def test_this_machine_is_fit(tmp_path: Path) -> None:
    check_environment(settings(tmp_path))


def test_all_reasons_are_said_at_once(tmp_path: Path) -> None:
    unfit = settings(tmp_path, target=Target(architecture="aarch64"), min_free_space_bytes=2**60)
    with pytest.raises(UnfitEnvironment) as caught:
        check_environment(unfit)
    assert [problem.subject for problem in caught.value.problems] == ["architecture", "free space"]
    head, *lines = str(caught.value).splitlines()
    assert head == "this machine is not fit for fetching:"
    assert [line.partition(":")[0].strip() for line in lines] == ["architecture", "free space"]
