import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundles.errors import BrokenBundle, FolderTaken, HashMismatch, NotPublished, StorageError
from bundles.layout import bundle_folder, stored_wheel
from bundles.manifest import unseal
from bundles.models import Bundle
from bundles.publish import publish
from bundles.pull import pull
from bundles.store import ObjectStore
from tests.bundles.factory import charts
from tests.bundles.recording import RecordingStore

FILES = {
    "bundle.json",
    "images/acme_charts/bars.30.png",
    "images/acme_charts/pie.30.png",
    "pylock.toml",
    "requirements.txt",
    "sbom.cdx.json",
    "wheels/acme_charts-1.0-py3-none-any.whl",
    "wheels/acme_core-0.1+local.1-cp311-cp311-manylinux_2_17_x86_64.whl",
    "wheels/acme_data-1.5-py3-none-any.whl",
}


def _published(store: ObjectStore, tmp_path: Path) -> Bundle:
    bundle = charts(tmp_path / "download")
    return publish(store, bundle, tmp_path / "download").bundle


def _relative(directory: Path) -> set[str]:
    return {str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file()}


def _install(lock: Path, site: Path) -> None:
    pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "install", "--no-index"]
    subprocess.run([*pip, "--target", site, "-r", lock], env={"HOME": str(site)}, check=True, capture_output=True)


