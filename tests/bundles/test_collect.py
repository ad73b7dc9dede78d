import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from bundles import reservations
from bundles.catalog import survey
from bundles.collect import Collection, Rules, collect
from bundles.errors import Fenced, StorageError
from bundles.layout import bundle_folder, stored_wheel
from bundles.models import Bundle
from bundles.publish import publish
from bundles.reservations import RESERVATIONS, SWEEPS, reserved, sweeping
from bundles.store import ObjectStore, open_store
from bundles.verify import verify
from config.settings import StorageSettings, Target
from tests.bundles.factory import bundled, charts
from tests.bundles.recording import RecordingStore
from tests.support.wheels import build_wheel

NOW = datetime.now(UTC)
_KEEP_ONE = Rules(keep=1)
LATER = timedelta(hours=2)
"""Beyond the grace for wheels that nobody names."""


def _publish(store: ObjectStore, tmp_path: Path, version: str, *, age: timedelta = timedelta()) -> Bundle:
    bundle = charts(tmp_path / version, version=version)
    return publish(store, bundle.model_copy(update={"created_at": NOW - age}), tmp_path / version).bundle


def _versions(store: ObjectStore) -> list[str]:
    return [bundle.version for bundle in survey(store).bundles]


def _collect(store: ObjectStore, rules: Rules, *, dry_run: bool = False, now: datetime | None = None) -> Collection:
    return collect(store, rules, now=now or datetime.now(UTC), dry_run=dry_run)


def test_without_rules_all_bundles_stay(store: ObjectStore, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        _publish(store, tmp_path, version, age=timedelta(days=900))
    before = sorted(store.paths(""))
    assert _collect(store, Rules(), now=datetime.now(UTC) + LATER).objects == ()
    assert sorted(store.paths("")) == before


def test_old_versions_go_with_what_only_they_need(store: ObjectStore, tmp_path: Path) -> None:
    bundles = {version: _publish(store, tmp_path, version) for version in ("1.9", "1.10", "1.8")}
    done = _collect(store, Rules(keep=2))
    assert [bundle.version for bundle in done.bundles] == ["1.8"]
    assert _versions(store) == ["1.10", "1.9"]
    assert verify(store).issues == ()
    gone = bundles["1.8"]
    own = [f"{bundle_folder(gone)}/{name}" for name in ("bundle.json", *(file.path for file in gone.files))]
    assert set(done.objects) == {*own, stored_wheel(gone.package)}
    assert done.freed_bytes >= gone.package.size_bytes
    assert list(store.paths(SWEEPS)) == []


def test_packages_and_targets_are_counted_apart(local_store: ObjectStore, tmp_path: Path) -> None:
    _publish(local_store, tmp_path, "1.0")
    _publish(local_store, tmp_path, "2.0")
    other_target = bundled(tmp_path / "1.0", "acme-charts", target=Target(glibc="2.39"))
    publish(local_store, other_target, tmp_path / "1.0")
    build_wheel(tmp_path / "other", "other", visualizations=["bars"])
    publish(local_store, bundled(tmp_path / "other", "other"), tmp_path / "other")
    done = _collect(local_store, Rules(keep=1))
    assert [(each.version, each.target.glibc) for each in done.bundles] == [("1.0", "2.35")]
    assert stored_wheel(other_target.package) in set(local_store.paths("wheels"))
    assert verify(local_store).issues == ()


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (Rules(older_than=timedelta(days=90)), ["4.0", "2.0"]),
        (Rules(keep=3, older_than=timedelta(days=90)), ["4.0", "3.0", "2.0"]),
        (Rules(keep=1, older_than=timedelta(days=9)), ["4.0"]),
        (Rules(older_than=timedelta(days=500)), ["4.0", "3.0", "2.0", "1.0"]),
        (Rules(keep=9), ["4.0", "3.0", "2.0", "1.0"]),
    ],
)
def test_the_newest_version_is_never_too_old_and_rules_work_together(
    local_store: ObjectStore, tmp_path: Path, rules: Rules, left: list[str]
) -> None:
    for version, days in (("1.0", 300), ("2.0", 10), ("3.0", 100), ("4.0", 200)):
        _publish(local_store, tmp_path, version, age=timedelta(days=days))
    _collect(local_store, rules)
    assert _versions(local_store) == left
    assert verify(local_store).issues == ()


