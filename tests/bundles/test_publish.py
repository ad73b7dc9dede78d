import itertools
import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event, Lock

import pytest

from bundles.catalog import entries, survey
from bundles.errors import Fenced, InvalidVisualization, StorageError
from bundles.layout import bundle_folder, stored_wheel
from bundles.lock import pylock, requirements
from bundles.manifest import seal, unseal
from bundles.models import Bundle
from bundles.publish import publish
from bundles.reservations import RESERVATIONS
from bundles.sbom import sbom
from bundles.store import ObjectStore
from bundles.verify import verify
from tests.bundles.factory import bundled, charts
from tests.bundles.recording import RecordingStore
from tests.support.wheels import build_wheel, png

IMAGES = ["images/acme_charts/bars.30.png", "images/acme_charts/pie.30.png"]
DOCUMENTS = ["pylock.toml", "requirements.txt", "sbom.cdx.json"]
WRITES = 1 + 3 + len(DOCUMENTS) + len(IMAGES) + 1
"""A reservation, the wheels, everything beside them, and the description."""


def _manifest(store: ObjectStore, bundle: Bundle) -> Bundle:
    path = f"{bundle_folder(bundle)}/bundle.json"
    return unseal(store.read(path), path)


def _bundles(recording: RecordingStore) -> list[str]:
    return [path for path in recording.written if not path.startswith(RESERVATIONS)]


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
    assert store.read(f"{folder}/sbom.cdx.json") == sbom(bundle)
    assert {store.read(f"{folder}/{image}") for image in IMAGES} == {png(height=30)}
    assert _manifest(store, bundle) == publication.bundle
    for wheel in bundle.wheels:
        assert store.read(stored_wheel(wheel)) == (tmp_path / "download" / wheel.filename).read_bytes()
    assert len(list(store.paths(""))) == len(bundle.wheels) + len(DOCUMENTS) + len(IMAGES) + 1
    assert verify(store).issues == ()


def test_the_description_names_every_object_and_how_much_was_new(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path / "download")
    published = publish(local_store, bundle, tmp_path / "download").bundle
    assert [file.path for file in published.files] == sorted([*DOCUMENTS, *IMAGES])
    assert [each.image for each in published.visualizations] == IMAGES
    assert published.uploaded_bytes == bundle.size_bytes
    second = publish(local_store, charts(tmp_path / "two", version="2.0"), tmp_path / "two").bundle
    assert second.uploaded_bytes == second.package.size_bytes


def test_wheels_come_first_and_the_manifest_last(local_store: ObjectStore, tmp_path: Path) -> None:
    recording = RecordingStore(local_store)
    bundle = charts(tmp_path / "download")
    publish(recording, bundle, tmp_path / "download")
    written = _bundles(recording)
    assert all(path.startswith("wheels/") for path in written[:3])
    assert {path.rsplit("/", 1)[1] for path in written[3:6]} == set(DOCUMENTS)
    assert written[-1].endswith("/bundle.json")
    assert len(recording.written) == WRITES


