import json
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from bundles.sbom import sbom
from tests.bundles.factory import bundled, charts
from tests.support.wheels import build_wheel


def _metadata(name: str, *lines: str) -> bytes:
    return "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines, "", "Text"]).encode()


def _document(content: bytes) -> Any:
    problem = JsonStrictValidator(SchemaVersion.V1_6).validate_str(content.decode())
    assert problem is None, problem
    return json.loads(content)


def test_it_is_valid_and_names_every_wheel_with_its_hash(tmp_path: Path) -> None:
    bundle = charts(tmp_path)
    document = _document(sbom(bundle))
    package = document["metadata"]["component"]
    assert (package["name"], package["version"]) == ("acme-charts", "1.0")
    components = {each["name"]: each for each in [package, *document["components"]]}
    assert components.keys() == {wheel.name for wheel in bundle.wheels}
    for wheel in bundle.wheels:
        found = components[wheel.name]
        assert found["hashes"] == [{"alg": "SHA-256", "content": wheel.sha256}]
        assert found["purl"].startswith(f"pkg:pypi/{wheel.name}@")


def test_it_tells_who_needs_whom(tmp_path: Path) -> None:
    document = _document(sbom(charts(tmp_path)))
    needs = {each["ref"]: each.get("dependsOn", []) for each in document["dependencies"]}
    assert needs == {
        "acme_charts-1.0-py3-none-any.whl": ["acme_data-1.5-py3-none-any.whl"],
        "acme_core-0.1+local.1-cp311-cp311-manylinux_2_17_x86_64.whl": [],
        "acme_data-1.5-py3-none-any.whl": ["acme_core-0.1+local.1-cp311-cp311-manylinux_2_17_x86_64.whl"],
    }


def test_the_same_bundle_gives_the_same_bytes_wherever_and_whenever(tmp_path: Path) -> None:
    bundle = charts(tmp_path)
    elsewhere = [wheel.model_copy(update={"index": "public"}) for wheel in bundle.wheels]
    later = bundle.model_copy(update={"wheels": tuple(elsewhere), "requirement": "acme-charts>=0", "warnings": ("x",)})
    assert sbom(later) == sbom(bundle)


def test_the_same_wheels_give_the_same_bytes_whatever_extras_were_asked_for(tmp_path: Path) -> None:
    build_wheel(tmp_path, "a", requires=["b", "c; extra == 'x'"], extras=["x"], visualizations=["bars"])
    build_wheel(tmp_path, "b", requires=["c", "a>1; extra == 'y'"], extras=["y"])
    build_wheel(tmp_path, "c")
    plain, extra = bundled(tmp_path, "a"), bundled(tmp_path, "a[x]")
    assert plain.id == extra.id
    assert plain.wheels == extra.wheels
    assert sbom(plain) == sbom(extra)
    assert {wheel.name: wheel.requires for wheel in plain.wheels} == {"a": ("b", "c"), "b": ("c",), "c": ()}


@pytest.mark.parametrize(
    ("lines", "licenses"),
    [
        (["License-Expression: MIT"], [{"license": {"id": "MIT"}}]),
        (["License-Expression: MIT OR Apache-2.0"], [{"expression": "MIT OR Apache-2.0"}]),
        (["License: BSD-3-Clause"], [{"license": {"id": "BSD-3-Clause"}}]),
        (["License: Our own, see the file"], [{"license": {"name": "Our own, see the file"}}]),
        (["License: MIT", "License-Expression: Apache-2.0"], [{"license": {"id": "Apache-2.0"}}]),
        (
            ["License: UNKNOWN", "Classifier: License :: OSI Approved :: BSD License"],
            [{"license": {"name": "BSD License"}}],
        ),
        (
            [f"License: {'very long ' * 20}", "Classifier: License :: OSI Approved :: MIT License"],
            [{"license": {"name": "MIT License"}}],
        ),
        (
            ["Classifier: License :: OSI Approved", "Classifier: License :: Free For Home Use"],
            [{"license": {"name": "Free For Home Use"}}],
        ),
        (
            ["Classifier: License :: B", "Classifier: License :: A", "Classifier: Framework :: C"],
            [{"license": {"name": "A"}}, {"license": {"name": "B"}}],
        ),
        ([], None),
    ],
)
def test_licences_are_told_as_exactly_as_the_metadata_does(
    tmp_path: Path, lines: list[str], licenses: list[Any] | None
) -> None:
    build_wheel(tmp_path, "a", visualizations=["bars"], metadata=_metadata("a", *lines))
    document = _document(sbom(bundled(tmp_path, "a")))
    found = document["metadata"]["component"].get("licenses")
    assert _without_acknowledgement(found) == licenses


def _without_acknowledgement(licenses: Any) -> Any:
    """Leave out who says so, which is always the author."""
    if isinstance(licenses, list):
        return [_without_acknowledgement(each) for each in licenses]
    if isinstance(licenses, dict):
        return {key: _without_acknowledgement(each) for key, each in licenses.items() if key != "acknowledgement"}
    return licenses
