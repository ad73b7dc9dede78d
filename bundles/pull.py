"""A published bundle as a folder, or one file, that installs without any index and without the store."""

import shutil
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bundles.catalog import find
from bundles.digest import bundle_id, file_digest
from bundles.errors import BrokenBundle, HashMismatch
from bundles.layout import LOCK, MANIFEST, REQUIREMENTS, bundle_folder, portable_wheel, stored_wheel
from bundles.lock import pylock, requirements
from bundles.models import Bundle, BundledWheel
from bundles.store import ObjectStore

_DOWNLOADS_AT_ONCE = 4
_ZIP_STAMP = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format knows: the same bundle gives the same file."""


def pull(
    store: ObjectStore,
    name: str,
    version: str | None,
    directory: Path,
    *,
    zip: bool = False,  # noqa: A002 - the command line's word
) -> list[Path]:
    """Write the bundle that ``catalog.find`` finds into ``directory`` and return the files that make it up.

    That is ``wheels/``, ``pylock.toml``, ``requirements.txt`` and ``bundle.json``, or with ``zip`` one file
    ``NAME-VERSION-ID.zip`` with the same in it. Every wheel is verified by its sha256. After an interruption,
    repeat: files that are there and right are kept, and nothing is there under its final name that is not.

    Raises NotPublished, HashMismatch, BrokenBundle or StorageError, and OSError of the disk.
    """
    bundle = find(store, name, version)
    # The id is a digest of names, hashes and target: a manifest that was tampered with does not have it.
    if bundle.id != bundle_id(bundle.wheels, bundle.target):
        raise BrokenBundle(f"{bundle_folder(bundle)}/{MANIFEST}", ["its wheels are not those of its id"])
    if not zip:
        return _write_folder(store, bundle, directory)
    label = f"{bundle.name}-{bundle.version}-{bundle.id}"
    unpacked = directory / f".{label}.partial"
    files = _write_folder(store, bundle, unpacked)
    archive = directory / f"{label}.zip"
    _write_zip(archive, unpacked, files)
    shutil.rmtree(unpacked)
    return [archive]


def _write_folder(store: ObjectStore, bundle: Bundle, directory: Path) -> list[Path]:
    (directory / "wheels").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="pull") as pool:
        fetched = [pool.submit(_fetch, store, wheel, directory) for wheel in bundle.wheels]
        try:
            wheels = [each.result() for each in fetched]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    # Made from the verified manifest, not copied: the store's own lock has other paths, and need not be trusted.
    documents = {
        LOCK: pylock(bundle, portable_wheel),
        REQUIREMENTS: requirements(bundle),
        MANIFEST: bundle.to_json(),
    }
    for document, content in documents.items():
        _replace(directory / document, content)
    return [*wheels, *(directory / document for document in documents)]


def _fetch(store: ObjectStore, wheel: BundledWheel, directory: Path) -> Path:
    target = directory / portable_wheel(wheel)
    if target.is_file() and file_digest(target) == wheel.sha256:
        return target
    partial = target.with_name(f".{target.name}.partial")
    try:
        store.fetch(stored_wheel(wheel), partial)
    except FileNotFoundError as error:
        raise BrokenBundle(stored_wheel(wheel), ["the wheel is missing from the store"]) from error
    if (actual := file_digest(partial)) != wheel.sha256:
        partial.unlink()
        raise HashMismatch(wheel.filename, wheel.sha256, actual)
    return partial.replace(target)


def _replace(file: Path, content: bytes) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_bytes(content)
    partial.replace(file)


def _write_zip(archive: Path, root: Path, files: Iterable[Path]) -> None:
    partial = archive.with_name(f".{archive.name}.partial")
    with zipfile.ZipFile(partial, "w") as output:
        for file in sorted(files):
            info = zipfile.ZipInfo(file.relative_to(root).as_posix(), _ZIP_STAMP)
            info.external_attr = 0o100644 << 16
            info.file_size = file.stat().st_size
            # Wheels are compressed already: stored, at the speed of the disk.
            with file.open("rb") as source, output.open(info, "w") as target:
                shutil.copyfileobj(source, target, 2**20)
    partial.replace(archive)
