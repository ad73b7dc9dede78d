import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from config.settings import Target
from jobs.errors import ErrorKind
from tests.bundles.factory import bundled, charts
from tests.support.wheels import build_wheel
from worker.environment import TaskDirectory, task_directory
from worker.errors import FetchError, Stopping
from worker.installation import import_names, prove_installation
from worker.pip import PinnedPip, pin


@pytest.fixture(scope="session")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> PinnedPip:
    return pin(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def task(tmp_path: Path, pinned: PinnedPip) -> Iterator[TaskDirectory]:
    with task_directory(tmp_path, pinned) as made:
        yield made


def nothing() -> None:
    """A check that never ends anything."""


def test_a_bundle_is_installed_imported_and_remembered(task: TaskDirectory, tmp_path: Path) -> None:
    bundle = charts(task.wheels)
    memory = tmp_path / "memory"
    prove_installation(bundle, task, memory, timeout_seconds=60, check=nothing)
    assert [file.name for file in memory.iterdir()] == [bundle.id]
    site = task.root / "venv" / "lib" / f"python3.{sys.version_info.minor}" / "site-packages"
    assert (site / "acme_charts" / "bars.ipynb").exists()
    assert (site / "acme_core").exists()
    task.python.unlink()  # nothing could run any more, and nothing has to
    prove_installation(bundle, task, memory, timeout_seconds=60, check=nothing)


@pytest.mark.parametrize(
    ("code", "words"),
    [(b"import nothing_of_this_name", "No module named 'nothing_of_this_name'"), (b"1 / 0", "ZeroDivisionError")],
)
def test_a_package_that_cannot_be_imported_is_refused(
    task: TaskDirectory, tmp_path: Path, code: bytes, words: str
) -> None:
    build_wheel(task.wheels, "a", visualizations=["bars"], files={"a/__init__.py": code})
    bundle = bundled(task.wheels, "a")
    with pytest.raises(FetchError, match=words) as caught:
        prove_installation(bundle, task, tmp_path / "memory", timeout_seconds=60, check=nothing)
    assert caught.value.kind is ErrorKind.BROKEN_WHEEL
    assert "could not be imported" in caught.value.message
    assert not (tmp_path / "memory").exists()


def test_a_wheel_that_this_agent_cannot_install_is_refused(task: TaskDirectory, tmp_path: Path) -> None:
    build_wheel(task.wheels, "a", visualizations=["bars"], tag="cp311-cp311-manylinux_2_99_x86_64")
    bundle = bundled(task.wheels, "a", target=Target(glibc="2.99"))
    with pytest.raises(FetchError, match="could not be installed") as caught:
        prove_installation(bundle, task, tmp_path / "memory", timeout_seconds=60, check=nothing)
    assert caught.value.kind is ErrorKind.BROKEN_WHEEL
    assert "glibc" in caught.value.message


def test_it_has_a_deadline_and_can_be_stopped(task: TaskDirectory, tmp_path: Path) -> None:
    build_wheel(task.wheels, "a", visualizations=["bars"], files={"a/__init__.py": b"import time\ntime.sleep(60)"})
    bundle = bundled(task.wheels, "a")
    with pytest.raises(FetchError, match="fetchTimeout") as caught:
        prove_installation(bundle, task, tmp_path / "memory", timeout_seconds=3, check=nothing)
    assert caught.value.kind is ErrorKind.DEADLINE

    def stop() -> None:
        raise Stopping

    with pytest.raises(Stopping):
        prove_installation(bundle, task, tmp_path / "memory", timeout_seconds=60, check=stop)


def test_the_names_at_the_top_of_a_wheel_are_imported_and_nothing_else(tmp_path: Path) -> None:
    files = {"single.py": b"", "a/inner/__init__.py": b"", "data/x.txt": b"", "a-b/__init__.py": b""}
    wheel = build_wheel(tmp_path, "a", files=files)
    assert import_names(wheel) == ["a", "single"]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["acme/charts/__init__.py", "acme/charts/deep/__init__.py", "acme/data/__init__.py"], "acme.charts acme.data"),
        (["acme/charts/__init__.py", "acme/tools.py", "single.py"], "acme.charts single"),
        (["acme/charts/bars.py", "acme/charts/__main__.py", "acme/charts/not-a-name.py"], "acme.charts.bars"),
        (["acme/charts/bars.ipynb", "acme/specs/bars.yml"], "acme"),
        (["a-1.0.data/purelib/acme/charts/__init__.py", "a-1.0.data/scripts/run.py"], "acme.charts"),
    ],
)
def test_what_is_inside_of_namespace_packages_is_imported(tmp_path: Path, files: list[str], names: str) -> None:
    wheel = tmp_path / "a-1.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for name in [*files, "a-1.0.dist-info/METADATA"]:
            archive.writestr(name, b"")
    assert import_names(wheel) == names.split()


def test_a_namespace_package_that_cannot_be_imported_is_refused(task: TaskDirectory, tmp_path: Path) -> None:
    build_wheel(
        task.wheels,
        "acme",
        files={"acme/charts/__init__.py": b"import nothing_of_this_name"},
        package_init=False,
    )
    bundle = bundled(task.wheels, "acme", require_specs=False)
    with pytest.raises(FetchError, match="nothing_of_this_name"):
        prove_installation(bundle, task, tmp_path / "memory", timeout_seconds=60, check=nothing)
