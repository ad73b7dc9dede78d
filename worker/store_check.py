"""Whether the store can be used: an object can be written, read and deleted under its prefix."""

import multiprocessing
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from bundles.errors import StorageError
from bundles.store import PROBING, open_store
from config.settings import StorageSettings
from worker.findings import Finding, holds, unreachable, wrong

LIMIT_SECONDS = 7.0
"""For all three operations together, as long as Redis is waited for: with a slower store nobody could work."""

_OURS = "moderne.agent.visualization"


@contextmanager
def store_look(settings: StorageSettings) -> Iterator[Callable[[], Finding]]:
    """Look at the store in a process of its own, and yield what waits for the finding.

    A process that has used a store cannot pass stores on to the workers it forks (``bundles.store``). It can also be
    ended when the store's client goes on trying.
    """
    until = time.monotonic() + LIMIT_SECONDS
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_tell, args=(theirs, settings), daemon=True)
    process.start()
    theirs.close()
    try:
        yield lambda: _heard(ours, until, settings)
    finally:
        process.kill()
        process.join()
        ours.close()


def _tell(conversation: Connection, settings: StorageSettings) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    conversation.send(look_at_store(settings))


def _heard(conversation: Connection, until: float, settings: StorageSettings) -> Finding:
    if conversation.poll(max(0.0, until - time.monotonic())):
        try:
            finding: Finding = conversation.recv()
        except EOFError:
            return unreachable("store", "the look at it broke off", "Look above for what it said.")
        return finding
    found = f"{settings.uri} did not answer within {LIMIT_SECONDS:g} s"
    return unreachable("store", found, _reach(settings), step="answer")


def look_at_store(settings: StorageSettings) -> Finding:
    """Write, read and delete a small object under the prefix, and tell how that went."""
    path, content = f"check/{secrets.token_hex(8)}", b"made by vizfetch to see whether this store can be used"
    try:
        store = open_store(settings, patience=PROBING)
        store.put_bytes(path, content)
        try:
            same = store.read(path) == content
        finally:
            store.delete(path)
    except StorageError as error:
        return failure(settings, error)
    except FileNotFoundError:
        same = False
    if not same:
        advice = f"Check {_OURS}.storage.uri, and that nothing else changes objects there."
        return wrong("store", f"{settings.uri} gave back something else than was written", advice, step="read")
    return holds("store", f"{settings.uri} can be written and read")


def failure(settings: StorageSettings, error: StorageError) -> Finding:
    """Return the finding for an error of the store."""
    found, step = f"{settings.uri} cannot be used: {error.reason}", error.operation
    if settings.uri.startswith("file:"):
        advice = f"Make the directory writable for this user, or set {_OURS}.storage.uri to another."
        return wrong("store", found, advice, step=step)
    if "certificate" in error.reason and error.operation == "open":
        return wrong(
            "store", found, "Name a file of certificates (PEM) in REQUESTS_CA_BUNDLE or SSL_CERT_FILE.", step="TLS"
        )
    if "permission denied" in error.reason:
        keys = f"Check {_OURS}.storage.accessKey and {_OURS}.storage.secretKey, or {_OURS}.storage.profile"
        return wrong("store", found, f"{keys}, and what they may do in the bucket.", step=step)
    if "NoSuchBucket" in error.reason:
        return wrong("store", found, f"Make the bucket, or check {_OURS}.storage.uri.", step=step)
    return unreachable("store", found, _reach(settings), step=step)


def _reach(settings: StorageSettings) -> str:
    where = f"{_OURS}.storage.endpointUrl" if settings.endpoint_url else f"{_OURS}.storage.region"
    return (
        f"Check {where} and {_OURS}.storage.uri, and that the store can be reached from here. "
        "A certificate's authority is trusted when REQUESTS_CA_BUNDLE names its file; "
        f"{_OURS}.storage.skipSsl=true accepts any certificate."
    )
