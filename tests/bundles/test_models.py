from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from bundles.errors import BrokenWheel, BundleError, HashMismatch
from bundles.models import Bundle, Origin

DOCUMENT: dict[str, Any] = {
    "schemaVersion": 1,
    "id": "0" * 32,
    "requirement": "Acme_Charts>=1",
    "name": "acme-charts",
    "version": "1.0",
    "target": {"python": "3.11", "glibc": "2.35", "architecture": "x86_64"},
    "wheels": [
        {
            "name": "acme-charts",
            "version": "1.0",
            "filename": "acme_charts-1.0-py3-none-any.whl",
            "sha256": "a" * 64,
            "sizeBytes": 12,
            "index": "pypi[0]",
            "yanked": None,
            "built": False,
            "licenses": ["MIT"],
            "requires": [],
        }
    ],
    "files": [{"path": "images/acme_charts/bars.30.png", "sha256": "b" * 64, "sizeBytes": 3}],
    "visualizations": [
        {
            "type": "specs.moderne.io/v1beta/visualization",
            "name": "io.acme.Bars",
            "displayName": "Bars",
            "description": "Bars.",
            "recipe": {"org.acme.Find": {"pattern": "*"}},
            "dataTable": "org.acme.Table",
            "additionalDataTables": {"file": "org.acme.Other"},
            "options": [
                {
                    "name": "top",
                    "displayName": "Top",
                    "description": "",
                    "required": False,
                    "valid": ["1", 2],
                }
            ],
            "notebook": "acme_charts/bars.ipynb",
            "image": "images/acme_charts/bars.30.png",
        }
    ],
    "pythonVersion": "3.11.7",
    "pipVersion": "26.3",
    "createdAt": "2026-01-02T03:04:05Z",
    "uploadedBytes": 12,
    "warnings": [],
}


def test_bundle_survives_a_round_trip_in_camel_case() -> None:
    bundle = Bundle.model_validate(DOCUMENT)
    assert bundle.model_dump(mode="json") == DOCUMENT
    assert Bundle.model_validate_json(bundle.model_dump_json()) == bundle
    assert bundle.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert bundle.size_bytes == 12
    assert bundle.package == bundle.wheels[0]


@pytest.mark.parametrize(
    "change",
    [
        {"surprise": 1},
        {"schemaVersion": 2},
        {"id": "../../etc"},
        {"version": "not a version"},
        {"name": "a/b"},
        {"createdAt": "2026-01-02T03:04:05"},
        {"wheels": [{**DOCUMENT["wheels"][0], "filename": "../acme.whl"}]},
        {"wheels": [{**DOCUMENT["wheels"][0], "sha256": "A" * 64}]},
        {"files": [{**DOCUMENT["files"][0], "path": "images/../../x"}]},
        {"files": [{**DOCUMENT["files"][0], "path": "/etc/passwd"}]},
        {"files": [{**DOCUMENT["files"][0], "path": "images\\x"}]},
        {"visualizations": [{**DOCUMENT["visualizations"][0], "image": "images//x"}]},
    ],
)
def test_bundle_is_closed_and_strict(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Bundle.model_validate({**DOCUMENT, **change})


def test_bundle_is_immutable_and_hides_values_in_errors() -> None:
    bundle = Bundle.model_validate(DOCUMENT)
    with pytest.raises(ValidationError):
        setattr(bundle, "name", "other")  # noqa: B010 - mypy knows that a plain assignment is wrong
    with pytest.raises(ValidationError) as caught:
        Origin.model_validate({"filename": "a.whl", "index": "pypi[0]", "sha256": "planted-value"})
    assert "planted-value" not in str(caught.value)


def test_error_tells_everything_that_was_found() -> None:
    error: BundleError = BrokenWheel("a.whl", ["no RECORD", "no METADATA"])
    error.also = (HashMismatch("b.whl", "1" * 64, "2" * 64),)
    assert "no RECORD; no METADATA" in str(error)
    assert "b.whl" in str(error)
    assert "b.whl" not in error.message
