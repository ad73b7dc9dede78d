from collections.abc import Callable
from pathlib import Path

import pytest

from bundles.errors import NotPublished, StorageError
from bundles.layout import bundle_folder, stored_wheel
from bundles.manifest import seal
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import ObjectStore
from bundles.verify import Issue, Wanted, verify
from tests.bundles.factory import charts
from tests.bundles.recording import RecordingStore


def _published(store: ObjectStore, tmp_path: Path, version: str = "1.0") -> Bundle:
    return publish(store, charts(tmp_path / version, version=version), tmp_path / version).bundle


def _change(store: ObjectStore, path: str) -> None:
    content = bytearray(store.read(path))
    content[len(content) // 2] ^= 1
    store.put_bytes(path, bytes(content))


def test_everything_is_read_and_is_well(store: ObjectStore, tmp_path: Path) -> None:
    one, two = _published(store, tmp_path), _published(store, tmp_path, "2.0")
    asked: set[str] = set()
    report = verify(RecordingStore(store, before_range=lambda text: asked.add(text.split(" ")[0])))
    everything = set(store.paths(""))
    assert asked == everything
    assert (report.bundles, report.objects, report.issues) == (2, len(everything), ())
    shared = sum(wheel.size_bytes for wheel in one.wheels[1:])
    files = sum(file.size_bytes for bundle in (one, two) for file in bundle.files)
    assert report.size_bytes == one.size_bytes + two.size_bytes - shared + files


def test_an_empty_store_is_well(local_store: ObjectStore) -> None:
    assert verify(local_store).issues == ()


@pytest.mark.parametrize(
    "kind",
    ["wheel", "pylock.toml", "requirements.txt", "sbom.cdx.json", "images/acme_charts/bars.30.png", "bundle.json"],
)
def test_one_changed_byte_of_every_kind_of_object_is_named(store: ObjectStore, tmp_path: Path, kind: str) -> None:
    bundle = _published(store, tmp_path)
    _published(store, tmp_path, "2.0")
    path = stored_wheel(bundle.wheels[1]) if kind == "wheel" else f"{bundle_folder(bundle)}/{kind}"
    _change(store, path)
    for wanted in ([], [Wanted("Acme.Charts")], [Wanted("acme-charts", "1.0.0")]):
        assert {issue.object for issue in verify(store, wanted).issues} == {path}
    others = verify(store, [Wanted("acme-charts", "2.0")]).issues
    assert [issue.object for issue in others] == ([path] if kind == "wheel" else [])


def test_every_issue_is_reported_not_only_the_first(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(local_store, tmp_path)
    folder = bundle_folder(bundle)
    _change(local_store, stored_wheel(bundle.wheels[0]))
    local_store.put_bytes(stored_wheel(bundle.wheels[1]), b"short")
    local_store.delete(stored_wheel(bundle.wheels[2]))
    local_store.delete(f"{folder}/pylock.toml")
    local_store.put_bytes(f"{folder}/surprise", b"1")
    issues = {issue.object: issue.issue for issue in verify(local_store).issues}
    assert issues.keys() == {
        *map(stored_wheel, bundle.wheels),
        f"{folder}/pylock.toml",
        f"{folder}/surprise",
    }
    assert "has sha256" in issues[stored_wheel(bundle.wheels[0])]
    assert "has 5 bytes and not" in issues[stored_wheel(bundle.wheels[1])]
    assert issues[stored_wheel(bundle.wheels[2])] == "is missing"
    assert issues[f"{folder}/surprise"] == "is not named in bundle.json"


def test_a_missing_description_is_named_and_a_running_publication_is_not(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    bundle = charts(tmp_path)
    seen = []

    def look(path: str) -> None:
        if path.endswith("/bundle.json"):
            seen.append(verify(local_store).issues)

    publish(RecordingStore(local_store, look), bundle, tmp_path)
    assert seen == [()]
    manifest = f"{bundle_folder(bundle)}/bundle.json"
    local_store.delete(manifest)
    assert verify(local_store).issues == (Issue(manifest, "is missing, so what is in its folder is no bundle"),)


def test_with_all_also_what_no_bundle_names_is_read(local_store: ObjectStore, tmp_path: Path) -> None:
    _published(local_store, tmp_path)
    orphan = f"wheels/{'a' * 64}/b-1.0-py3-none-any.whl"
    local_store.put_bytes(orphan, b"other content")
    local_store.put_bytes("wheels/readme.txt", b"1")
    local_store.put_bytes("bundles/notes", b"1")
    assert [issue.object for issue in verify(local_store).issues] == ["bundles/notes", orphan, "wheels/readme.txt"]
    assert verify(local_store, [Wanted("acme-charts")]).issues == ()


@pytest.mark.parametrize("change", [lambda _: b"{}", lambda bundle: seal(bundle.model_copy(update={"version": "7"}))])
def test_a_description_of_something_else_is_named(
    local_store: ObjectStore, tmp_path: Path, change: Callable[[Bundle], bytes]
) -> None:
    bundle = _published(local_store, tmp_path)
    manifest = f"{bundle_folder(bundle)}/bundle.json"
    local_store.put_bytes(manifest, change(bundle))
    assert {issue.object for issue in verify(local_store).issues} == {manifest}


def test_a_bundle_that_is_removed_meanwhile_is_no_issue(local_store: ObjectStore, tmp_path: Path) -> None:
    _published(local_store, tmp_path)

    def remove(_: str) -> None:
        for path in list(local_store.paths("")):
            local_store.delete(path)

    assert verify(RecordingStore(local_store, before_range=remove)).issues == ()


@pytest.mark.parametrize("wanted", [Wanted("nothing"), Wanted("acme-charts", "9.9"), Wanted("acme-charts", "one")])
def test_what_is_not_there_is_said(local_store: ObjectStore, tmp_path: Path, wanted: Wanted) -> None:
    _published(local_store, tmp_path)
    with pytest.raises(NotPublished):
        verify(local_store, [wanted])


def test_a_store_that_fails_is_no_issue_of_a_bundle(local_store: ObjectStore, tmp_path: Path) -> None:
    _published(local_store, tmp_path)

    def fail(path: str) -> None:
        raise StorageError("read", path, "the connection was lost")

    with pytest.raises(StorageError):
        verify(RecordingStore(local_store, before_range=fail))
