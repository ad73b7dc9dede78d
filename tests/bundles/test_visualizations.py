import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from bundles import visualizations
from bundles.visualizations import Found, Remembered, find, notebook_issues, parse_spec, parse_yaml
from tests.support.wheels import build_wheel, notebook, png, spec, visualization_files

BARS = visualization_files("a", ["bars"])


def _find(directory: Path, changes: dict[str, bytes | None]) -> Found:
    files = {path: data for path, data in (BARS | changes).items() if data is not None}
    with ZipFile(build_wheel(directory, "a", files=files)) as archive:
        return find(archive)


def test_visualization_is_read_whole(tmp_path: Path) -> None:
    found = _find(tmp_path, {})
    assert found.issues == ()
    assert found.warnings == ()
    [bars] = found.visualizations
    assert bars.model_dump(mode="json") == {
        "type": "specs.moderne.io/v1beta/visualization",
        "name": "org.example.bars",
        "displayName": "Bars",
        "description": "Shows bars.\n",
        "recipe": {"org.example.Find": {"pattern": "*"}},
        "dataTable": "org.example.Table",
        "additionalDataTables": {},
        "options": [
            {
                "name": "top",
                "displayName": "Top",
                "description": "How many.",
                "required": False,
                "valid": ["5", "10"],
            }
        ],
        "notebook": "a/bars.ipynb",
        "image": "images/a/bars.30.png",
    }


def test_several_are_sorted_and_images_may_lack(tmp_path: Path) -> None:
    files: dict[str, bytes | None] = {**visualization_files("a", ["zoo", "apple"]), "a/images/zoo.30.png": None}
    found = _find(tmp_path, files)
    assert [each.notebook for each in found.visualizations] == ["a/apple.ipynb", "a/bars.ipynb", "a/zoo.ipynb"]
    assert found.visualizations[2].image is None


def test_highest_image_wins_and_dense_ones_are_accepted(tmp_path: Path) -> None:
    found = _find(tmp_path, {"a/images/bars.100.png": png(height=300), "a/images/other.png": b"no height"})
    assert found.issues == ()
    assert found.visualizations[0].image == "images/a/bars.100.png"
    assert found.warnings == ("a/images/bars.100.png is 300 pixels high, 3 times what its name says",)


def test_packages_inside_packages_count_and_packaging_does_not(tmp_path: Path) -> None:
    nested = visualization_files("a/inner", ["lines"])
    hidden = visualization_files("a-1.0.data/data", ["hidden"])
    found = _find(tmp_path, {**nested, **hidden})
    assert [each.notebook for each in found.visualizations] == ["a/bars.ipynb", "a/inner/lines.ipynb"]


