from pathlib import Path

import pytest

from scheduler.manifest import MAX_ENTRIES, Entry, InvalidManifest, asked_for, collect, parse_requirement


def problems(requirements: list[str], file: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(InvalidManifest) as caught:
        collect(requirements, file)
    return caught.value.problems


@pytest.mark.parametrize("text", ["acme", "acme==1.0", "acme[plot]>=1,<2", 'acme; python_version>"3"', "Acme_Charts"])
def test_requirements_are_taken(text: str) -> None:
    assert parse_requirement(text).name


def test_names_are_normalised() -> None:
    assert parse_requirement("Acme_Charts==1.0").name == "acme-charts"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "--index-url=http://127.0.0.1/",
        "-e .",
        "-r other.txt",
        "./acme",
        "/etc/passwd",
        "acme @ https://127.0.0.1/acme-1.0-py3-none-any.whl",
        "git+https://127.0.0.1/acme",
        "https://127.0.0.1/acme-1.0.whl",
        "acme==1.0\n--index-url=http://127.0.0.1/",
        "acme\u200b==1.0",
        "\uff41cme",
        "acme==1.0 --hash=sha256:00",
        "a" * 100_000,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is |has |names "):
        parse_requirement(text)


def test_a_list_is_read_with_its_comments_and_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# ours\nacme==1.0  # pinned\n\n  other>=2\n")
    assert [str(entry.requirement) for entry in collect([], file)] == ["acme==1.0", "other>=2"]


def test_every_bad_line_is_reported_with_its_number(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("acme\n-e .\nfine==1\n./path\n")
    found = problems(["bad requirement here"], file)
    assert len(found) == 3
    assert "`bad requirement here`" in found[0]
    assert "line 2: `-e .`" in found[1]
    assert "line 4: `./path`" in found[2]


def test_more_than_redis_should_take_at_once_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("acme\n" * (MAX_ENTRIES + 1))
    assert problems([], file) == (f"more than {MAX_ENTRIES} packages at once: make several batches of them",)
    file.write_text("acme\n" * MAX_ENTRIES)
    assert len(collect([], file)) == MAX_ENTRIES


def test_a_manifest_says_for_each_package_where_from_and_how_strict(tmp_path: Path) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text(
        "version: 1\nvisualizations:\n  - package: acme>=2,<3\n  - {package: other, index: 1, requireSpecs: false}\n"
    )
    first, second = collect([], file)
    assert first == Entry(parse_requirement("acme>=2,<3"))
    assert second == Entry(parse_requirement("other"), index="pypi[1]", require_specs=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("visualizations: [{package: a}]", "version"),
        ("version: 2\nvisualizations: [{package: a}]", "version"),
        ("version: 1\nvisualizations: []", "visualizations"),
        ("version: 1\nvisualizations: [{package: a, indx: 1}]", "visualizations.0.indx"),
        ("version: 1\nvisualizations: [{package: 3}]", "visualizations.0.package"),
        ("version: 1\nvisualizations: [{package: a, index: -1}]", "visualizations.0.index"),
        ("version: 1\nvisualizations: [{package: a, requireSpecs: 'no'}]", "visualizations.0.requireSpecs"),
        ("version: 1\nvisualizations: [{package: ./a}]", "visualizations[0]"),
        ("- 1", "as a whole"),
        ("", "as a whole"),
        ("a: &a [1]\nb: *a", "aliases"),
        ("{", "no YAML"),
        ("!!python/object/apply:os.system ['true']", "no YAML"),
        ("version: 1\nvisualizations: [{package: a}]\nrefresh: 60", "line 3: refresh"),
        ("version: 1\nvisualizations: [{package: a}]\nrefresh: hourly", "line 3: refresh: "),
        ("version: 1\nvisualizations: [{package: a}]\nrefresh: 500ms", "shorter than 1s"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused_with_the_place(
    tmp_path: Path, content: str, said: str
) -> None:
    file = tmp_path / "manifest.yaml"
    file.write_text(content)
    assert any(said in problem for problem in problems([], file))


def test_a_wrong_entry_is_one_problem(tmp_path: Path) -> None:
    file = tmp_path / "manifest.yml"
    for content in ("[{package: 3}]", "[{package: a, indx: 1}]", "[{}]", "[a]"):
        file.write_text(f"version: 1\nvisualizations: {content}\n")
        assert len(problems([], file)) == 1
    file.write_text("version: 1\nvisualizations: []\n")
    assert "at least 1 entry" in problems([], file)[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("visualizations: [{package: a}]", "line 1: version: is missing"),
        ("version: 2\nvisualizations: [{package: a}]", "line 1: version: must be 1"),
        ("version: true\nvisualizations: [{package: a}]", "line 1: version: must be 1"),
        ("version: 1.0\nvisualizations: [{package: a}]", "line 1: version: must be 1"),
        ("version: 1\nvisualizations: {package: a}", "line 2: visualizations: must be a list"),
        ("version: 1\nvisualizations: [a]", "line 2: visualizations.0: must be a mapping"),
        ("version: 1\nvisualizations: [{package: a}]\nfoo: 1", "line 3: foo: no such key is known here"),
        ("version: 1\nvisualizations: [{package: a, index: one}]", "index: must be a whole number"),
        ("version: 1\nvisualizations: [{package: a, requireSpecs: 1}]", "requireSpecs: must be true or false"),
        ("version: 1\nvisualizations: [{package: a, priority: urgent}]", "priority: must be 'high', 'normal' or 'low'"),
        ("version: 1\nvisualizations: [{package: a, target: {python: 3.11}}]", "target.python: must be text"),
        ("version: 1\nvisualizations: [{package: a}]\nrefresh: 0s", "line 3: refresh: shorter than 1s"),
    ],
)
def test_what_is_wrong_is_told_in_words_of_people(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text(content)
    (told,) = problems([], file)
    assert said in told


def test_spellings_of_one_requirement_are_one_job() -> None:
    spellings = ("Foo_bar[B_c,a] >=1,<2 ; python_version>'3'", 'foo.bar[a,b-C]<2,>=1;python_version > "3"')
    assert len({str(entry.requirement) for entry in collect(spellings)}) == 1


def test_only_what_the_manifest_names_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text("version: 1\nvisualizations: [{package: a}]\nrefresh: 1h\n")
    asked = asked_for(["b"], file)
    assert [str(entry.requirement) for entry in asked.entries] == ["b", "a"]
    assert [str(entry.requirement) for entry in asked.repeated] == ["a"]
    assert asked.refresh_seconds == 3600
    assert asked_for(["b"]).refresh_seconds is None


def test_nothing_asked_for_is_an_error(tmp_path: Path) -> None:
    assert "no package is named" in problems([])[0]
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    assert "names no package" in problems([], empty)[0]
    assert "cannot be read" in problems([], tmp_path / "missing.txt")[0]
