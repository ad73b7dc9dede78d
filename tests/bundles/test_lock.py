import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import cast

import pytest
from packaging.markers import Environment
from packaging.pylock import Pylock, PylockSelectError

from bundles.layout import bundle_folder, portable_wheel
from bundles.lock import pylock, requirements
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import open_store
from bundles.target import environment, tags
from config.settings import StorageSettings, Target
from tests.bundles.factory import TARGET, bundled, charts
from tests.support.wheels import build_wheel


def _run(*command: str | Path, folder: Path) -> str:
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "PIP_CONFIG_FILE": "/dev/null"}
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=clean, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def published(tmp_path: Path) -> tuple[Bundle, Path]:
    """A bundle and its folder in a local store."""
    bundle = charts(tmp_path / "download")
    publish(open_store(StorageSettings(uri=f"file://{tmp_path}/store")), bundle, tmp_path / "download")
    shutil.rmtree(tmp_path / "download")
    return bundle, tmp_path / "store" / bundle_folder(bundle)


def test_lock_names_every_wheel_with_path_size_and_hash(tmp_path: Path) -> None:
    bundle = charts(tmp_path)
    lock = tomllib.loads(pylock(bundle).decode())
    assert lock["lock-version"] == "1.0"
    assert lock["requires-python"] == "==3.11.*"
    for package, wheel in zip(lock["packages"], bundle.wheels, strict=True):
        assert (package["name"], package["version"]) == (wheel.name, wheel.version)
        [file] = package["wheels"]
        assert file["path"] == f"../../../../wheels/{wheel.sha256}/{wheel.filename}"
        assert file["size"] == wheel.size_bytes
        assert file["hashes"] == {"sha256": wheel.sha256}


def test_forms_are_the_same_for_the_same_content(tmp_path: Path) -> None:
    first, second = charts(tmp_path / "a"), charts(tmp_path / "b")
    second = second.model_copy(update={"wheels": second.wheels[::-1], "requirement": "other"})
    assert pylock(first) == pylock(second)
    assert requirements(first) == requirements(second)


def test_requirements_are_pinned_and_hashed(tmp_path: Path) -> None:
    bundle = charts(tmp_path)
    lines = requirements(bundle).decode().splitlines()
    assert lines == [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in bundle.wheels]


@pytest.mark.parametrize("target", [Target(), Target(python="3.12", glibc="2.28", architecture="aarch64")])
def test_lock_selects_everything_on_the_target_and_refuses_elsewhere(tmp_path: Path, target: Target) -> None:
    build_wheel(tmp_path, "a", requires=["b"], visualizations=["bars"])
    build_wheel(tmp_path, "b")
    lock = Pylock.from_dict(tomllib.loads(pylock(bundled(tmp_path, "a", target=target)).decode()))
    here = cast("Environment", environment(target))
    assert len(list(lock.select(environment=here, tags=tags(target)))) == 2
    here["platform_machine"] = "riscv64"
    with pytest.raises(PylockSelectError):
        list(lock.select(environment=here, tags=tags(target)))


def test_pip_installs_from_the_lock_in_the_store(tmp_path: Path, published: tuple[Bundle, Path]) -> None:
    _, folder = published
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "install", "--no-index"]
    _run(*pip, "--target", tmp_path / "site", "-r", folder / "pylock.toml", folder=tmp_path)
    _imports(tmp_path / "site")


def test_uv_installs_from_the_lock_in_the_store(tmp_path: Path, published: tuple[Bundle, Path]) -> None:
    _, folder = published
    _run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", folder=tmp_path)
    uv = Path(sys.executable).parent / "uv"
    options = ["--offline", "--no-config", "--cache-dir", "uv-cache", "--python", "venv/bin/python"]
    _run(uv, "pip", "sync", *options, folder / "pylock.toml", folder=tmp_path)
    _imports(tmp_path / "venv/lib/python3.11/site-packages")


def test_pip_installs_from_the_requirements(tmp_path: Path) -> None:
    bundle = charts(tmp_path / "wheels")
    (tmp_path / "requirements.txt").write_bytes(requirements(bundle))
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "install"]
    options = ["--no-index", "--no-deps", "--require-hashes", "--find-links", "wheels", "-r", "requirements.txt"]
    _run(*pip, "--target", tmp_path / "site", *options, folder=tmp_path)
    _imports(tmp_path / "site")


def test_lock_of_a_portable_folder_points_into_it(tmp_path: Path) -> None:
    lock = tomllib.loads(pylock(charts(tmp_path), portable_wheel).decode())
    assert {package["wheels"][0]["path"] for package in lock["packages"]} == {
        f"wheels/{file.name}" for file in tmp_path.iterdir()
    }


def _imports(site: Path) -> None:
    code = "import acme_charts, acme_core, acme_data; print(acme_data.__version__)"
    assert (
        _run(sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}", folder=site)
        == "1.5\n"
    )


def test_target_of_the_tests_is_this_interpreters() -> None:
    assert f"{sys.version_info.major}.{sys.version_info.minor}" == TARGET.python
