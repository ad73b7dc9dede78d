"""From a worker's folder into the store, in an order in which a reader never sees half a bundle."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bundles.errors import Fenced
from bundles.layout import LOCK, MANIFEST, REQUIREMENTS, bundle_folder, stored_wheel
from bundles.lock import pylock, requirements
from bundles.models import Bundle, BundledWheel
from bundles.store import ObjectStore

_UPLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class Publication:
    """What publishing did."""

    uri: str
    """The bundle's folder in the store."""
    uploaded_bytes: int
    """Of wheels that the store lacked."""
    replaced: tuple[str, ...] = ()
    """Wheels that the store had in another size, and has right now."""


def _never() -> bool:
    return False


def publish(store: ObjectStore, bundle: Bundle, directory: Path, *, fenced: Callable[[], bool] = _never) -> Publication:
    """Upload what the store lacks of a bundle whose wheels lie in ``directory``.

    Wheels first, then the locks, then ``bundle.json``, whose presence makes the bundle: one that is there
    already stays as it is. Repeating is harmless and uploads only what is missing. ``fenced`` is asked before
    each object, from several threads; when it says true, nothing more is written and Fenced is raised.
    Raises StorageError.
    """
    with ThreadPoolExecutor(_UPLOADS_AT_ONCE, thread_name_prefix="publish") as pool:
        uploads = [pool.submit(_upload, store, wheel, directory, fenced) for wheel in bundle.wheels]
        try:
            results = [upload.result() for upload in uploads]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    folder = bundle_folder(bundle)
    if store.size(f"{folder}/{MANIFEST}") is None:
        _describe(store, bundle, folder, fenced)
    return _publication(store.uri(folder), bundle.wheels, results)


@dataclass(frozen=True)
class _Upload:
    """What happened to one wheel."""

    uploaded_bytes: int = 0
    replaced: bool = False


def _upload(store: ObjectStore, wheel: BundledWheel, directory: Path, fenced: Callable[[], bool]) -> _Upload:
    path = stored_wheel(wheel)
    present_bytes = store.size(path)
    if present_bytes == wheel.size_bytes:
        return _Upload()
    _stop_if(fenced)
    store.put_file(path, directory / wheel.filename)
    return _Upload(wheel.size_bytes, replaced=present_bytes is not None)


def _describe(store: ObjectStore, bundle: Bundle, folder: str, fenced: Callable[[], bool]) -> None:
    documents = ((LOCK, pylock(bundle)), (REQUIREMENTS, requirements(bundle)), (MANIFEST, bundle.to_json()))
    for name, content in documents:
        _stop_if(fenced)
        store.put_bytes(f"{folder}/{name}", content)


def _stop_if(fenced: Callable[[], bool]) -> None:
    if fenced():
        raise Fenced


def _publication(uri: str, wheels: Sequence[BundledWheel], uploads: Sequence[_Upload]) -> Publication:
    replaced = (wheel.filename for wheel, upload in zip(wheels, uploads, strict=True) if upload.replaced)
    return Publication(uri, sum(upload.uploaded_bytes for upload in uploads), tuple(replaced))
