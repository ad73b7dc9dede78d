import itertools
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bundles.catalog import entries
from bundles.errors import Fenced, StorageError
from bundles.layout import bundle_folder, stored_wheel
from bundles.lock import pylock, requirements
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import ObjectStore
from tests.bundles.factory import bundled, charts
from tests.bundles.recording import RecordingStore
from tests.support.wheels import build_wheel


def test_everything_is_where_it_belongs(store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path / "download")
    publication = publish(store, bundle, tmp_path / "download")
    folder = bundle_folder(bundle)
    assert folder == f"bundles/acme-charts/1.0/{bundle.id}"
    assert publication.uri == store.uri(folder)
    assert publication.uploaded_bytes == bundle.size_bytes
    assert publication.replaced == ()
    assert store.read(f"{folder}/pylock.toml") == pylock(bundle)
    assert store.read(f"{folder}/requirements.txt") == requirements(bundle)
    assert Bundle.model_validate_json(store.read(f"{folder}/bundle.json")) == bundle
    for wheel in bundle.wheels:
        assert store.read(stored_wheel(wheel)) == (tmp_path / "download" / wheel.filename).read_bytes()
    assert len(list(store.paths(""))) == len(bundle.wheels) + 3


def test_wheels_come_first_and_the_manifest_last(local_store: ObjectStore, tmp_path: Path) -> None:
    recording = RecordingStore(local_store)
    bundle = charts(tmp_path / "download")
    publish(recording, bundle, tmp_path / "download")
    assert [path.rsplit("/", 1)[1] for path in recording.written[3:]] == [
        "pylock.toml",
        "requirements.txt",
        "bundle.json",
    ]
    assert all(path.startswith("wheels/") for path in recording.written[:3])


def test_repeating_writes_nothing_and_keeps_the_first_manifest(local_store: ObjectStore, tmp_path: Path) -> None:
    first = charts(tmp_path / "download")
    publish(local_store, first, tmp_path / "download")
    again = charts(tmp_path / "download")
    recording = RecordingStore(local_store)
    publication = publish(recording, again, tmp_path / "download")
    assert recording.written == []
    assert publication.uploaded_bytes == 0
    stored = Bundle.model_validate_json(local_store.read(f"{bundle_folder(first)}/bundle.json"))
    assert stored.created_at == first.created_at


def test_shared_wheels_are_stored_once(store: ObjectStore, tmp_path: Path) -> None:
    publish(store, charts(tmp_path / "one"), tmp_path / "one")
    second = charts(tmp_path / "two", version="2.0")
    publication = publish(store, second, tmp_path / "two")
    assert publication.uploaded_bytes == second.wheels[0].size_bytes
    assert len(list(store.paths("wheels"))) == 4
    assert len(list(entries(store))) == 2


def test_wheel_of_another_size_is_replaced_and_reported(store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path / "download")
    store.put_bytes(stored_wheel(bundle.wheels[1]), b"half")
    publication = publish(store, bundle, tmp_path / "download")
    assert publication.replaced == (bundle.wheels[1].filename,)
    assert store.size(stored_wheel(bundle.wheels[1])) == bundle.wheels[1].size_bytes


@pytest.mark.parametrize("allowed", range(6))
def test_reader_never_sees_half_a_bundle_and_repeating_completes_it(
    local_store: ObjectStore, tmp_path: Path, allowed: int
) -> None:
    bundle = charts(tmp_path / "download")
    steps = itertools.count()

    def die(path: str) -> None:
        if next(steps) >= allowed:
            raise StorageError("write", path, "the connection was lost")

    with pytest.raises(StorageError, match="the connection was lost"):
        publish(RecordingStore(local_store, die), bundle, tmp_path / "download")
    assert list(entries(local_store)) == []
    publish(local_store, bundle, tmp_path / "download")
    assert len(list(entries(local_store))) == 1


@pytest.mark.parametrize("allowed", range(6))
def test_fenced_at_any_step_writes_nothing_more(local_store: ObjectStore, tmp_path: Path, allowed: int) -> None:
    bundle = charts(tmp_path / "download")
    recording = RecordingStore(local_store)
    asked = itertools.count()
    with pytest.raises(Fenced):
        publish(recording, bundle, tmp_path / "download", fenced=lambda: next(asked) >= allowed)
    assert len(recording.written) == allowed
    assert list(entries(local_store)) == []


def test_two_workers_publish_the_same_bundle_at_once(store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(publish, store, bundle, tmp_path / folder) for folder in ("a", "b")]
        assert len({run.result().uri for run in runs}) == 1
    assert len(list(entries(store))) == 1
    assert len(list(store.paths("wheels"))) == 3


def test_many_wheels(local_store: ObjectStore, tmp_path: Path) -> None:
    names = [f"dependency-{number}" for number in range(40)]
    build_wheel(tmp_path / "download", "a", requires=names, visualizations=["bars"])
    for name in names:
        build_wheel(tmp_path / "download", name)
    bundle = bundled(tmp_path / "download", "a")
    assert publish(local_store, bundle, tmp_path / "download").uploaded_bytes == bundle.size_bytes
    assert len(list(local_store.paths("wheels"))) == 41
