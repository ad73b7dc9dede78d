"""Whatever users hand in is understood or refused in words; nothing else may happen."""

import string
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scheduler.manifest import InvalidManifest, collect, parse_requirement

NEAR = st.text(
    st.sampled_from("a.-_[]()<>=!~;,@ \t\n\r'\"#\\/:+*0123456789\u200b\uff41\u0430\u2044\x00\x1b"), max_size=40
)
NAMES = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
VERSIONS = st.from_regex(r"(==|>=|<|~=|!=)[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)
LOOKALIKES = st.sampled_from("\uff41\u0430\u0455\u2024\u2010\uff1d\u200b\u202e\u00a0\u2028")
quickly = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def parsed(text: str) -> Requirement | ValueError:
    try:
        return parse_requirement(text)
    except ValueError as error:
        return error


@given(st.one_of(st.text(max_size=200), NEAR))
@example("a; " + "(" * 900 + "python_version>'3'" + ")" * 900)
@example("a==" + "9" * 990)
@example("0_")
@example("a" * 100_000)
@example("\udcff")
@quickly
def test_any_text_is_a_plain_requirement_or_refused(text: str) -> None:
    requirement = parsed(text)
    if isinstance(requirement, ValueError):
        assert str(requirement).isprintable()
        assert len(str(requirement)) < 300
        return
    line = str(requirement)
    assert requirement.url is None
    assert line.isascii()
    assert line.isprintable()
    assert not line.startswith(("-", ".", "/"))
    assert Requirement(line) == requirement


@given(NAMES, st.lists(VERSIONS, max_size=2))
@quickly
def test_what_is_a_requirement_is_taken(name: str, versions: list[str]) -> None:
    assert parse_requirement(name + ",".join(versions)).name == canonicalize_name(name)


@given(NAMES, LOOKALIKES, st.integers(0, 20))
@quickly
def test_look_alikes_are_refused_wherever_they_stand(name: str, mark: str, place: int) -> None:
    with pytest.raises(ValueError, match=r"ASCII|is no|is an|is longer"):
        parse_requirement(name[:place] + mark + name[place:])


@given(st.lists(st.tuples(st.booleans(), NAMES), min_size=1, max_size=30), st.sampled_from(["\n", "\r\n", "\r"]))
@quickly
def test_exactly_the_bad_lines_of_a_list_are_named(tmp_path: Path, lines: list[tuple[bool, str]], newline: str) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(newline.join(name if good else f"--{name}\x0c" for good, name in lines).encode())
    bad = [number for number, (good, _) in enumerate(lines, 1) if not good]
    if not bad:
        assert len(collect([], file)) == len(lines)
        return
    with pytest.raises(InvalidManifest) as caught:
        collect([], file)
    for problem, number in zip(caught.value.problems, bad, strict=True):
        assert f"line {number}:" in problem


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10), st.dates())
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
KEYS = st.sampled_from(["version", "visualizations", "refresh", "package", "index", "priority", "requireSpecs", "x"])
ENTRIES = st.dictionaries(KEYS, SCALARS, max_size=4)
MANIFESTS = st.one_of(
    VALUES, st.fixed_dictionaries({"version": SCALARS | st.just(1), "visualizations": VALUES | st.lists(ENTRIES)})
)


@given(MANIFESTS)
@quickly
def test_any_yaml_is_a_manifest_or_refused_with_its_place(tmp_path: Path, content: object) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    outcome(file)


@given(st.text(string.printable + "\ufeff\u2028&*", max_size=200))
@example("a: 2001-99-99")
@example("? [1]\n: 2")
@example("{" * 2000)
@example("[" * 100_000)
@example("version: 1\nvisualizations: [{package: a, index: " + "9" * 5000 + "}]")
@example("&a [*a]")
@example("<<: 3")
@example("=: 1")
@quickly
def test_any_text_is_a_manifest_or_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text(text, encoding="utf-8")
    outcome(file)


def outcome(file: Path) -> None:
    problems = problems_of(file)
    assert problems is None or problems
    assert all(str(file) in problem for problem in problems or ())


def problems_of(file: Path) -> tuple[str, ...] | None:
    try:
        assert collect([], file)
    except InvalidManifest as error:
        return error.problems
    return None


def test_anchors_that_explode_cost_nothing(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yml"
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
    file.write_text("\n".join(lines))
    with pytest.raises(InvalidManifest, match="line 2: YAML aliases"):
        collect([], file)


def test_mistakes_in_a_manifest_are_told_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text(
        "version: 1\nvisualizations:\n  - package: fine\n  - package: ./path\n"
        "  - package: urgent\n    priority: hihg\n  - package: other\n    indx: 1\n"
    )
    with pytest.raises(InvalidManifest) as caught:
        collect([], file)
    told = "\n".join(caught.value.problems)
    assert "line 6: visualizations.2.priority" in told
    assert "line 8: visualizations.3.indx" in told
    file.write_text(
        "version: 1\nvisualizations:\n  - package: fine\n  - package: ./path\n  - {package: a, package: b}\n"
    )
    with pytest.raises(InvalidManifest, match="line 5: `package` stands there twice"):
        collect([], file)
    file.write_text("version: 1\nvisualizations:\n  - package: fine\n  - package: ./path\n")
    with pytest.raises(InvalidManifest, match=r"line 4: visualizations\[1\]: `./path`"):
        collect([], file)


def test_a_mark_at_the_beginning_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes("\ufeffacme\n".encode())
    assert collect([], file)[0].requirement.name == "acme"
