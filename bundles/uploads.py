"""How several publishers that need the same wheel at the same moment upload it once, with nothing but the store.

A small wheel is written on the condition that it is not there: of several writers one succeeds. A larger one is claimed
first, by a small object that only one writer can make, and that its owner renews while the upload goes on. Whoever
comes second does its other work, then waits until the wheel is there. A claim that is gone, or is not renewed any more
since its owner died, is for the next one to take. Nothing but bytes depends on any of it: two that upload the same
wheel nevertheless write the same.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from bundles.errors import Fenced, StorageError
from bundles.reservations import RESERVATIONS, Claim
from bundles.store import ObjectStore

CLAIMED_BYTES = 2**20
"""Larger wheels are claimed; smaller ones cost less than a claim."""
CLAIMS = f"{RESERVATIONS}/wheels"
"""Below the reservations: so a collector spares what is claimed, and removes claims that were left behind."""
RENEW_SECONDS = 3.0
STALE_SECONDS = 10.0
"""A claim that was not renewed for so long belongs to a publisher that died."""
_LOOK_EVERY_SECONDS = 0.25


def upload(store: ObjectStore, path: str, file: Path, *, present_bytes: int | None) -> bool | None:
    """Store the wheel ``file`` under ``path``, where an object of ``present_bytes`` is now, if any.

    True: it was uploaded. False: somebody else has uploaded it meanwhile. None: somebody else does so just now, see
    ``Others``. Raises StorageError.
    """
    size_bytes = file.stat().st_size
    if size_bytes <= CLAIMED_BYTES and present_bytes is None:
        return store.put_new(path, file.read_bytes())
    claim, content = _claim(path), Claim(paths=(path,)).model_dump_json().encode()
    if not store.put_new(claim, content):
        return None
    try:
        # Its last owner may have ended between the caller's look and the claim.
        if store.size(path) == size_bytes:
            return False
        _put(store, path, file, lambda: store.put_bytes(claim, content))
    finally:
        # What stays behind grows stale; it must not hide what happened.
        with suppress(StorageError):
            store.delete(claim)
    return True


def _claim(path: str) -> str:
    _, sha256, _ = path.split("/")
    return f"{CLAIMS}/{sha256}.json"


def _put(store: ObjectStore, path: str, file: Path, renew: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1, thread_name_prefix="upload") as thread:
        running = thread.submit(store.put_file, path, file)
        while wait([running], RENEW_SECONDS).not_done:
            with suppress(StorageError):
                renew()
        running.result()


class Others:
    """Waits for uploads that other publishers have claimed."""

    def __init__(self, store: ObjectStore, fenced: Callable[[], bool]) -> None:
        self._store = store
        self._fenced = fenced
        self._seen: dict[str, tuple[datetime, float]] = {}

    def wait(self, paths: frozenset[str]) -> frozenset[str]:
        """Return those of ``paths``, one at least, that nobody uploads any more: they are there, or free to be claimed.

        Raises Fenced when the right to publish is lost meanwhile, and StorageError.
        """
        while True:
            if self._fenced():
                raise Fenced
            renewed = {each.path: each.modified for each in self._store.objects(RESERVATIONS)}
            stale = {path for path in paths if self._is_stale(_claim(path), renewed)}
            for path in stale:
                self._store.delete(_claim(path))
            if free := frozenset(path for path in paths if path in stale or _claim(path) not in renewed):
                return free
            time.sleep(_LOOK_EVERY_SECONDS)

    def _is_stale(self, claim: str, renewed: Mapping[str, datetime]) -> bool:
        """Tell whether a claim's owner is dead: by the store's clock, or when nothing changes while this one waits."""
        if claim not in renewed:
            return False
        # Our own reservation is among them, and was written just now.
        if max(renewed.values()) - renewed[claim] > timedelta(seconds=STALE_SECONDS):
            return True
        modified, since = self._seen.setdefault(claim, (renewed[claim], time.monotonic()))
        if modified != renewed[claim]:
            del self._seen[claim]
            return False
        return time.monotonic() - since > STALE_SECONDS