def test_package_without_specs_holds_nothing(tmp_path: Path) -> None:
    found = _find(tmp_path, {"a/specs/bars.yml": None})
    assert found == Found((), (), ())


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        ("a/bars.ipynb", None, "a/specs/bars.yml has no notebook a/bars.ipynb"),
        ("a/bars.ipynb", b"{", "a/bars.ipynb is not JSON"),
        ("a/bars.ipynb", b"\xff\xfe{}", "a/bars.ipynb is not JSON"),
        ("a/bars.ipynb", b"[" * 100_000, "a/bars.ipynb is not JSON"),
        ("a/bars.ipynb", b"[]", "a/bars.ipynb is not a notebook"),
        ("a/bars.ipynb", b"{}", "a/bars.ipynb is not a notebook"),
        ("a/bars.ipynb", notebook(cells=[{"cell_type": "poem"}]), "a/bars.ipynb is not a valid notebook"),
        ("a/bars.ipynb", notebook(nbformat=99), "a/bars.ipynb is of notebook format 99"),
        ("a/bars.ipynb", notebook(nbformat="4.nbbase"), "a/bars.ipynb is of notebook format '4.nbbase'"),
        ("a/bars.ipynb", notebook(nbformat_minor="5"), "a/bars.ipynb is not a notebook"),
        ("a/bars.ipynb", notebook(nbformat_minor=None), "a/bars.ipynb is not a notebook"),
        ("a/bars.ipynb", notebook(cells=5), "a/bars.ipynb is not a notebook"),
        ("a/specs/bars.yml", b"[", "a/specs/bars.yml is not valid YAML"),
        ("a/specs/bars.yml", b"", "a/specs/bars.yml is not a YAML mapping"),
        ("a/specs/bars.yml", b"a: 1\n---\nb: 2\n", "a/specs/bars.yml is not valid YAML"),
        ("a/specs/bars.yml", b"!!python/object/apply:os.system [exit]", "uses the YAML tag tag:yaml.org,2002:python"),
        ("a/specs/bars.yml", spec("bars") + b'x: !!int ""', "uses the YAML tag tag:yaml.org,2002:int"),
        ("a/specs/bars.yml", spec("bars") + b"x: !!bool maybe", "uses the YAML tag tag:yaml.org,2002:bool"),
        ("a/specs/bars.yml", spec("bars") + b"x: !!timestamp now", "uses the YAML tag tag:yaml.org,2002:timestamp"),
        ("a/specs/bars.yml", spec("bars") + b"x: 1" + b":1" * 200 + b".5", "holds a number of 403 characters"),
        ("a/specs/bars.yml", spec("bars") + b"x: 1" + b":1" * 200, "holds a number of 401 characters"),
        ("a/specs/bars.yml", spec("bars", type="specs.moderne.io/v9/other"), "type: "),
        ("a/specs/bars.yml", spec("bars", displayName=None), "displayName: Field required"),
        ("a/specs/bars.yml", spec("bars", name=" "), "name: "),
        ("a/specs/bars.yml", spec("bars", name="n" * 501), "name: String should have at most 500 characters"),
        ("a/specs/bars.yml", spec("bars", description=5), "description: "),
        ("a/specs/bars.yml", spec("bars", recipe=["x"]), "recipe: must be a recipe's name"),
        ("a/specs/bars.yml", spec("bars", options={"top": {}}), "options is not a list"),
        ("a/specs/bars.yml", spec("bars", options=["top"]), "options does not hold mappings"),
        ("a/specs/bars.yml", spec("bars", options=[{"top": 1}]), "option top is not a mapping"),
        ("a/specs/bars.yml", spec("bars", options=[{"top": {"required": "maybe"}}]), "options: 0: required: "),
        ("a/images/bars.30.png", b"\xff\xd8 a photograph " * 9, "a/images/bars.30.png is not a PNG image"),
        ("a/images/bars.30.png", b"", "a/images/bars.30.png is not a PNG image"),
        ("a/images/bars.30.png", png(height=31), "is 31 pixels high; its name says 30"),
        ("a/images/bars.30.png", png(height=150), "is 150 pixels high; its name says 30, or up to 4 times that"),
        ("a/images/bars.30.png", png(height=30)[:-1], "is a PNG image that ends too soon"),
        ("a/images/bars.30.png", png(height=30)[:24], "is a PNG image that ends too soon"),
        ("a/images/bars.30.png", png(height=30).replace(b"\0\0\0\x1e", b"\0\0\0\x1f"), "a CRC is wrong"),
        ("a/images/bars.30.png", png(height=30, width=0), "without a picture in it"),
        ("a/bars.ipynb", notebook(nbformat=4.0), "a/bars.ipynb is of notebook format 4.0"),
        ("a/bars.ipynb", notebook(nbformat_minor=4.5), "a/bars.ipynb is not a notebook"),
        ("a/specs/bars.yml", spec("bars", options=[{"top": {"valid": [float("inf")]}}]), "not JSON compliant"),
        ("a/specs/bars.yml", spec("bars", additionalDataTables={"x": float("nan")}), "not JSON compliant"),
        ("a/specs/bars.yml", spec("bars") + b"additionalDataTables: {x: 0x" + b"f" * 5000 + b"}\n", "5002 characters"),
        ("a/specs/bars.yml", spec("bars", name="a\x1b[31m"), "name: not one line of text"),
        ("a/specs/bars.yml", spec("bars", options=[{f"o{n}": {}} for n in range(201)]), "has 201 options"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(tmp_path: Path, path: str, data: bytes | None, expected: str) -> None:
    found = _find(tmp_path, {path: data})
    assert len(found.issues) == 1
    assert expected in found.issues[0]
    assert found.visualizations == ()


def test_every_issue_is_reported(tmp_path: Path) -> None:
    found = _find(
        tmp_path,
        {
            "a/specs/bars.yml": spec("bars", name=None, dataTable=None),
            "a/bars.ipynb": b"{",
            "a/images/bars.30.png": b"",
            "a/specs/alone.yml": spec("alone"),
        },
    )
    assert len(found.issues) == 5


def test_name_used_twice(tmp_path: Path) -> None:
    files = visualization_files("a", ["copy"]) | {"a/specs/copy.yml": spec("bars")}
    assert _find(tmp_path, {**files}).issues == ("the name org.example.bars is used by a/bars.ipynb and a/copy.ipynb",)


def test_odd_things_are_warnings(tmp_path: Path) -> None:
    found = _find(
        tmp_path,
        {
            "a/alone.ipynb": notebook(),
            "a/specs/misspelt.yaml": spec("misspelt"),
            "a/images/bars.png": b"",
            "a/images/bars.30.jpg": b"",
            "a/images/logo.png": b"",
            "a/specs/bars.yml": spec("bars", colour="red"),
        },
    )
    assert found.issues == ()
    assert sorted(found.warnings) == [
        "a/alone.ipynb has no spec",
        "a/images/bars.30.jpg is ignored: a picture is called NAME.HEIGHT.png",
        "a/images/bars.png is ignored: a picture is called NAME.HEIGHT.png",
        "a/specs/bars.yml: not known and not kept: colour",
        "a/specs/misspelt.yaml is ignored: a spec is called NAME.yml",
    ]


def test_cells_without_or_with_repeated_ids_are_accepted_as_jupyter_does() -> None:
    cell: dict[str, Any] = {"cell_type": "markdown", "metadata": {}, "source": "x"}
    assert notebook_issues(notebook(cells=[cell, cell])) == []
    assert notebook_issues(notebook(cells=[{**cell, "id": "x"}, {**cell, "id": "x"}])) == []


def test_older_notebook_formats_are_accepted() -> None:
    assert notebook_issues(json.dumps({"nbformat": 4, "nbformat_minor": 2, "metadata": {}, "cells": []}).encode()) == []
    assert (
        notebook_issues(json.dumps({"nbformat": 3, "nbformat_minor": 0, "metadata": {}, "worksheets": []}).encode())
        == []
    )


def test_recipe_may_be_a_name_and_dates_stay_text() -> None:
    parsed, unknown = parse_spec(spec("x", recipe="org.example.Find", options=None))
    assert parsed.recipe == "org.example.Find"
    assert parsed.options == ()
    assert unknown == ()
    assert parse_yaml(b"since: 2024-01-31") == {"since": "2024-01-31"}


def test_sizes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visualizations, "MAX_SPEC_BYTES", 10)
    monkeypatch.setattr(visualizations, "MAX_NOTEBOOK_BYTES", 10)
    assert set(_find(tmp_path, {}).issues) == {
        "a/specs/bars.yml is larger than 10 bytes",
        "a/bars.ipynb is larger than 10 bytes",
    }


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_SPECS", 1), ("MAX_ALL_SPECS_BYTES", 500), ("MAX_ALL_NOTEBOOKS_BYTES", 100)]
)
def test_all_together_are_bounded_before_any_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(visualizations, limit, value)
    found = _find(tmp_path, {**visualization_files("a", ["pie"]), "a/bars.ipynb": b"{"})
    assert found.visualizations == ()
    [issue] = found.issues
    assert f"more than {value}" in issue


