from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from bundles.check import check_wheel
from bundles.closure import Closure
from config.settings import Target
from tests.bundles.factory import TARGET, origins
from tests.support.wheels import build_wheel

ARM = Target(architecture="aarch64")


def _closure(directory: Path, requirement: str, packages: Sequence[dict[str, Any]], target: Target = TARGET) -> Closure:
    directory.mkdir(exist_ok=True)
    for options in packages:
        build_wheel(directory, **options)
    known = origins(directory)
    wheels = [check_wheel(file, known[file.name], target) for file in sorted(directory.iterdir())]
    return Closure(Requirement(requirement), wheels, target)


@pytest.mark.parametrize(
    ("requirement", "packages"),
    [
        ("a", [{"name": "a"}]),
        ("A.a>=1,<2", [{"name": "a-a", "version": "1.9"}]),
        ("a", [{"name": "a", "requires": ["b"]}, {"name": "b", "requires": ["c"]}, {"name": "c"}]),
        ("a", [{"name": "a", "requires": ["b"]}, {"name": "b", "requires": ["a"]}]),
        ("a", [{"name": "a", "requires": ["w; sys_platform == 'win32'"]}]),
        ("a", [{"name": "a", "requires": ["b; python_version < '3.8'", "c; python_version >= '3.8'"]}, {"name": "c"}]),
        ("a", [{"name": "a", "extras": ["x"], "requires": ["b; extra == 'x'"]}]),
        ("a[x]", [{"name": "a", "extras": ["x"], "requires": ["b; extra == 'x'"]}, {"name": "b"}]),
        ("a[X_y]", [{"name": "a", "extras": ["x-y"], "requires": ["b; extra == 'x_Y'"]}, {"name": "b"}]),
        (
            "a[all]",
            [
                {"name": "a", "extras": ["all", "x"], "requires": ["a[x]; extra == 'all'", "b; extra == 'x'"]},
                {"name": "b"},
            ],
        ),
        (
            "a",
            [
                {"name": "a", "requires": ["b", "c"]},
                {"name": "b", "extras": ["x"], "requires": ["d; extra == 'x'"]},
                {"name": "c", "requires": ["b[x]"]},
                {"name": "d"},
            ],
        ),
        ("a", [{"name": "a", "requires": ["b>=1"]}, {"name": "b", "version": "2.0rc1"}]),
        ("a==1.0", [{"name": "a", "version": "1.0+local"}]),
    ],
)
def test_closed_sets(tmp_path: Path, requirement: str, packages: list[dict[str, Any]]) -> None:
    closure = _closure(tmp_path, requirement, packages)
    assert closure.issues == []
    assert closure.warnings == []
    assert closure.root == packages[0]["name"]


@pytest.mark.parametrize(
    ("requirement", "packages", "expected"),
    [
        ("a", [{"name": "b"}], ["a is missing, needed by what was asked for", "is not needed by anything"]),
        ("a>=2", [{"name": "a"}], ["a-1.0-py3-none-any.whl is not a>=2"]),
        ("a", [{"name": "a", "requires": ["b>1", "c"]}], ["b>1 is missing, needed by a-1.0", "c is missing"]),
        ("a", [{"name": "a", "requires": ["b>1"]}, {"name": "b"}], ["b-1.0-py3-none-any.whl is not b>1"]),
        ("a", [{"name": "a"}, {"name": "b"}], ["b-1.0-py3-none-any.whl is not needed"]),
        (
            "a",
            [{"name": "a", "extras": ["x"], "requires": ["b; extra == 'x'"]}, {"name": "b"}],
            ["b-1.0-py3-none-any.whl is not needed"],
        ),
        ("a", [{"name": "a"}, {"name": "a", "version": "2.0"}], ["a is there 2 times"]),
        ("a; sys_platform == 'win32'", [{"name": "a"}], ["does not apply to the target"]),
        ("a", [{"name": "a", "requires": ["b @ https://example.com/b.whl"]}, {"name": "b"}], ["from a URL"]),
    ],
)
def test_open_sets(tmp_path: Path, requirement: str, packages: list[dict[str, Any]], expected: list[str]) -> None:
    issues = _closure(tmp_path, requirement, packages).issues
    assert len(issues) == len(expected)
    for text in expected:
        assert any(text in issue for issue in issues)


def test_markers_are_those_of_the_target_and_not_of_this_machine(tmp_path: Path) -> None:
    packages: list[dict[str, Any]] = [{"name": "a", "requires": ["b; platform_machine == 'aarch64'"]}, {"name": "b"}]
    assert _closure(tmp_path, "a", packages, ARM).issues == []
    assert _closure(tmp_path, "a", [], TARGET).issues == ["b-1.0-py3-none-any.whl is not needed by anything"]


def test_what_an_undeclared_extra_would_need_is_not_needed_as_with_pip(tmp_path: Path) -> None:
    closure = _closure(tmp_path, "a[x]", [{"name": "a", "requires": ["b; extra == 'x'"]}])
    assert closure.issues == []
    assert closure.warnings == ["a-1.0-py3-none-any.whl has no extra 'x', asked for nevertheless"]


@pytest.mark.parametrize("marker", ["'5' ~= os_name", "'x' in extras"])
def test_a_marker_without_an_answer_is_an_issue(tmp_path: Path, marker: str) -> None:
    [issue] = _closure(tmp_path, "a", [{"name": "a", "requires": [f"b; {marker}"]}]).issues
    assert "cannot be evaluated" in issue


def test_unknown_extra_is_a_warning_as_with_pip(tmp_path: Path) -> None:
    closure = _closure(tmp_path, "a[nope]", [{"name": "a"}])
    assert closure.issues == []
    assert closure.warnings == ["a-1.0-py3-none-any.whl has no extra 'nope', asked for nevertheless"]
