import platform
import sys

import pytest
from packaging.markers import Marker
from packaging.tags import Tag, sys_tags
from packaging.utils import parse_wheel_filename

from bundles.target import environment, fits, full_version, platforms, tags
from config.settings import Target

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