@pytest.mark.parametrize(
    "cells",
    [
        [{}] * 100_000,  # a schema's complaint about each takes seconds and gigabytes
        [{"cell_type": "raw", "source": "", "metadata": {"tags": [[n] for n in range(50_000)]}}],  # their square
        [{"cell_type": "raw", "source": "", "metadata": {"tags": list(map(str, range(50_000)))}}],
        [{f"k{number}": 0 for number in range(100_000)}],
    ],
    ids=["cells", "lists", "tags", "keys"],
)
def test_notebooks_that_keep_the_schema_busy_are_not_put_to_it(
    monkeypatch: pytest.MonkeyPatch, cells: list[dict[str, Any]]
) -> None:
    monkeypatch.setattr("nbformat.validator.validate", None)
    [issue] = notebook_issues(notebook(cells=cells))
    assert "more than 100000 lists" in issue or "at most 1000 texts" in issue


def test_a_number_to_base_60_is_read_and_text_may_say_that_it_is_text() -> None:
    assert parse_yaml(b"at: 1:30\nversion: !!str 1.0") == {"at": 90, "version": "1.0"}


def test_unknown_keys_are_one_warning(tmp_path: Path) -> None:
    [warning] = _find(tmp_path, {"a/specs/bars.yml": spec("bars", **{f"k{n}": 1 for n in range(999)})}).warnings
    assert len(warning) < 300


