import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from bundles.catalog import Survey, entries, find, place, survey
from bundles.errors import BrokenBundle, NotPublished
from bundles.layout import bundle_folder
from bundles.manifest import seal
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import ObjectStore
from bundles.verify import Wanted, verify
from config.settings import Target
from tests.bundles.factory import bundled, charts
from tests.support.wheels import build_wheel


def _publish(store: ObjectStore, directory: Path, name: str, version: str) -> Bundle:
    folder = directory / f"{name}-{version}"
    build_wheel(folder, name, version, visualizations=["bars"])
    bundle = bundled(folder, name)
    publish(store, bundle, folder)
    return bundle


def test_empty_store_has_nothing(store: ObjectStore) -> None:
    assert survey(store) == Survey((), ())
    with pytest.raises(NotPublished, match="acme-charts is not published"):
        find(store, "acme-charts")


def test_published_are_ordered_by_name_and_newest_version_first(store: ObjectStore, tmp_path: Path) -> None:
    for name, version in (("b", "1.0"), ("a", "1.9"), ("a", "1.10"), ("a", "1.10rc1")):
        _publish(store, tmp_path, name, version)
    assert [(each.name, each.version) for each in survey(store).bundles] == [
        ("a", "1.10"),
        ("a", "1.10rc1"),
        ("a", "1.9"),
        ("b", "1.0"),
    ]


def test_find_takes_the_newest_version_by_pep_440(store: ObjectStore, tmp_path: Path) -> None:
    for version in ("1.9", "1.10", "2.0rc1"):
        _publish(store, tmp_path, "acme-charts", version)
    _publish(store, tmp_path, "acme-charts-extra", "9.0")
    assert find(store, "Acme_Charts").version == "1.10"
    assert find(store, "acme-charts", "2.0.rc1").version == "2.0rc1"
    assert find(store, "acme-charts", "1.9.0").version == "1.9"


def test_find_takes_a_pre_release_when_there_is_nothing_else(local_store: ObjectStore, tmp_path: Path) -> None:
    _publish(local_store, tmp_path, "a", "1.0rc1")
    assert find(local_store, "a").version == "1.0rc1"


@pytest.mark.parametrize("version", ["1.1", "not a version", ""])
def test_version_that_is_not_there(local_store: ObjectStore, tmp_path: Path, version: str) -> None:
    _publish(local_store, tmp_path, "a", "1.0")
    with pytest.raises(NotPublished, match="a=="):
        find(local_store, "a", version)


def test_find_takes_the_newest_bundle_of_a_version(local_store: ObjectStore, tmp_path: Path) -> None:
    old = charts(tmp_path)
    new = bundled(tmp_path, "acme-charts", target=Target(glibc="2.39"))
    new = new.model_copy(update={"created_at": old.created_at + timedelta(hours=1)})
    new, old = (publish(local_store, bundle, tmp_path).bundle for bundle in (new, old))
    assert find(local_store, "acme-charts") == new
    assert survey(local_store).bundles == (new, old)


def test_incomplete_bundles_are_not_there(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path)
    publish(local_store, bundle, tmp_path)
    local_store.delete(f"{bundle_folder(bundle)}/bundle.json")
    assert list(entries(local_store)) == []
    with pytest.raises(NotPublished):
        find(local_store, "acme-charts")


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"{", "Invalid JSON"), (b'{"schemaVersion": 2}', "schemaVersion"), (None, "it describes another bundle")],
)
def test_broken_manifest_is_named(
    local_store: ObjectStore, tmp_path: Path, content: bytes | None, expected: str
) -> None:
    bundle = charts(tmp_path)
    path = f"{bundle_folder(bundle)}/bundle.json"
    other = bundle.model_copy(update={"version": "7.0"})
    local_store.put_bytes(path, seal(other) if content is None else content)
    with pytest.raises(BrokenBundle, match=expected) as caught:
        find(local_store, "acme-charts")
    assert caught.value.path == path


def test_strange_folders_are_reported_or_passed_over(local_store: ObjectStore) -> None:
    local_store.put_bytes("bundles/readme.txt", b"1")
    local_store.put_bytes("bundles/a/1.0/x/images/bundle.json", b"1")
    assert survey(local_store) == Survey((), ())
    local_store.put_bytes("bundles/a/one/x/bundle.json", b"1")
    [broken] = survey(local_store).broken
    assert "'one' is not a version" in str(broken)


def test_a_broken_bundle_does_not_hide_the_others(store: ObjectStore, tmp_path: Path) -> None:
    sound, broken = (_publish(store, tmp_path, name, "1.0") for name in ("a", "b"))
    store.put_bytes(f"{bundle_folder(broken)}/bundle.json", b"{}")
    found = survey(store)
    assert [each.id for each in found.bundles] == [sound.id]
    assert [each.path for each in found.broken] == [f"{bundle_folder(broken)}/bundle.json"]