def test_what_a_manifest_names_outlives_a_power_cut_before_it_is_written(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    unsettled: list[set[str]] = []

    def look(path: str) -> None:
        if path.endswith("/bundle.json"):
            unsettled.append(recording.unsettled)

    recording = RecordingStore(local_store, before_write=look)
    bundle = charts(tmp_path / "download")
    publish(recording, bundle, tmp_path / "download")
    assert unsettled == [set()]
    local_store.delete(f"{bundle_folder(bundle)}/{IMAGES[0]}")
    assert publish(recording, bundle, tmp_path / "download").replaced
    assert recording.written[-1].endswith(IMAGES[0])
    assert recording.unsettled == set()


def test_what_an_interrupted_mend_left_outlives_a_power_cut_once_it_is_published_again(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    class Interrupted(RecordingStore):
        def settle(self, folder: str) -> None:
            raise StorageError("write", folder, "the disk is gone")

    bundle = charts(tmp_path / "download")
    publish(local_store, bundle, tmp_path / "download")
    local_store.delete(f"{bundle_folder(bundle)}/{IMAGES[0]}")
    interrupted, recording = Interrupted(local_store), RecordingStore(local_store)
    with pytest.raises(StorageError):
        publish(interrupted, bundle, tmp_path / "download")
    recording.unsettled = interrupted.unsettled
    assert recording.unsettled
    assert publish(recording, bundle, tmp_path / "download").replaced == ()
    assert recording.unsettled == set()


def test_repeating_writes_nothing_and_keeps_the_first_manifest(store: ObjectStore, tmp_path: Path) -> None:
    first = charts(tmp_path / "download")
    published = publish(store, first, tmp_path / "download").bundle
    again = charts(tmp_path / "download")
    recording = RecordingStore(store)
    publication = publish(recording, again, tmp_path / "download")
    assert _bundles(recording) == []
    assert publication.uploaded_bytes == 0
    assert publication.bundle == published


def test_shared_wheels_are_stored_once(store: ObjectStore, tmp_path: Path) -> None:
    publish(store, charts(tmp_path / "one"), tmp_path / "one")
    second = charts(tmp_path / "two", version="2.0")
    publication = publish(store, second, tmp_path / "two")
    assert publication.uploaded_bytes == second.wheels[0].size_bytes
    assert len(list(store.paths("wheels"))) == 4
    assert len(list(entries(store))) == 2


def test_wheel_of_another_size_is_replaced_and_reported(store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path / "download")
    path = stored_wheel(bundle.wheels[1])
    store.put_bytes(path, b"half")
    publication = publish(store, bundle, tmp_path / "download")
    assert publication.replaced == (path,)
    assert store.size(path) == bundle.wheels[1].size_bytes
    assert any(path in warning for warning in _manifest(store, bundle).warnings)


@pytest.mark.parametrize("name", [*DOCUMENTS, IMAGES[0], "bundle.json"])
@pytest.mark.parametrize("damage", ["size", "gone"])
def test_publishing_again_mends_what_was_damaged(
    local_store: ObjectStore, tmp_path: Path, name: str, damage: str
) -> None:
    bundle = charts(tmp_path / "download")
    publish(local_store, bundle, tmp_path / "download")
    path = f"{bundle_folder(bundle)}/{name}"
    if damage == "size":
        local_store.put_bytes(path, b"half")
    else:
        local_store.delete(path)
    publication = publish(local_store, bundle, tmp_path / "download")
    assert publication.replaced == (() if (name, damage) == ("bundle.json", "gone") else (path,))
    assert verify(local_store).issues == ()


def test_a_bundle_of_another_version_of_this_program_is_described_anew(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    """What such a version wrote in another form cannot be mended piece by piece."""
    bundle = charts(tmp_path / "download")
    published = publish(local_store, bundle, tmp_path / "download").bundle
    folder = bundle_folder(bundle)
    changed = [file.model_copy(update={"sha256": "e" * 64}) for file in published.files if file.path == "pylock.toml"]
    others = [file for file in published.files if file.path != "pylock.toml"]
    unknown = others[0].model_copy(update={"path": "readme/with.png"})
    described = published.model_copy(update={"files": (*others, *changed, unknown)})
    local_store.put_bytes(f"{folder}/bundle.json", seal(described))
    publication = publish(local_store, bundle, tmp_path / "download")
    assert f"{folder}/bundle.json" in publication.replaced
    assert verify(local_store).issues == ()


@pytest.mark.parametrize("allowed", range(WRITES))
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
    publication = publish(local_store, bundle, tmp_path / "download")
    assert publication.replaced == ()
    assert verify(local_store).issues == ()


_PUBLISH = """
import itertools, os, signal, sys
from pathlib import Path
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import open_store
from config.settings import StorageSettings
from tests.bundles.recording import RecordingStore

steps = itertools.count()
def die(path):
    if next(steps) >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

store = RecordingStore(open_store(StorageSettings(uri=sys.argv[1])), die)
publish(store, Bundle.model_validate_json(sys.stdin.read()), Path(sys.argv[2]))
"""


def test_a_worker_that_is_killed_at_any_step_leaves_no_half_bundle_and_nothing_in_the_way(tmp_path: Path) -> None:
    from bundles.store import open_store  # noqa: PLC0415
    from config.settings import StorageSettings  # noqa: PLC0415

    download = tmp_path / "download"
    bundle = charts(download)

    def killed(allowed: int) -> None:
        uri = f"file://{tmp_path}/store-{allowed}"
        done = subprocess.run(
            [sys.executable, "-c", _PUBLISH, uri, str(download), str(allowed)],
            input=bundle.model_dump_json(),
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert done.returncode == -9
        (tmp_path / f"store-{allowed}").mkdir(exist_ok=True)  # whoever is killed at once has not made it
        store = open_store(StorageSettings(uri=uri))
        assert survey(store).bundles == ()
        publish(store, bundle, download)
        assert verify(store).issues == ()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(killed, (0, 1, 3, 4, 6, WRITES - 1)))


@pytest.mark.parametrize("allowed", range(WRITES))
def test_fenced_at_any_step_writes_nothing_more(local_store: ObjectStore, tmp_path: Path, allowed: int) -> None:
    bundle = charts(tmp_path / "download")
    recording = RecordingStore(local_store)
    asked = itertools.count()
    with pytest.raises(Fenced):
        publish(recording, bundle, tmp_path / "download", fenced=lambda: next(asked) >= allowed)
    assert len(recording.written) == allowed
    assert list(entries(local_store)) == []
    assert list(local_store.paths(RESERVATIONS)) == []


def _ten_pictures(directory: Path) -> Bundle:
    build_wheel(directory, "acme-charts", visualizations=[f"chart-{number}" for number in range(10)])
    return bundled(directory, "acme-charts")


def test_many_pictures_are_uploaded_together(local_store: ObjectStore, tmp_path: Path) -> None:
    together = Barrier(10)

    def picture(path: str) -> None:
        if path.endswith(".png"):
            together.wait(30)

    publish(RecordingStore(local_store, picture), _ten_pictures(tmp_path / "download"), tmp_path / "download")
    assert verify(local_store).issues == ()


def test_large_pictures_are_uploaded_one_by_one_and_none_after_a_failure(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundles.publish._LARGE_PICTURE_BYTES", 0)
    alone, tried = Lock(), list[str]()
    fails = True

    def picture(path: str) -> None:
        if path.endswith(".png"):
            assert alone.acquire(blocking=False)
            tried.append(path)
            time.sleep(0.05)
            alone.release()
            if fails:
                raise StorageError("write", path, "it is away")

    store, bundle = RecordingStore(local_store, picture), _ten_pictures(tmp_path / "download")
    with pytest.raises(StorageError, match="it is away"):
        publish(store, bundle, tmp_path / "download")
    assert len(tried) == 1
    fails = False
    publish(store, bundle, tmp_path / "download")
    assert len(tried) == 11
    assert verify(local_store).issues == ()


def test_a_small_picture_that_fails_ends_the_lot_of_large_ones(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = _ten_pictures(tmp_path / "download")
    small = bundle.visualizations[-1].image
    monkeypatch.setattr("bundles.publish._lots", lambda _, images: [[e for e in images if e != small], [small]])
    tried: list[str] = []
    begun, failed = Event(), Event()

    def picture(path: str) -> None:
        if path.endswith(".png"):
            tried.append(path)
            if path.endswith(f"/{small}"):
                assert begun.wait(30)
                failed.set()
                raise StorageError("write", path, "it is away")
            begun.set()
            assert failed.wait(30)
            time.sleep(0.3)

    with pytest.raises(StorageError, match="it is away"):
        publish(RecordingStore(local_store, picture), bundle, tmp_path / "download")
    assert len(tried) == 2


def test_all_wheels_are_looked_for_before_any_is_uploaded(local_store: ObjectStore, tmp_path: Path) -> None:
    done: list[str] = []
    store = RecordingStore(local_store, lambda path: done.append(f"put {path}"), before_read=done.append)
    bundle = charts(tmp_path / "download")
    publish(store, bundle, tmp_path / "download")
    wheels = [each for each in done if stored_wheel(bundle.package).partition("/")[0] + "/" in each]
    assert set(wheels[:3]) == set(map(stored_wheel, bundle.wheels))
    assert {each.partition(" ")[0] for each in wheels[3:6]} == {"put"}


def test_two_workers_publish_the_same_bundle_at_once(store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(publish, store, bundle, tmp_path / folder) for folder in ("a", "b")]
        assert len({run.result().uri for run in runs}) == 1
    assert len(list(entries(store))) == 1
    assert len(list(store.paths("wheels"))) == 3


def test_whoever_comes_second_leaves_the_documents_of_the_first(store: ObjectStore, tmp_path: Path) -> None:
    """The same wheels, asked for differently: the bill of materials may differ, and must fit the description."""
    first = charts(tmp_path / "download")
    other = first.model_copy(
        update={"wheels": (*first.wheels[:2], first.wheels[2].model_copy(update={"requires": ()}))}
    )
    assert sbom(other) != sbom(first)

    def overtake(path: str) -> None:
        if path.endswith("/bundle.json"):
            publish(store, first, tmp_path / "download")

    publication = publish(RecordingStore(store, overtake), other, tmp_path / "download")
    assert publication.bundle.wheels == first.wheels
    assert verify(store).issues == ()


def test_many_wheels(local_store: ObjectStore, tmp_path: Path) -> None:
    names = [f"dependency-{number}" for number in range(40)]
    build_wheel(tmp_path / "download", "a", requires=names, visualizations=["bars"])
    for name in names:
        build_wheel(tmp_path / "download", name)
    bundle = bundled(tmp_path / "download", "a")
    assert publish(local_store, bundle, tmp_path / "download").uploaded_bytes == bundle.size_bytes
    assert len(list(local_store.paths("wheels"))) == 41


def test_the_same_wheels_give_the_same_bytes(local_store: ObjectStore, tmp_path: Path) -> None:
    folder = bundle_folder(charts(tmp_path / "a"))
    contents = []
    for place in ("a", "b"):
        publish(local_store, charts(tmp_path / place), tmp_path / place)
        contents.append([local_store.read(f"{folder}/{name}") for name in DOCUMENTS])
        local_store.delete(f"{folder}/bundle.json")
    assert contents[0] == contents[1]


def test_a_manifest_is_plain_json(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = charts(tmp_path / "download")
    publish(local_store, bundle, tmp_path / "download")
    document = json.loads(local_store.read(f"{bundle_folder(bundle)}/bundle.json"))
    assert document["schemaVersion"] == 1
    assert document["uploadedBytes"] == bundle.size_bytes


def test_a_description_that_nobody_would_read_is_not_published(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bundles.publish.MAX_MANIFEST_BYTES", 2**20)
    with pytest.raises(InvalidVisualization, match=r"bundle\.json would have"):
        publish(local_store, charts(tmp_path), tmp_path)
    assert not list(local_store.paths("wheels"))
