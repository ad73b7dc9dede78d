"""What several publishers need at the same moment is uploaded once."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bundles import uploads
from bundles.collect import Rules, collect
from bundles.errors import Fenced, StorageError
from bundles.layout import stored_wheel
from bundles.models import Bundle
from bundles.publish import publish
from bundles.reservations import RESERVATIONS, Claim, reservations
from bundles.store import ObjectStore
from bundles.verify import verify
from tests.bundles.factory import bundled
from tests.bundles.recording import RecordingStore
from tests.support.wheels import build_wheel

LARGE = 2 * uploads.CLAIMED_BYTES


def _versions(directory: Path, number: int, sizes: list[int]) -> list[tuple[Bundle, Path]]:
    """Make versions of one package that share their dependencies, of these sizes."""
    names = [f"dependency-{place}" for place in range(len(sizes))]
    for name, size_bytes in zip(names, sizes, strict=True):
        build_wheel(directory / "shared", name, files={"data.bin": os.urandom(size_bytes)})
    made = []
    for version in range(1, number + 1):
        folder = directory / f"version-{version}"
        shutil.copytree(directory / "shared", folder)
        build_wheel(folder, "a", f"{version}.0", requires=names, visualizations=["bars"])
        made.append((bundled(folder, "a"), folder))
    return made


def _claim(bundle: Bundle) -> str:
    wheel = max(bundle.wheels, key=lambda wheel: wheel.size_bytes)
    return f"{uploads.CLAIMS}/{wheel.sha256}.json"


def _put_claim(store: ObjectStore, bundle: Bundle) -> None:
    wheel = max(bundle.wheels, key=lambda wheel: wheel.size_bytes)
    store.put_bytes(_claim(bundle), Claim(paths=(stored_wheel(wheel),)).model_dump_json().encode())


def test_uploaded_bytes_are_the_distinct_bytes_that_the_store_lacked(store: ObjectStore, tmp_path: Path) -> None:
    made = _versions(tmp_path, 3, [LARGE, 6 * LARGE, 1000, 12 * LARGE, 100_000, LARGE])
    distinct_bytes = sum({wheel.sha256: wheel.size_bytes for each, _ in made for wheel in each.wheels}.values())
    recordings = [RecordingStore(store) for _ in made]
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda recording, each: publish(recording, *each), recordings, made))
    assert sum(each.uploaded_bytes for each in done) == distinct_bytes
    assert sum(each.bundle.uploaded_bytes for each in done) == distinct_bytes
    large = {stored_wheel(wheel) for each, _ in made for wheel in each.wheels if wheel.size_bytes > LARGE}
    assert sorted(path for each in recordings for path in each.written if path in large) == sorted(large)
    assert verify(store).issues == ()
    assert list(store.paths(RESERVATIONS)) == []


def test_nothing_is_asked_more_for_wheels_that_are_there(local_store: ObjectStore, tmp_path: Path) -> None:
    [first] = _versions(tmp_path, 1, [LARGE, 1000])
    publish(local_store, *first)
    looks: list[str] = []
    recording = RecordingStore(local_store, before_read=looks.append)
    assert publish(recording, *first).uploaded_bytes == 0
    assert not any("/wheels/" in path for path in recording.written)
    assert sorted(path for path in looks if path.startswith("wheels/")) == sorted(
        stored_wheel(wheel) for wheel in first[0].wheels
    )


def test_a_claim_that_its_owner_renews_is_waited_for(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(uploads, "STALE_SECONDS", 1.0)
    one, other = _versions(tmp_path, 2, [LARGE])
    begun = threading.Event()

    def slow(path: str) -> None:
        if path.startswith("wheels/") and "dependency" in path:
            begun.set()
            time.sleep(2.5)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(publish, RecordingStore(local_store, slow), *one)
        assert begun.wait(10)
        second = publish(local_store, *other)
        assert second.uploaded_bytes == second.bundle.package.size_bytes
        assert first.result().uploaded_bytes == one[0].size_bytes


def test_what_an_owner_fails_to_upload_the_next_one_does(local_store: ObjectStore, tmp_path: Path) -> None:
    one, other = _versions(tmp_path, 2, [LARGE])
    begun = threading.Event()

    def fail(path: str) -> None:
        if path.startswith("wheels/") and "dependency" in path:
            begun.set()
            time.sleep(0.5)
            raise StorageError("write", path, "the connection was lost")

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(publish, RecordingStore(local_store, fail), *one)
        assert begun.wait(10)
        assert publish(local_store, *other).uploaded_bytes >= LARGE
        with pytest.raises(StorageError):
            first.result()
    assert list(local_store.paths(RESERVATIONS)) == []


def test_a_dead_owners_claim_is_taken_when_it_is_not_renewed(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "STALE_SECONDS", 1.0)
    [(bundle, folder)] = _versions(tmp_path, 1, [LARGE])
    _put_claim(store, bundle)
    begin = time.monotonic()
    assert publish(store, bundle, folder).uploaded_bytes == bundle.size_bytes
    assert time.monotonic() - begin < 10
    assert verify(store).issues == ()
    assert list(store.paths(RESERVATIONS)) == []


def test_an_old_claim_is_taken_at_once(local_store: ObjectStore, tmp_path: Path) -> None:
    [(bundle, folder)] = _versions(tmp_path, 1, [LARGE])
    _put_claim(local_store, bundle)
    file = Path(local_store.uri(_claim(bundle)).removeprefix("file://"))
    old = time.time() - uploads.STALE_SECONDS - 5
    os.utime(file, (old, old))
    begin = time.monotonic()
    assert publish(local_store, bundle, folder).uploaded_bytes == bundle.size_bytes
    assert time.monotonic() - begin < uploads.STALE_SECONDS / 2


def test_whoever_is_fenced_waits_no_longer(local_store: ObjectStore, tmp_path: Path) -> None:
    [(bundle, folder)] = _versions(tmp_path, 1, [LARGE])
    _put_claim(local_store, bundle)
    end = time.monotonic() + 1
    with pytest.raises(Fenced):
        publish(local_store, bundle, folder, fenced=lambda: time.monotonic() > end)
    assert local_store.size(_claim(bundle)) is not None


def test_a_wheel_that_another_uploads_between_look_and_claim_is_not_uploaded_again(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    one, other = _versions(tmp_path, 2, [LARGE])

    def overtake(path: str) -> None:
        if path.startswith(uploads.CLAIMS):
            publish(local_store, *other)

    done = publish(RecordingStore(local_store, overtake), *one)
    assert done.uploaded_bytes == done.bundle.package.size_bytes


def test_a_collector_spares_what_is_claimed_and_forgets_old_claims(local_store: ObjectStore, tmp_path: Path) -> None:
    [(bundle, _)] = _versions(tmp_path, 1, [LARGE])
    _put_claim(local_store, bundle)
    now = datetime.now(UTC)
    wheel = max(bundle.wheels, key=lambda wheel: wheel.size_bytes)
    assert reservations(local_store, now) == {stored_wheel(wheel)}
    file = Path(local_store.uri(_claim(bundle)).removeprefix("file://"))
    os.utime(file, (now.timestamp() - 2 * 86_400,) * 2)
    assert collect(local_store, Rules(), now=now).objects == (_claim(bundle),)
