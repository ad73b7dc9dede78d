import platform
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.tags import Tag, sys_tags
from packaging.utils import parse_wheel_filename

from bundles.errors import WrongTarget
from bundles.target import environment, fits, full_version, platforms, tags
from config.settings import Target
from tests.bundles.factory import bundled
from tests.support.wheels import build_wheel
from worker.pip import only_wheels

JAMMY = Target()
ARM = Target(python="3.12", glibc="2.28", architecture="aarch64")


def test_platforms_name_every_glibc_down_to_the_oldest_with_legacy_names_beside_their_equals() -> None:
    listed = platforms(JAMMY)
    assert listed[0] == "manylinux_2_35_x86_64"
    assert listed[-2:] == ("manylinux1_x86_64", "linux_x86_64")
    assert len(listed) == 31 + 3 + 1
    for systematic, legacy in (("2_17", "2014"), ("2_12", "2010"), ("2_5", "1")):
        position = listed.index(f"manylinux_{systematic}_x86_64")
        assert listed[position + 1] == f"manylinux{legacy}_x86_64"


def test_platforms_of_aarch64_end_at_glibc_2_17() -> None:
    listed = platforms(ARM)
    assert listed[0] == "manylinux_2_28_aarch64"
    assert listed[-3:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64")
    assert not any("x86_64" in name for name in listed)


def test_tags_equal_this_interpreters_own_when_target_is_this_machine() -> None:
    # A plain linux wheel promises nothing about glibc: this project puts it last, packaging puts it first.
    unordered = ("musllinux", "linux_")
    here = [tag for tag in sys_tags() if not tag.platform.startswith(unordered)]
    glibc = next(tag.platform for tag in here if tag.platform.startswith("manylinux_2_")).split("_")[2]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = Target.model_validate({"python": python, "glibc": f"2.{glibc}", "architecture": platform.machine()})
    assert [tag for tag in tags(target) if not tag.platform.startswith(unordered)] == here
    assert set(tags(target)) == {tag for tag in sys_tags() if "musllinux" not in tag.platform}


@pytest.mark.parametrize(
    ("filename", "target", "expected"),
    [
        ("a-1-py3-none-any.whl", JAMMY, True),
        ("a-1-py2.py3-none-any.whl", JAMMY, True),
        ("a-1-py2-none-any.whl", JAMMY, False),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", JAMMY, True),
        ("a-1-cp311-cp311-manylinux_2_35_x86_64.whl", JAMMY, True),
        ("a-1-cp311-cp311-manylinux_2_36_x86_64.whl", JAMMY, False),
        ("a-1-cp37-abi3-manylinux1_x86_64.whl", JAMMY, True),
        ("a-1-cp312-abi3-manylinux1_x86_64.whl", JAMMY, False),
        ("a-1-cp312-cp312-manylinux_2_17_x86_64.whl", JAMMY, False),
        ("a-1-cp311-cp311-musllinux_1_1_x86_64.whl", JAMMY, False),
        ("a-1-cp311-cp311-manylinux_2_17_aarch64.whl", JAMMY, False),
        ("a-1-cp311-cp311-linux_x86_64.whl", JAMMY, True),
        ("a-1-cp312-cp312-manylinux_2_28_aarch64.whl", ARM, True),
        ("a-1-cp312-cp312-manylinux_2_29_aarch64.whl", ARM, False),
        ("a-1-py312-none-any.whl", JAMMY, False),
    ],
)
def test_fits(filename: str, target: Target, expected: bool) -> None:  # noqa: FBT001 - a table's column
    assert fits(parse_wheel_filename(filename)[3], target) is expected


def test_fits_takes_any_iterable_of_tags() -> None:
    assert fits([Tag("cp27", "cp27mu", "any"), Tag("py3", "none", "any")], JAMMY)


def test_environment_is_that_of_the_target() -> None:
    seen = environment(ARM)
    assert Marker("platform_machine == 'aarch64' and python_version == '3.12'").evaluate(seen)
    assert not Marker("sys_platform == 'win32'").evaluate(seen)
    assert Marker("platform_system == 'Linux' and os_name == 'posix'").evaluate(seen)


def test_full_version_is_the_running_ones_only_for_the_same_minor_version() -> None:
    running = Target(python=f"{sys.version_info.major}.{sys.version_info.minor}")
    assert full_version(running) == ".".join(map(str, sys.version_info[:3]))
    assert full_version(Target(python="3.99")) == "3.99.0"
    assert environment(running)["python_full_version"] == full_version(running)


_OFFERED = (
    "cp311-cp311-macosx_11_0_arm64",
    "cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64",
    "cp311-cp311-manylinux_2_28_aarch64",
    "cp311-cp311-manylinux_2_36_aarch64",
    "cp311-cp311-manylinux_2_28_x86_64",
    "cp311-cp311-musllinux_1_2_aarch64",
    "cp311-cp311-win_arm64",
    "cp312-cp312-manylinux_2_17_aarch64",
    "cp39-abi3-manylinux_2_31_aarch64",
    "py3-none-any",
)
"""As a project with native code offers them, and one more."""


@pytest.mark.parametrize(
    ("glibc", "python", "offered", "chosen"),
    [
        ("2.35", "3.11", _OFFERED, "cp311-cp311-manylinux_2_28_aarch64"),
        ("2.39", "3.11", _OFFERED, "cp311-cp311-manylinux_2_36_aarch64"),
        ("2.27", "3.11", _OFFERED, "cp311-cp311-manylinux_2_17_aarch64.manylinux2014_aarch64"),
        ("2.35", "3.12", _OFFERED, "cp312-cp312-manylinux_2_17_aarch64"),
        ("2.35", "3.13", _OFFERED, "cp39-abi3-manylinux_2_31_aarch64"),
        ("2.28", "3.13", _OFFERED, "py3-none-any"),
        ("2.35", "3.11", ("cp311-cp311-linux_aarch64", "cp311-cp311-linux_x86_64"), "cp311-cp311-linux_aarch64"),
        ("2.35", "3.11", ("cp311-cp311-manylinux_2_17_x86_64", "cp311-cp311-win_arm64"), None),
        ("2.16", "3.11", ("cp311-cp311-manylinux_2_17_aarch64",), None),
    ],
)
def test_pip_chooses_for_aarch64_what_that_machine_would(
    tmp_path: Path, glibc: str, python: str, offered: tuple[str, ...], chosen: str | None
) -> None:
    """pip looks only at the tags that it is told, so its choice can be seen on any machine."""
    target = Target.model_validate({"python": python, "glibc": glibc, "architecture": "aarch64"})
    for tag in offered:
        build_wheel(tmp_path / "offered", "a", tag=tag)
    wanted = tmp_path / "wanted.txt"
    wanted.write_text(f"--no-index\n--find-links {tmp_path / 'offered'}\na\n")
    arguments = ["download", "--requirement", str(wanted), "--dest", str(tmp_path / "chosen"), *only_wheels(target)]
    done = subprocess.run([sys.executable, "-I", "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    found = sorted(file.name for file in tmp_path.glob("chosen/*"))
    assert found == ([] if chosen is None else [f"a-1.0-{chosen}.whl"]), done.stderr
    assert done.returncode == (chosen is None)


def test_of_what_is_offered_only_the_wheels_of_the_machine_make_a_bundle_for_it(tmp_path: Path) -> None:
    """The check goes by the target's tags and markers, whatever machine it runs on."""
    arm = Target(architecture="aarch64")
    only_there = ["b; platform_machine == 'aarch64'", "c; platform_machine != 'aarch64'"]
    build_wheel(tmp_path, "a", tag=_OFFERED[2], requires=only_there, visualizations=["bars"])
    build_wheel(tmp_path, "b", tag=_OFFERED[1])
    made = bundled(tmp_path, "a", target=arm)
    assert [wheel.name for wheel in made.wheels] == ["a", "b"]
    with pytest.raises(WrongTarget, match="x86_64"):
        bundled(tmp_path, "a")