def test_folder_has_everything_and_installs(store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(store, tmp_path)
    out = tmp_path / "out"
    written = pull(store, "Acme.Charts", None, out)
    assert {str(file.relative_to(out)) for file in written} == FILES == _relative(out)
    assert unseal((out / "bundle.json").read_bytes(), "bundle.json") == bundle
    _install(out / "pylock.toml", tmp_path / "site")
    assert (tmp_path / "site/acme_charts/bars.ipynb").exists()


def test_zip_has_everything_and_installs(store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(store, tmp_path)
    out = tmp_path / "out"
    [archive] = pull(store, "acme-charts", "1.0", out, zip=True)
    assert archive == out / f"acme-charts-1.0-{bundle.id}.zip"
    assert _relative(out) == {archive.name}
    with zipfile.ZipFile(archive) as packed:
        assert set(packed.namelist()) == FILES
        assert packed.testzip() is None
        packed.extractall(tmp_path / "unpacked")
    _install(tmp_path / "unpacked/pylock.toml", tmp_path / "site")
    first = archive.read_bytes()
    pull(store, "acme-charts", "1.0", out, zip=True)
    assert archive.read_bytes() == first


def test_what_is_there_and_right_is_kept_and_the_rest_replaced(store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(store, tmp_path)
    out = tmp_path / "out"
    pull(store, "acme-charts", None, out)
    kept, wrong, gone = (out / "wheels" / wheel.filename for wheel in bundle.wheels)
    os.utime(kept, (1, 1))
    wrong.write_bytes(b"half of it")
    gone.unlink()
    (out / "wheels" / f".{gone.name}.{bundle.wheels[2].sha256[:16]}.partial").write_bytes(
        b"left over from an interruption"
    )
    assert {str(file.relative_to(out)) for file in pull(store, "acme-charts", None, out)} == FILES == _relative(out)
    assert kept.stat().st_mtime == 1
    assert wrong.stat().st_size == bundle.wheels[1].size_bytes


def test_not_published(local_store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(NotPublished, match="nothing==1"):
        pull(local_store, "nothing", "1", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_changed_byte_in_a_wheel_is_named_and_leaves_nothing(store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(store, tmp_path)
    path = stored_wheel(bundle.wheels[2])
    content = bytearray(store.read(path))
    content[len(content) // 2] ^= 1
    store.put_bytes(path, bytes(content))
    with pytest.raises(HashMismatch, match=r"acme_data-1\.5") as caught:
        pull(store, "acme-charts", None, tmp_path / "out")
    assert caught.value.expected == bundle.wheels[2].sha256
    assert not any("acme_data" in name for name in _relative(tmp_path / "out"))


def test_missing_wheel_is_named(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(local_store, tmp_path)
    local_store.delete(stored_wheel(bundle.wheels[0]))
    with pytest.raises(BrokenBundle, match=r"acme_charts-1\.0.*missing from the store"):
        pull(local_store, "acme-charts", None, tmp_path / "out")


@pytest.mark.parametrize("name", ["pylock.toml", "requirements.txt", "sbom.cdx.json", "images/acme_charts/pie.30.png"])
@pytest.mark.parametrize("damage", ["changed", "gone"])
def test_damage_of_a_document_is_named_and_leaves_nothing(
    local_store: ObjectStore, tmp_path: Path, name: str, damage: str
) -> None:
    bundle = _published(local_store, tmp_path)
    path = f"{bundle_folder(bundle)}/{name}"
    if damage == "gone":
        local_store.delete(path)
    else:
        content = bytearray(local_store.read(path))
        content[-3] ^= 1
        local_store.put_bytes(path, bytes(content))
    with pytest.raises(BrokenBundle) as caught:
        pull(local_store, "acme-charts", None, tmp_path / "out")
    assert caught.value.path == path
    assert not (tmp_path / "out" / name).exists()


def test_every_changed_byte_of_the_description_is_noticed(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(local_store, tmp_path)
    path = f"{bundle_folder(bundle)}/bundle.json"
    content = local_store.read(path)
    for place in [*range(0, len(content), 37), len(content) - 5]:
        changed = bytearray(content)
        changed[place] ^= 1
        local_store.put_bytes(path, bytes(changed))
        with pytest.raises(BrokenBundle) as caught:
            pull(local_store, "acme-charts", None, tmp_path / "out")
        assert caught.value.path == path


def test_a_wheel_that_is_there_in_part_is_continued(store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(store, tmp_path)
    wheel = bundle.wheels[0]
    content = store.read(stored_wheel(wheel))
    out = tmp_path / "out"
    (out / "wheels").mkdir(parents=True)
    partial = out / "wheels" / f".{wheel.filename}.{wheel.sha256[:16]}.partial"
    partial.write_bytes(content[:-100])
    asked: list[str] = []
    pull(RecordingStore(store, before_range=asked.append), "acme-charts", None, out)
    assert f"{stored_wheel(wheel)} from {len(content) - 100}" in asked
    assert (out / "wheels" / wheel.filename).read_bytes() == content
    assert _relative(out) == FILES


@pytest.mark.parametrize("left", [b"other bytes", b"x" * 100_000])
def test_a_part_that_does_not_fit_is_fetched_anew(local_store: ObjectStore, tmp_path: Path, left: bytes) -> None:
    bundle = _published(local_store, tmp_path)
    wheel = bundle.wheels[0]
    out = tmp_path / "out"
    (out / "wheels").mkdir(parents=True)
    (out / "wheels" / f".{wheel.filename}.{wheel.sha256[:16]}.partial").write_bytes(left)
    pull(local_store, "acme-charts", None, out)
    assert _relative(out) == FILES


def test_a_wheel_of_another_size_is_named_before_it_is_fetched(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle = _published(local_store, tmp_path)
    local_store.put_bytes(stored_wheel(bundle.wheels[0]), b"short")
    with pytest.raises(BrokenBundle, match="has 5 bytes and not"):
        pull(local_store, "acme-charts", None, tmp_path / "out")


@pytest.mark.parametrize("error", [StorageError("read", "x", "the connection was lost"), KeyboardInterrupt()])
def test_interrupted_zip_is_resumed(local_store: ObjectStore, tmp_path: Path, error: BaseException) -> None:
    bundle = _published(local_store, tmp_path)
    out, last = tmp_path / "out", stored_wheel(bundle.wheels[2])

    def stop(path: str) -> None:
        if path == last:
            raise error

    with pytest.raises(type(error)):
        pull(RecordingStore(local_store, before_read=stop), "acme-charts", None, out, zip=True)
    assert not list(out.glob("*.zip"))
    local_store.delete(stored_wheel(bundle.wheels[0]))  # it was fetched before, and is not needed again
    [archive] = pull(local_store, "acme-charts", None, out, zip=True)
    assert list(out.iterdir()) == [archive]


@pytest.mark.parametrize("present", [True, False])
def test_a_zip_that_cannot_be_made_leaves_nothing(local_store: ObjectStore, tmp_path: Path, present: bool) -> None:  # noqa: FBT001 - a table's column
    bundle = _published(local_store, tmp_path)
    local_store.delete(stored_wheel(bundle.wheels[2]))
    out = tmp_path / "out"
    if present:
        out.mkdir()
    with pytest.raises(BrokenBundle):
        pull(local_store, "acme-charts", None, out / "below", zip=True)
    assert list(tmp_path.glob("out/*")) == []
    assert out.exists() == present


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_wheel_that_is_broken_leaves_no_part_of_it(local_store: ObjectStore, tmp_path: Path, damage: str) -> None:
    bundle = _published(local_store, tmp_path)
    path = stored_wheel(bundle.wheels[0])
    content = local_store.read(path)
    local_store.delete(path)
    if damage == "changed":
        local_store.put_bytes(path, content[:-1] + b"x")
    with pytest.raises((BrokenBundle, HashMismatch)):
        pull(local_store, "acme-charts", None, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.partial"))


@pytest.mark.parametrize("name", ["", "/", "..", "acme-charts/1.0", "a\0b", "\x1b[31m"])
def test_what_is_no_name_is_not_published(local_store: ObjectStore, tmp_path: Path, name: str) -> None:
    _published(local_store, tmp_path)
    with pytest.raises(NotPublished) as caught:
        pull(local_store, name, None, tmp_path / "out")
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("version", ["1.0.0.0.1", "abc", "../1.0", "1" * 5000])
def test_what_is_no_version_is_not_published(local_store: ObjectStore, tmp_path: Path, version: str) -> None:
    _published(local_store, tmp_path)
    with pytest.raises(NotPublished):
        pull(local_store, "acme-charts", version, tmp_path / "out")


def test_where_nothing_is_published_at_all_it_says_so(local_store: ObjectStore, tmp_path: Path) -> None:
    local_store.put_bytes("elsewhere/x", b"1")
    with pytest.raises(NotPublished, match="nothing at all is, in file://"):
        pull(local_store, "acme-charts", None, tmp_path / "out")


def test_a_link_in_the_way_is_not_followed(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle, pulled, mine = _published(local_store, tmp_path), tmp_path / "pulled", tmp_path / "mine"
    mine.write_bytes(b"mine")
    (pulled / "wheels").mkdir(parents=True)
    wheel = bundle.package
    (pulled / ".bundle.json.partial").symlink_to(mine)
    (pulled / "wheels" / f".{wheel.filename}.{wheel.sha256[:16]}.partial").symlink_to(mine)
    pull(local_store, bundle.name, None, pulled)
    assert mine.read_bytes() == b"mine"
    assert not (pulled / "wheels" / wheel.filename).is_symlink()


@pytest.mark.parametrize("name", ["wheels", "images", "images/acme_charts"])
def test_a_folder_that_is_a_link_is_not_followed(local_store: ObjectStore, tmp_path: Path, name: str) -> None:
    bundle, pulled, mine = _published(local_store, tmp_path), tmp_path / "pulled", tmp_path / "mine"
    mine.mkdir()
    (pulled / name).parent.mkdir(parents=True)
    (pulled / name).symlink_to(mine)
    with pytest.raises(NotADirectoryError, match="is a link, which is not followed") as caught:
        pull(local_store, bundle.name, None, pulled)
    assert caught.value.filename == str(pulled / name)
    assert list(mine.iterdir()) == []


def test_a_wheel_that_is_a_link_is_replaced_by_itself(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle, pulled = _published(local_store, tmp_path), tmp_path / "pulled"
    (pulled / "wheels").mkdir(parents=True)
    wheel = pulled / "wheels" / bundle.package.filename
    wheel.symlink_to(tmp_path / "download" / wheel.name)
    pull(local_store, bundle.name, None, pulled)
    assert not wheel.is_symlink()


def test_links_in_the_way_of_a_zip_are_not_followed(local_store: ObjectStore, tmp_path: Path) -> None:
    bundle, out, mine = _published(local_store, tmp_path), tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    out.mkdir()
    (out / f".{bundle.name}-{bundle.version}-{bundle.id}.partial").symlink_to(mine)
    [archive] = pull(local_store, bundle.name, None, out, zip=True)
    assert _relative(out) == {archive.name}
    assert mine.is_dir()
    assert list(mine.iterdir()) == []


@pytest.mark.parametrize("as_zip", [False, True])
def test_of_two_pulls_into_one_folder_the_second_is_refused_and_harms_nothing(
    local_store: ObjectStore,
    tmp_path: Path,
    as_zip: bool,  # noqa: FBT001 - a table's column
) -> None:
    bundle, out = _published(local_store, tmp_path), tmp_path / "out"
    refused: list[FolderTaken] = []

    def meanwhile(path: str) -> None:
        if path == stored_wheel(bundle.package):
            with pytest.raises(FolderTaken, match="wait for its end") as caught:
                pull(local_store, bundle.name, None, out, zip=as_zip)
            refused.append(caught.value)

    written = pull(
        RecordingStore(local_store, before_range=lambda each: meanwhile(each.split(" from ")[0])),
        bundle.name,
        None,
        out,
        zip=as_zip,
    )
    assert len(refused) == 1
    assert _relative(out) == ({written[0].name} if as_zip else FILES)
    pull(local_store, bundle.name, None, out, zip=as_zip)


@pytest.mark.parametrize("kind", ["sbom.cdx.json", "images/acme_charts/pie.30.png", "wheel"])
def test_of_an_object_that_grew_no_more_than_a_part_is_written(
    local_store: ObjectStore, tmp_path: Path, kind: str
) -> None:
    bundle, out = _published(local_store, tmp_path), tmp_path / "out"
    grown = stored_wheel(bundle.package) if kind == "wheel" else f"{bundle_folder(bundle)}/{kind}"
    read: list[int] = []

    class Endless(RecordingStore):
        def size(self, path: str) -> int | None:
            return bundle.package.size_bytes if path == stored_wheel(bundle.package) else super().size(path)

        def chunks(self, path: str, *, offset_bytes: int = 0) -> Iterator[bytes]:
            return self._endless() if path == grown else super().chunks(path, offset_bytes=offset_bytes)

        def _endless(self) -> Iterator[bytes]:
            while True:
                read.append(1)
                yield b"x" * 2**20

    with pytest.raises((BrokenBundle, HashMismatch)):
        pull(Endless(local_store), bundle.name, None, out)
    assert len(read) <= 2
    assert not list(out.rglob("*.partial"))
