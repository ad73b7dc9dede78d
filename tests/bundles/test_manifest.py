import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from bundles.errors import BrokenBundle
from bundles.manifest import seal, unseal
from bundles.publish import publish
from bundles.schema import FILE, main, schema
from bundles.store import ObjectStore
from tests.bundles.factory import charts

ROOT = Path(__file__).parents[2]


def test_a_bundle_survives_the_round_trip_with_the_same_bytes(tmp_path: Path) -> None:
    bundle = charts(tmp_path)
    assert unseal(seal(bundle), "bundle.json") == bundle
    assert seal(unseal(seal(bundle), "bundle.json")) == seal(bundle)


def test_no_byte_can_change_unnoticed(tmp_path: Path) -> None:
    content = seal(charts(tmp_path))
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0x20  # turns letters into letters, and spaces into what is no JSON
        with pytest.raises(BrokenBundle) as caught:
            unseal(bytes(changed), "bundles/a/1/x/bundle.json")
        assert caught.value.path == "bundles/a/1/x/bundle.json"


@pytest.mark.parametrize("added", [b" ", b"\n", b"{}"])
def test_nothing_can_be_added_or_cut_off(tmp_path: Path, added: bytes) -> None:
    content = seal(charts(tmp_path))
    for changed in (content + added, added + content, content[:-1], b""):
        with pytest.raises(BrokenBundle):
            unseal(changed, "bundle.json")


def test_a_document_written_again_by_other_means_is_noticed(tmp_path: Path) -> None:
    document = json.loads(seal(charts(tmp_path)))
    with pytest.raises(BrokenBundle, match="changed after it was published"):
        unseal(json.dumps(document).encode(), "bundle.json")


def test_the_schema_in_the_documents_is_that_of_the_model() -> None:
    assert (ROOT / FILE).read_text(encoding="utf-8") == schema()


def test_a_published_document_is_valid_by_the_schema_and_a_strange_one_is_not(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    bundle = publish(local_store, charts(tmp_path), tmp_path).bundle
    document = json.loads(seal(bundle))
    validator = jsonschema.Draft202012Validator(json.loads(schema()))
    validator.check_schema(json.loads(schema()))
    assert list(validator.iter_errors(document)) == []
    for strange in ({**document, "surprise": 1}, {**document, "schemaVersion": 2}, {**document, "wheels": [{}]}):
        assert list(validator.iter_errors(strange))


def test_a_stale_schema_is_told_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / FILE).write_text("{}")
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0


def test_the_schema_is_made_by_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "bundles.schema", "--check"], cwd=ROOT, check=False)
    assert done.returncode == 0