def test_a_description_of_other_wheels_than_its_id_says_is_broken(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = _publish(local_store, tmp_path, "a", "1.0")
    evil = bundle.wheels[0].model_copy(update={"sha256": "e" * 64})
    local_store.put_bytes(f"{bundle_folder(bundle)}/bundle.json", seal(bundle.model_copy(update={"wheels": (evil,)})))
    with pytest.raises(BrokenBundle, match="not those of its id"):
        find(local_store, "a")


_TAMPERED: dict[str, tuple[dict[str, object], str]] = {
    "no wheel of its own": ({"wheels": [1, 2]}, "has no wheel of acme-charts itself"),
    "a wheel twice": ({"wheels": [0, 0, 1, 2]}, "has 2 wheels of acme-charts"),
    "another's file name": ({"filename": "acme_core-9-py3-none-any.whl"}, "is not a name for a wheel of acme-charts"),
    "no file name of a wheel": ({"filename": "x.whl"}, "x.whl is not a name for a wheel of acme-charts 1.0"),
    "a way out": ({"filename": "../x.whl"}, "not a plain file name"),
    "colours": ({"filename": "\x1b[31m.whl"}, "not a plain file name"),
    "a second description": ({"path": "bundle.json"}, "bundle.json is not a name for a file beside it"),
    "among the wheels": ({"path": "wheels/evil.whl"}, "wheels/evil.whl is not a name for a file beside it"),
    "out of the folder": ({"path": "images/../../evil"}, "not a plain file name"),
    "a file twice": ({"path": "sbom.cdx.json"}, "sbom.cdx.json is there 2 times"),
    "a picture from elsewhere": ({"image": "images/other.png"}, "images/other.png is not among its files"),
}


@pytest.mark.parametrize("label", _TAMPERED)
def test_a_description_that_was_tampered_with_and_sealed_again_is_refused(
    local_store: ObjectStore, tmp_path: Path, label: str
) -> None:
    """Its digest and its id are right, as a stranger with the right to write can make them."""
    change, expected = _TAMPERED[label]
    bundle = publish(local_store, charts(tmp_path / "made"), tmp_path / "made").bundle
    document = json.loads(seal(bundle))
    wheels, files = document["wheels"], document["files"]
    match change:
        case {"wheels": list() as chosen}:
            document["wheels"] = [wheels[number] for number in chosen]
        case {"filename": name}:
            wheels[0]["filename"] = name
        case {"path": path}:
            files.append(files[-1] | {"path": path})
        case {"image": image}:
            document["visualizations"][0]["image"] = image
    content = {"target": document["target"], "wheels": sorted([w["filename"], w["sha256"]] for w in document["wheels"])}
    document["id"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
    document["digest"] = "0" * 64
    blank = json.dumps(document, indent=2).encode() + b"\n"
    sealed = blank.replace(b'"digest": "' + b"0" * 64, b'"digest": "' + hashlib.sha256(blank).hexdigest().encode())
    place = f"bundles/acme-charts/1.0/{document['id']}/bundle.json"
    local_store.delete(f"{bundle_folder(bundle)}/bundle.json")
    local_store.put_bytes(place, sealed)
    [broken] = survey(local_store).broken
    assert broken.path == place
    assert expected in str(broken)
    with pytest.raises(BrokenBundle):
        find(local_store, "acme-charts")
    told = [each.issue for each in verify(local_store, [Wanted("acme-charts")]).issues if each.object == place]
    assert any(expected in each for each in told)


def test_what_has_no_version_for_a_name_is_in_nobodys_way(local_store: ObjectStore, tmp_path: Path) -> None:
    publish(local_store, charts(tmp_path / "made"), tmp_path / "made")
    local_store.put_bytes(f"bundles/acme-charts/not a version/{'0' * 32}/bundle.json", b"{}")
    assert find(local_store, "acme-charts").version == "1.0"
    [broken] = survey(local_store).broken
    assert "'not a version' is not a version" in str(broken)


def test_nothing_that_is_told_controls_the_terminal(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = publish(local_store, charts(tmp_path / "made"), tmp_path / "made").bundle
    document = json.loads(seal(bundle)) | {"\x1b[31m": 1}
    local_store.put_bytes(f"{bundle_folder(bundle)}/bundle.json", json.dumps(document).encode())
    assert all(str(each).isprintable() for each in survey(local_store).broken)
    issues = verify(local_store).issues
    assert any("Extra inputs" in each.issue for each in issues)
    assert all(each.issue.isprintable() and each.object.isprintable() for each in issues)


@pytest.mark.parametrize("path", ["bundles//x", "bundles//1.0/id/bundle.json", "bundles/a//id/bundle.json"])
def test_a_key_with_an_empty_part_is_in_no_bundle(path: str) -> None:
    assert place(path) is None


def test_a_description_that_would_fill_the_memory_is_broken_and_not_read(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sound, large = _publish(store, tmp_path, "a", "1.0"), _publish(store, tmp_path, "b", "1.0")
    monkeypatch.setattr("bundles.catalog.MAX_MANIFEST_BYTES", 2 * 2**20)
    path = f"{bundle_folder(large)}/bundle.json"
    store.put_bytes(path, b" " * (5 * 2**20))
    found = survey(store)
    assert [each.id for each in found.bundles] == [sound.id]
    assert [(each.path, each.issues) for each in found.broken] == [(path, ("it has more than 2097152 bytes",))]
    assert [each.object for each in verify(store, [Wanted("b")]).issues if "bytes" in each.issue] == [path]
    with pytest.raises(BrokenBundle, match="more than 2097152 bytes"):
        find(store, "b")
