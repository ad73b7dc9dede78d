import platform
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from bundles.assemble import assemble
from bundles.errors import BrokenWheel, HashMismatch, InvalidVisualization, NotClosed, NoVisualizations, WrongTarget
from config.settings import Target
from tests.bundles.factory import TARGET, bundled, charts, origins
from tests.support.wheels import build_wheel


def test_bundle_says_what_it_is(tmp_path: Path) -> None:
    bundle = charts(tmp_path)
    assert (bundle.name, bundle.version, bundle.requirement) == ("acme-charts", "1.0", "acme-charts")
    assert [wheel.name for wheel in bundle.wheels] == ["acme-charts", "acme-core", "acme-data"]
    assert bundle.size_bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    assert [each.name for each in bundle.visualizations] == ["org.example.bars", "org.example.pie"]
    assert (bundle.python_version, bundle.pip_version) == (platform.python_version(), "26.3")
    assert bundle.target == TARGET
    assert bundle.warnings == ()
    assert datetime.now(UTC) - bundle.created_at < timedelta(minutes=1)


def test_same_content_has_the_same_id_whatever_was_asked_for_and_when(tmp_path: Path) -> None:
    first = charts(tmp_path / "a")
    second = charts(tmp_path / "b")
    assert first.id == second.id
    assert bundled(tmp_path / "a", "acme-charts>=0.1").id == first.id


def test_other_content_or_target_has_another_id(tmp_path: Path) -> None:
    first = charts(tmp_path / "a")
    assert charts(tmp_path / "b", version="1.1").id != first.id
    assert bundled(tmp_path / "a", "acme-charts", target=Target(glibc="2.39")).id != first.id


def test_yanked_wheel_is_bundled_and_said_so(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a", visualizations=["bars"])
    known = {file.name: origins(tmp_path)[file.name].model_copy(update={"yanked": "wrong licence"})}
    bundle = assemble(Requirement("a"), tmp_path, TARGET, known, require_specs=True, pip_version="26.3")
    assert bundle.wheels[0].yanked == "wrong licence"
    assert bundle.warnings == ("a-1.0-py3-none-any.whl was yanked from pypi[0]: wrong licence",)


def test_package_without_visualizations(tmp_path: Path) -> None:
    build_wheel(tmp_path, "a")
    with pytest.raises(NoVisualizations, match=r"a 1\.0 holds no visualization") as caught:
        bundled(tmp_path, "a")
    assert caught.value.package == "a 1.0"
    bundle = bundled(tmp_path, "a", require_specs=False)
    assert bundle.visualizations == ()
    assert "holds no visualization" in bundle.warnings[0]


def test_visualizations_of_a_dependency_do_not_count(tmp_path: Path) -> None:
    build_wheel(tmp_path, "a", requires=["b"])
    build_wheel(tmp_path, "b", visualizations=["bars"])
    with pytest.raises(NoVisualizations):
        bundled(tmp_path, "a")


def test_invalid_visualization(tmp_path: Path) -> None:
    build_wheel(tmp_path, "a", visualizations=["bars", "pie"], files={"a/pie.ipynb": b"{"})
    with pytest.raises(InvalidVisualization, match=r"a/pie\.ipynb is not JSON") as caught:
        bundled(tmp_path, "a")
    assert len(caught.value.issues) == 1
    bundle = bundled(tmp_path, "a", require_specs=False)
    assert [each.name for each in bundle.visualizations] == ["org.example.bars"]
    assert "a/pie.ipynb is not JSON" in bundle.warnings[0]


def test_every_problem_is_told_at_once_the_most_telling_first(tmp_path: Path) -> None:
    build_wheel(tmp_path, "a", visualizations=["bars"])
    build_wheel(tmp_path, "b", metadata_version="2.0")
    build_wheel(tmp_path, "c", tag="cp27-cp27mu-win32")
    changed = build_wheel(tmp_path, "d")
    (tmp_path / "e-1.0.tar.gz").write_bytes(b"source")
    known = origins(tmp_path)
    known[changed.name] = known[changed.name].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(HashMismatch) as caught:
        assemble(Requirement("a"), tmp_path, TARGET, known, require_specs=True, pip_version="26.3")
    assert [type(each) for each in caught.value.also] == [BrokenWheel, WrongTarget, NotClosed]
    assert "e-1.0.tar.gz is not a wheel" in str(caught.value)


def test_incomplete_set_and_broken_visualization_are_told_together(tmp_path: Path) -> None:
    build_wheel(tmp_path, "a", requires=["missing"], visualizations=["bars"], files={"a/bars.ipynb": b""})
    with pytest.raises(NotClosed) as caught:
        bundled(tmp_path, "a")
    assert isinstance(caught.value.also[0], InvalidVisualization)


@pytest.mark.parametrize("files", [[], ["other"]])
def test_package_itself_is_missing(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        build_wheel(tmp_path, name)
    with pytest.raises(NotClosed, match="acme-charts is missing"):
        bundled(tmp_path, "acme-charts")


def test_links_and_folders_are_not_wheels(tmp_path: Path) -> None:
    file = build_wheel(tmp_path / "elsewhere", "a")
    download = tmp_path / "download"
    (download / "b-1.0-py3-none-any.whl").mkdir(parents=True)
    (download / file.name).symlink_to(file)
    with pytest.raises(NotClosed) as caught:
        assemble(Requirement("a"), download, TARGET, {}, require_specs=True, pip_version="26.3")
    assert len(caught.value.also) == 1


def test_warnings_stay_of_a_number(tmp_path: Path) -> None:
    alone = {f"a/alone{number}.ipynb": b"" for number in range(300)}
    build_wheel(tmp_path, "a", visualizations=["bars"], files=alone)
    warnings = bundled(tmp_path, "a").warnings
    assert len(warnings) == 201
    assert warnings[-1] == "and 100 more"