def test_a_dry_run_tells_the_same_and_changes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        _publish(store, tmp_path, version)
    recording = RecordingStore(store)
    planned = _collect(recording, Rules(keep=1), dry_run=True)
    assert (recording.written, recording.deleted) == ([], [])
    assert _collect(store, Rules(keep=1)) == planned


def test_wheels_that_nobody_names_go_when_they_are_old_enough(store: ObjectStore) -> None:
    orphan = f"wheels/{'a' * 64}/a-1.0-py3-none-any.whl"
    store.put_bytes(orphan, b"1")
    assert _collect(store, Rules()).objects == ()
    assert _collect(store, Rules(grace=timedelta())).objects in {(), (orphan,)}  # clocks tell seconds
    store.put_bytes(orphan, b"1")
    assert _collect(store, Rules(), now=datetime.now(UTC) + LATER).objects == (orphan,)
    assert list(store.paths("")) == []


def test_what_killed_publishers_left_goes_when_it_is_old_enough(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = _publish(local_store, tmp_path, "1.0")
    local_store.delete(f"{bundle_folder(bundle)}/bundle.json")
    root = Path(local_store.uri("").removeprefix("file://"))
    (root / "wheels" / "half.whl#3").write_bytes(b"half")
    local_store.put_bytes(f"{RESERVATIONS}/dead.json", b'{"schemaVersion": 1, "paths": []}')
    local_store.put_bytes(f"{SWEEPS}/dead.json", b'{"schemaVersion": 1, "paths": []}')
    assert _collect(local_store, Rules()).objects == ()
    _collect(local_store, Rules(), now=datetime.now(UTC) + timedelta(days=2))
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_while_a_bundle_cannot_be_read_no_wheel_goes(local_store: ObjectStore, tmp_path: Path) -> None:
    for version in ("1.0", "2.0", "3.0"):
        bundle = _publish(local_store, tmp_path, version)
    local_store.put_bytes(f"{bundle_folder(bundle)}/bundle.json", b"{}")
    wheels = set(local_store.paths("wheels"))
    done = _collect(local_store, Rules(keep=1), now=datetime.now(UTC) + LATER)
    assert [each.version for each in done.bundles] == ["1.0"]
    assert [error.path for error in done.broken] == [f"{bundle_folder(bundle)}/bundle.json"]
    assert set(local_store.paths("wheels")) == wheels


def test_interrupted_at_any_step_it_can_be_repeated(local_store: ObjectStore, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        _publish(local_store, tmp_path, version)
    steps = count()

    def die(path: str) -> None:
        if next(steps) == 3:
            raise StorageError("delete", path, "the connection was lost")

    with pytest.raises(StorageError, match="connection was lost"):
        _collect(RecordingStore(local_store, before_delete=die), Rules(keep=1))
    assert _versions(local_store) == ["2.0"]
    assert list(local_store.paths(SWEEPS)) == []
    _collect(local_store, Rules(keep=1), now=datetime.now(UTC) + LATER)
    assert verify(local_store).issues == ()
    assert len(list(local_store.paths("wheels"))) == 3


def test_when_time_runs_out_it_stops_and_says_so(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1.0", "2.0"):
        _publish(local_store, tmp_path, version)
    monkeypatch.setattr(reservations, "SWEEP_SECONDS", -1.0)
    done = _collect(local_store, Rules(keep=1))
    assert (done.unfinished, done.bundles, done.objects) == (True, (), ())
    monkeypatch.undo()
    assert not _collect(local_store, Rules(keep=1)).unfinished


# ---- beside publishers: a bundle that reuses a wheel which is about to be removed


def _scene(store: ObjectStore, tmp_path: Path) -> Callable[[ObjectStore], Bundle]:
    """Publish versions 1.0 and 2.0, of which 1.0 is to go, and return what publishes 1.0 for another target.

    All wheels of that one are in the store already, one of them only for the sake of the bundle that is to go.
    """
    for version in ("1.0", "2.0"):
        _publish(store, tmp_path, version)
    again = bundled(tmp_path / "1.0", "acme-charts", target=Target(glibc="2.39"))
    return lambda used: publish(used, again, tmp_path / "1.0").bundle


def _at_step(number: int, act: Callable[[], object]) -> Callable[[str], None]:
    """Return a hook that acts once, at its Nth call."""
    calls = count()
    lock = threading.Lock()

    def hook(_: str) -> None:
        with lock:
            mine = next(calls) == number
        if mine:
            act()

    return hook


def _watched(store: ObjectStore, hook: Callable[[str], None]) -> RecordingStore:
    return RecordingStore(store, hook, before_read=hook, before_delete=hook)


def _steps(run: Callable[[ObjectStore], object], store: ObjectStore) -> int:
    """Return how many calls of the store a run makes."""
    calls = count()
    run(_watched(store, lambda _: [next(calls)].clear()))
    return next(calls)


def _stores(tmp_path_factory: pytest.TempPathFactory, number: int) -> list[ObjectStore]:
    return [open_store(StorageSettings(uri=f"file://{tmp_path_factory.mktemp('store')}")) for _ in range(number)]


def test_a_collection_at_any_step_of_a_publication_breaks_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [trial] = _stores(tmp_path_factory, 1)
    steps = _steps(_scene(trial, tmp_path), trial)
    assert steps > 10
    for number, store in enumerate(_stores(tmp_path_factory, steps)):
        publication = _scene(store, tmp_path)
        made = publication(_watched(store, _at_step(number, partial(_collect, store, Rules(keep=1)))))
        assert made in survey(store).bundles, f"step {number}"
        assert verify(store).issues == (), f"step {number}"
        assert "1.0" not in [each.version for each in survey(store).bundles if each.target == Target()]


def test_a_publication_at_any_step_of_a_collection_breaks_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [trial] = _stores(tmp_path_factory, 1)
    _scene(trial, tmp_path)
    steps = _steps(lambda store: _collect(store, Rules(keep=1)), trial)
    assert steps > 10
    for number, store in enumerate(_stores(tmp_path_factory, steps)):
        publication = _scene(store, tmp_path)
        with ThreadPoolExecutor(1) as beside:
            running: list[Future[Bundle]] = []
            _collect(_watched(store, _at_step(number, partial(_begin, beside, publication, store, running))), _KEEP_ONE)
            made = running[0].result(20)
        assert made in survey(store).bundles, f"step {number}"
        assert verify(store).issues == (), f"step {number}"


def _begin(
    beside: ThreadPoolExecutor,
    publication: Callable[[ObjectStore], Bundle],
    store: ObjectStore,
    running: list[Future[Bundle]],
) -> None:
    running.append(beside.submit(publication, store))
    # It ends now, or it has seen that it has to wait until the collection ends.
    wait(running, timeout=0.03)


def test_a_publication_that_ends_at_any_step_of_a_collection_is_seen(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It has found its wheels before the collection began, and it is not there any more when that looks for it."""
    [trial] = _stores(tmp_path_factory, 1)
    _scene(trial, tmp_path)
    steps = _steps(lambda store: _collect(store, _KEEP_ONE), trial)
    for number, store in enumerate(_stores(tmp_path_factory, steps)):
        publication = _scene(store, tmp_path)
        go_on, stopped = threading.Event(), threading.Event()

        def stop(path: str, go_on: threading.Event = go_on, stopped: threading.Event = stopped) -> None:
            if path.endswith("/bundle.json"):
                stopped.set()
                assert go_on.wait(20)

        with ThreadPoolExecutor(1) as beside:
            running = beside.submit(publication, RecordingStore(store, stop))
            assert stopped.wait(20)
            _collect(_watched(store, _at_step(number, partial(_end, go_on, running))), _KEEP_ONE)
            made = running.result(20)
        assert made in survey(store).bundles, f"step {number}"
        assert verify(store).issues == (), f"step {number}"


def _end(go_on: threading.Event, running: Future[Bundle]) -> None:
    go_on.set()
    running.result(20)


def test_many_at_once_break_nothing(store: ObjectStore, tmp_path: Path) -> None:
    """Publishers and collectors side by side, in whatever order they come."""
    bundles = [charts(tmp_path / f"{number}.0", version=f"{number}.0") for number in range(6)]

    def publish_one(number: int) -> Bundle:
        return publish(store, bundles[number % 6], tmp_path / f"{number % 6}.0").bundle

    with ThreadPoolExecutor(6) as pool:
        collections = [pool.submit(_collect, store, Rules(keep=2)) for _ in range(4)]
        publications = [pool.submit(publish_one, number) for number in range(18)]
        collections += [pool.submit(_collect, store, Rules(keep=2)) for _ in range(4)]
        for collection in collections:
            collection.result(60)
        for publication in publications:
            publication.result(60)
    assert verify(store).issues == ()
    assert list(store.paths(SWEEPS)) == list(store.paths(RESERVATIONS)) == []
    _collect(store, Rules(keep=2), now=datetime.now(UTC) + LATER)
    assert len(_versions(store)) == 2
    assert len(list(store.paths("wheels"))) == 4


def test_a_publisher_waits_for_a_collector_that_deletes_its_wheels_and_for_no_other(
    local_store: ObjectStore, tmp_path: Path
) -> None:
    bundle = charts(tmp_path)
    wheel = stored_wheel(bundle.wheels[0])
    with ThreadPoolExecutor(1) as beside:
        with sweeping(local_store, ["wheels/other.whl"]):
            publish(local_store, bundle, tmp_path)
        with sweeping(local_store, [wheel]):
            running = beside.submit(publish, local_store, bundle, tmp_path)
            threading.Event().wait(0.3)
            assert not running.done()
            local_store.delete(wheel)
        assert running.result(10).uploaded_bytes == bundle.wheels[0].size_bytes


def test_a_collector_that_died_holds_nobody_up_for_ever(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = charts(tmp_path)
    local_store.put_bytes(
        f"{SWEEPS}/dead.json", reservations.Claim(paths=(stored_wheel(bundle.wheels[0]),)).model_dump_json().encode()
    )
    monkeypatch.setattr(reservations, "ABANDONED_SECONDS", 0.1)
    publish(local_store, bundle, tmp_path)
    assert list(local_store.paths(SWEEPS)) == []


def test_who_waits_can_be_fenced(local_store: ObjectStore) -> None:
    asked = count()
    with (
        sweeping(local_store, ["wheels/x"]),
        pytest.raises(Fenced),
        reserved(local_store, ["wheels/x"], lambda: next(asked) > 2),
    ):
        raise AssertionError("it must not get here")
    assert list(local_store.paths(RESERVATIONS)) == []


def test_a_claim_that_cannot_be_understood_stops_whoever_needs_it(local_store: ObjectStore, tmp_path: Path) -> None:
    for version in ("1.0", "2.0"):
        _publish(local_store, tmp_path, version)
    local_store.put_bytes(f"{RESERVATIONS}/future.json", b'{"schemaVersion": 2}')
    with pytest.raises(StorageError, match=r"publishing/future\.json"):
        _collect(local_store, Rules(keep=1))
    assert _versions(local_store) == ["2.0", "1.0"]
    assert verify(local_store).issues == ()
