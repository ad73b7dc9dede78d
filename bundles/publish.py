"""From a worker's folder into the store, in an order in which a reader never sees half a bundle."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar
from zipfile import ZipFile

from bundles.catalog import Entry, read
from bundles.digest import stream_digest
from bundles.errors import BrokenBundle, Fenced, InvalidVisualization
from bundles.layout import (
    LOCK,
    MANIFEST,
    REQUIREMENTS,
    SBOM,
    bundle_folder,
    image_in_wheel,
    stored_wheel,
)
from bundles.lock import pylock, requirements
from bundles.manifest import MAX_MANIFEST_BYTES, seal
from bundles.models import Bundle, BundledFile, BundledWheel
from bundles.reservations import reserved
from bundles.sbom import sbom
from bundles.store import ObjectStore
from bundles.uploads import Others, upload

_WHEELS_AT_ONCE = 4
_LARGE_BYTES = 10 * 2**20
"""Larger wheels go one after the other, each in parts of which a few are in memory at once: it stays below 64 MiB."""
_SMALL_AT_ONCE = 16
"""Looks at objects, documents and pictures: they are many, and nearly all of their time is the store's answer."""
_LARGE_PICTURE_BYTES = 2**20
"""Larger ones go one after the other: a picture is in memory as a whole."""
_DOCUMENTS: Mapping[str, Callable[[Bundle], bytes]] = {LOCK: pylock, REQUIREMENTS: requirements, SBOM: sbom}
_OTHERS_BYTES = 2**20
"""For what is added to a bundle's description while it is published: the files beside it, and warnings."""
_T = TypeVar("_T")
_R = TypeVar("_R")


@dataclass(frozen=True)
class Publication:
    """What publishing did."""

    uri: str
    """The bundle's folder in the store."""
    bundle: Bundle
    """As it stands in the store now, also when it was there before."""
    uploaded_bytes: int
    """Of wheels that the store lacked."""
    replaced: tuple[str, ...] = ()
    """Objects that were in the store with another size or content, and are right now."""


def _never() -> bool:
    return False


def publish(store: ObjectStore, bundle: Bundle, directory: Path, *, fenced: Callable[[], bool] = _never) -> Publication:
    """Upload what the store lacks of a bundle whose wheels lie in ``directory``.

    Wheels first, then the locks, the bill of materials and the pictures, then ``bundle.json``, whose presence makes
    the bundle: one that is there already and sound stays as it is. Repeating is harmless, uploads only what is
    missing, and mends what is there with another size. Safe beside other publishers, of which only one uploads what
    several need, and beside ``collect``. ``fenced``
    is asked before each object, from several threads; when it says true, nothing more is written and Fenced is
    raised. Raises StorageError, and InvalidVisualization when nobody would read so long a description.
    """
    if (size_bytes := len(seal(bundle)) + _OTHERS_BYTES) > MAX_MANIFEST_BYTES:
        raise InvalidVisualization([f"bundle.json would have {size_bytes} bytes, more than {MAX_MANIFEST_BYTES}"])
    paths = [bundle_folder(bundle), *map(stored_wheel, bundle.wheels)]
    with (
        reserved(store, paths, fenced),
        ThreadPoolExecutor(_WHEELS_AT_ONCE, thread_name_prefix="publish-wheels") as wheels,
        ThreadPoolExecutor(_SMALL_AT_ONCE, thread_name_prefix="publish") as small,
    ):
        return _Publisher(store, bundle, directory, fenced, wheels, small).run()