def test_yaml_that_would_grow_without_end_is_refused() -> None:
    laughs = ["a0: &a0 ha", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
    with pytest.raises(ValueError, match="aliases"):
        parse_yaml("\n".join(laughs).encode())


@pytest.mark.parametrize("text", ["b'[' * 500_000", "b'- ' * 500_000 + b'a'", "b'{a: ' * 200_000"])
def test_yaml_that_would_crash_the_interpreter_is_refused(text: str) -> None:
    script = f"from bundles.visualizations import parse_yaml\ntry: parse_yaml({text})\nexcept ValueError as e: print(e)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert "nested too deeply" in done.stdout


def test_a_process_may_prepare_for_the_versions_in_use() -> None:
    program = (
        "from bundles.visualizations import prepare; prepare();"
        "from nbformat.validator import validators; print(sorted(key[1:3] for key in validators))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[(4, 2), (4, 4), (4, 5)]\n"


def test_what_is_remembered_is_of_the_content_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def upper(data: bytes) -> bytes:
        asked.append(data)
        if not data.isalpha():
            raise ValueError
        return data.upper()

    monkeypatch.setattr(visualizations, "_KEPT_RESULT_BYTES", 1)
    remembered = Remembered(upper, max_bytes=8)
    assert [remembered(data) for data in (b"abc", b"abc", b"xyz", b"abc")] == [b"ABC", b"ABC", b"XYZ", b"ABC"]
    assert asked == [b"abc", b"xyz"]
    assert remembered(b"d") == b"D"  # takes more than was left
    assert remembered(b"abc") == b"ABC"
    for _ in range(2):
        with pytest.raises(ValueError, match=r"^$"):
            remembered(b"1")
    assert asked[2:] == [b"d", b"abc", b"1", b"1"]


def test_a_spec_that_two_packages_share_is_parsed_once_and_belongs_to_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def parse(data: bytes) -> Any:
        parsed.append(data)
        return parse_spec(data)

    monkeypatch.setattr(visualizations, "_known_spec", Remembered(parse, max_bytes=10_000))
    first, second = (_find(tmp_path / version, {}) for version in ("1", "2"))
    assert len(parsed) == 1
    assert first.visualizations == second.visualizations != ()


@pytest.mark.parametrize("name", ["nbformat", "nbformat_minor"])
def test_what_a_notebook_says_of_itself_is_not_repeated_at_length(name: str) -> None:
    document = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [], name: "x" * 100_000}
    [issue] = notebook_issues(json.dumps(document).encode())
    assert "xxx" in issue
    assert len(issue) < 400