class _Publisher:
    """One publication."""

    def __init__(
        self,
        store: ObjectStore,
        bundle: Bundle,
        directory: Path,
        fenced: Callable[[], bool],
        wheels: ThreadPoolExecutor,
        small: ThreadPoolExecutor,
    ) -> None:
        self._store = store
        self._bundle = bundle
        self._directory = directory
        self._fenced = fenced
        self._wheels = wheels
        self._small = small
        self._folder = bundle_folder(bundle)
        self._replaced: list[str] = []
        self._large = Lock()

    def run(self) -> Publication:
        # The large ones last: they wait for each other, and should keep no thread from the others.
        wheels = sorted(self._bundle.wheels, key=lambda wheel: wheel.size_bytes)
        uploaded_bytes = self._upload_all(wheels)
        existing = self._existing()
        published = self._describe(uploaded_bytes) if existing is None else self._mend(existing, uploaded_bytes)
        return Publication(self._store.uri(self._folder), published, uploaded_bytes, tuple(sorted(self._replaced)))

    def _upload_all(self, wheels: Sequence[BundledWheel]) -> int:
        """Upload what the store lacks, last what others are uploading, and return how many bytes that took."""
        left = {stored_wheel(wheel): wheel for wheel in wheels}
        others = Others(self._store, self._fenced)
        uploaded_bytes = 0
        ready = frozenset(left)
        while left:
            lacking = self._lacking([left.pop(path) for path in list(left) if path in ready])
            for (wheel, _), took_bytes in zip(lacking, _each(self._wheels, self._upload, lacking), strict=True):
                if took_bytes is None:
                    left[stored_wheel(wheel)] = wheel
                uploaded_bytes += took_bytes or 0
            ready = others.wait(frozenset(left)) if left else ready
        return uploaded_bytes

    def _lacking(self, wheels: Sequence[BundledWheel]) -> list[tuple[BundledWheel, int | None]]:
        """Return those that the store does not have as they are, each with the bytes of what it has instead, if any."""
        sizes = zip(wheels, _each(self._small, self._store.size, map(stored_wheel, wheels)), strict=True)
        return [(wheel, present_bytes) for wheel, present_bytes in sizes if present_bytes != wheel.size_bytes]

    def _upload(self, lacking: tuple[BundledWheel, int | None]) -> int | None:
        """Upload a wheel that is lacking, and return how many bytes that took; None: another is just at it."""
        wheel, present_bytes = lacking
        path = stored_wheel(wheel)
        with self._large if wheel.size_bytes > _LARGE_BYTES else nullcontext():
            self._stop_if_fenced()
            done = upload(self._store, path, self._directory / wheel.filename, present_bytes=present_bytes)
        if not done:
            return None if done is None else 0
        if present_bytes is not None:
            self._replaced.append(path)
        return wheel.size_bytes

    def _existing(self) -> Bundle | None:
        """Return the bundle as it was published before; a ``bundle.json`` that cannot be used counts as none."""
        path = f"{self._folder}/{MANIFEST}"
        try:
            return read(self._store, Entry(self._bundle.name, self._bundle.version, self._bundle.id))
        except FileNotFoundError:
            return None
        except BrokenBundle:
            self._replaced.append(path)
            return None

    def _describe(self, uploaded_bytes: int) -> Bundle:
        """Write everything beside the wheels, ``bundle.json`` last, and return the bundle as it is published."""
        documents = {path: write(self._bundle) for path, write in _DOCUMENTS.items()}
        files = [*self._put_documents(documents), *self._put_images()]
        warnings = (f"{path} was in the store with other content, and was replaced" for path in self._replaced)
        bundle = self._bundle.model_copy(
            update={
                "files": tuple(sorted(files, key=lambda file: file.path)),
                "uploaded_bytes": uploaded_bytes,
                "warnings": (*self._bundle.warnings, *warnings),
            }
        )
        self._store.settle(self._folder)
        self._stop_if_fenced()
        path = f"{self._folder}/{MANIFEST}"
        if path in self._replaced:
            self._store.put_bytes(path, seal(bundle))
        elif not self._store.put_new(path, seal(bundle)):
            # Somebody else was quicker, or an answer to us was lost: what is there counts.
            existing = self._existing()
            return self._describe(uploaded_bytes) if existing is None else self._mend(existing, uploaded_bytes)
        return bundle

    def _put_documents(self, documents: Mapping[str, bytes]) -> Iterable[BundledFile]:
        return _each(self._small, lambda item: self._put(*item), documents.items())

    def _put_images(self) -> Iterable[BundledFile]:
        """Upload the pictures that the store lacks."""
        present = {each.path: each.size_bytes for each in self._store.objects(self._folder)}
        with ZipFile(self._directory / self._bundle.package.filename) as wheel:
            put = partial(self._put_lot, wheel, present=present, failed=Event())
            return list(chain.from_iterable(_each(self._small, put, _lots(wheel, self._images))))

    @property
    def _images(self) -> list[str]:
        return sorted({each.image for each in self._bundle.visualizations if each.image is not None})

    def _put_lot(
        self, wheel: ZipFile, images: Iterable[str], present: Mapping[str, int], failed: Event
    ) -> list[BundledFile]:
        """Upload pictures one after the other, no further one once any lot has ``failed``."""
        try:
            return [self._put_image(wheel, image, present) for image in images if not failed.is_set()]
        except BaseException:
            failed.set()
            raise

    def _put_image(self, wheel: ZipFile, image: str, present: Mapping[str, int]) -> BundledFile:
        content = wheel.read(image_in_wheel(image))
        present_bytes = present.get(f"{self._folder}/{image}")
        if present_bytes == len(content):
            return _file(image, content)
        if present_bytes is not None:
            self._replaced.append(f"{self._folder}/{image}")
        return self._put(image, content)

    def _put(self, name: str, content: bytes) -> BundledFile:
        self._stop_if_fenced()
        self._store.put_bytes(f"{self._folder}/{name}", content, settled=False)
        return _file(name, content)

    def _mend(self, existing: Bundle, uploaded_bytes: int) -> Bundle:
        """Write again what is not as the published ``bundle.json`` says; return the bundle that is published then."""
        sizes = {each.path: each.size_bytes for each in self._store.objects(self._folder)}
        with ZipFile(self._directory / self._bundle.package.filename) as wheel:
            for file in existing.files:
                path = f"{self._folder}/{file.path}"
                if self._is_right(path, file, sizes, read=file.path in _DOCUMENTS):
                    continue
                self._replaced.append(path)
                write = _DOCUMENTS.get(file.path)
                content = _image(wheel, file.path) if write is None else write(existing)
                if content is None or _file(file.path, content) != file:
                    # Written by another version of vizfetch: all of it anew, since the parts would not fit.
                    self._replaced.append(f"{self._folder}/{MANIFEST}")
                    return self._describe(uploaded_bytes)
                self._put(file.path, content)
        self._store.settle(self._folder)  # also what one who was interrupted had mended, or had published
        return existing

    def _is_right(self, path: str, file: BundledFile, sizes: Mapping[str, int], *, read: bool) -> bool:
        """Tell whether an object is as it should be; the small documents are read, of the others the size counts."""
        if sizes.get(path) != file.size_bytes:
            return False
        return not read or stream_digest(self._store.chunks(path)) == (file.sha256, file.size_bytes)

    def _stop_if_fenced(self) -> None:
        if self._fenced():
            raise Fenced


def _lots(wheel: ZipFile, images: Sequence[str]) -> list[list[str]]:
    """Divide pictures into those that are uploaded side by side, and one lot of all that are too large for that."""
    sizes = {image: wheel.getinfo(image_in_wheel(image)).file_size for image in images}
    large = [image for image in images if sizes[image] > _LARGE_PICTURE_BYTES]
    return [large, *([image] for image in images if sizes[image] <= _LARGE_PICTURE_BYTES)]


def _each(pool: ThreadPoolExecutor, work: Callable[[_T], _R], items: Iterable[_T]) -> list[_R]:
    """Do the work for all items, several at once; after a failure no further one is begun."""
    running = [pool.submit(work, item) for item in items]
    try:
        for each in wait(running, return_when=FIRST_EXCEPTION).done:
            each.result()
        return [each.result() for each in running]
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise


def _image(wheel: ZipFile, path: str) -> bytes | None:
    try:
        return wheel.read(image_in_wheel(path))
    except KeyError:
        return None


def _file(path: str, content: bytes) -> BundledFile:
    return BundledFile(path=path, sha256=sha256(content).hexdigest(), size_bytes=len(content))
