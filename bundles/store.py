"""Where bundles are kept: one interface over a folder, and over S3 through obstore."""

from __future__ import annotations  # obstore's typed dictionaries exist for type checkers only

import os
import re
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    GenericError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import S3Store

from bundles.errors import StorageError, printable
from bundles.folder import FolderStore
from bundles.objects import StoredObject
from config.settings import StorageSettings

if TYPE_CHECKING:
    from obstore import GetOptions
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

__all__ = ["ObjectStore", "StoredObject", "open_store"]

_PART_BYTES = 5 * 2**20
"""S3 takes no smaller part (except the last); a file up to this size goes in one request."""
_PARTS_AT_ONCE = 1
"""For each file: measured with a wheel of 1 GB, two take 57 MB of memory and one 37, in the same time."""
_READ_BYTES = 2**20
_STRAY = "Encountered object with invalid path"
"""What obstore says of a key such as ``bundles//x``, or one with a control character, which has to be shown."""


@dataclass(frozen=True)
class Patience:
    """How long an S3 server is waited for."""

    client: ClientConfig
    retries: RetryConfig


WORKING = Patience(
    {
        "connect_timeout": timedelta(seconds=10),
        "read_timeout": timedelta(seconds=60),
        # The default of 30 s is for a whole answer, too little for one large wheel.
        "timeout": timedelta(minutes=15),
    },
    {
        "max_retries": 5,
        "retry_timeout": timedelta(seconds=60),
        "backoff": {
            "init_backoff": timedelta(milliseconds=200),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    },
)
"""For whoever has time."""
ANSWERING = Patience(
    {
        "connect_timeout": timedelta(seconds=3),
        "read_timeout": timedelta(seconds=5),
        "timeout": timedelta(minutes=15),
    },
    # Again after what fails at once, such as a connection that was reset; not after silence.
    {"max_retries": 2, "retry_timeout": timedelta(seconds=3)},
)
"""For whoever answers somebody who waits."""
PROBE_CONNECT_SECONDS = 3.0
PROBE_ANSWER_SECONDS = 6.0
PROBING = Patience(
    {
        "connect_timeout": timedelta(seconds=PROBE_CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=PROBE_ANSWER_SECONDS),
        "timeout": timedelta(seconds=PROBE_ANSWER_SECONDS),
    },
    # A server that is being started, or is busy, is asked once more.
    {"max_retries": 1, "retry_timeout": timedelta(seconds=PROBE_CONNECT_SECONDS)},
)
"""For whoever only wants to know whether it is there."""


class ObjectStore(Protocol):
    """Objects by path: relative, with ``/`` between the parts, below the settings' ``storage.uri``.

    A write is atomic: the object is there whole or not at all, and replaces what was there. All methods may
    be called from several threads. None may be called in a process that was forked from one in which any of
    them was called before; opening is harmless there. All raise StorageError when the store fails.
    """

    def size(self, path: str) -> int | None:
        """Return the object's size in bytes, or None when there is no such object."""

    def put_file(self, path: str, file: Path) -> None:
        """Store a file's content, in parts, so that memory stays bounded."""

    def put_bytes(self, path: str, data: bytes, *, settled: bool = True) -> None:
        """Store a small object; one that is not ``settled`` may be lost in a power cut until its folder is."""

    def settle(self, folder: str) -> None:
        """Have all that is in a folder, and below, outlive a power cut, whoever wrote it. Repeating is harmless."""

    def put_new(self, path: str, data: bytes) -> bool:
        """Store a small object unless there is one; False means that there is one, perhaps by an earlier try of ours.

        Of several at once, one succeeds. Only a store that knows no conditional writes replaces what is there.
        """

    def read(self, path: str) -> bytes:
        """Return a small object's content. Raises FileNotFoundError when there is none."""

    def chunks(self, path: str, *, offset_bytes: int = 0) -> Iterator[bytes]:
        """Yield an object's content from ``offset_bytes``, which must be less than its size unless it is 0.

        Raises FileNotFoundError, with the first chunk, when there is no such object.
        """

    def paths(self, prefix: str) -> Iterator[str]:
        """Yield the paths of all objects in the folder ``prefix`` and below, in no particular order."""

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        """Yield all objects in the folder ``prefix`` and below, in no particular order.

        Raises StorageError also when the store itself is not there.
        """

    def unfinished(self) -> Iterator[StoredObject]:
        """Yield what writers left that were killed in the middle; to everybody else it is not there.

        It may also belong to a write that goes on just now. Parts of uploads to S3 are not seen: they are for a
        rule of the bucket (AbortIncompleteMultipartUpload).
        """

    def delete(self, path: str) -> None:
        """Remove an object, or something unfinished; harmless when there is none."""

    def uri(self, path: str) -> str:
        """Return the absolute address of an object or folder, for people and for other tools."""


def open_store(
    settings: StorageSettings, *, authorities: bytes | None = None, patience: Patience = WORKING
) -> ObjectStore:
    """Open the store of the settings; nothing is asked of it yet, and nothing is created.

    ``authorities`` are certificates (PEM) to trust besides the system's; by default those of the settings'
    ``ca_bundle``. Without an access key in the settings, the profile is used, or else what the environment or
    the instance's role offers. Raises StorageError.
    """
    address = urlsplit(settings.uri)
    base_uri = settings.uri.rstrip("/")
    try:
        if address.scheme == "s3":
            trusted = authorities if authorities is not None else _authorities(settings.ca_bundle)
            return _ObstoreStore(_s3(address, settings, trusted, patience), base_uri)
        return FolderStore(Path(unquote(address.path)), base_uri)
    except (BaseError, OSError, ValueError) as error:
        raise StorageError("open", settings.uri, _reason(error)) from error


def _authorities(ca_bundle: Path | None) -> bytes | None:
    """Read a file of certificates, or all files of a directory, as OpenSSL does with its ``CApath``."""
    if ca_bundle is None:
        return None
    try:
        inside = [file for file in sorted(ca_bundle.iterdir()) if file.is_file()] if ca_bundle.is_dir() else [ca_bundle]
        content = b"\n".join(file.read_bytes() for file in inside)
    except OSError as error:
        raise ValueError(f"the certificates in {ca_bundle} cannot be read ({error.strerror})") from error
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise ValueError(f"{ca_bundle} holds no certificates in the form of PEM")
    return content


def _s3(address: SplitResult, settings: StorageSettings, authorities: bytes | None, patience: Patience) -> S3Store:
    endpoint = settings.endpoint_url
    client: ClientConfig = {**patience.client, "allow_invalid_certificates": settings.skip_ssl}
    client["allow_http"] = endpoint is not None and endpoint.lower().startswith("http://")
    if authorities is not None:
        client["root_certificate"] = authorities
    provider, profile_region = _credentials(settings)
    config: S3Config = {}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if (region := settings.region or profile_region) is not None:
        config["region"] = region
    return S3Store(
        address.netloc,
        prefix=unquote(address.path).strip("/") or None,
        config=config,
        client_options=client,
        retry_config=patience.retries,
        credential_provider=provider,
    )


def _credentials(settings: StorageSettings) -> tuple[Callable[[], S3Credential] | None, str | None]:
    """Return what yields the credentials (None: the environment or the instance's role), and a region."""
    if settings.access_key is not None and settings.secret_key is not None:
        access, secret = settings.access_key.get_secret_value(), settings.secret_key.get_secret_value()
        # A provider, since plain keys would be mixed with a session token found in the environment.
        return _constant(access, secret, None), None
    if settings.profile is not None:
        return _profile(settings.profile)
    return None, None


def _constant(access_key: str, secret_key: str, token: str | None) -> Callable[[], S3Credential]:
    def credential() -> S3Credential:
        return {
            "access_key_id": access_key,
            "secret_access_key": secret_key,
            "token": token,
            "expires_at": None,
        }

    return credential


def _profile(name: str) -> tuple[Callable[[], S3Credential], str | None]:
    """Read a profile's keys and region from the files that AWS tools share."""
    folder = Path.home() / ".aws"
    files = ConfigParser(interpolation=None)
    files.read(
        [
            os.environ.get("AWS_CONFIG_FILE", folder / "config"),
            os.environ.get("AWS_SHARED_CREDENTIALS_FILE", folder / "credentials"),
        ],
        encoding="utf-8",
    )
    # The one file says [profile NAME], the other [NAME]; [default] is the same in both.
    values = {key: value for head in (f"profile {name}", name) if head in files for key, value in files[head].items()}
    try:
        access, secret = values["aws_access_key_id"], values["aws_secret_access_key"]
    except KeyError:
        raise ValueError(
            f"the profile {name!r} has no access key and secret key in ~/.aws; profiles that sign in "
            "elsewhere are not supported: give the keys, or leave all of them out on a machine with a role"
        ) from None
    return _constant(access, secret, values.get("aws_session_token")), values.get("region")


class _Runtime:
    """obstore's worker threads start with the first call and do not survive a fork: the child would wait for ever."""

    owner: int | None = None

    @classmethod
    def enter(cls) -> None:
        if cls.owner is None:
            cls.owner = os.getpid()
        if cls.owner != os.getpid():
            raise RuntimeError("a store was used before this process was forked; use stores only afterwards")


class _ObstoreStore:
    """An ObjectStore over one of obstore's."""

    def __init__(self, inner: S3Store, base_uri: str) -> None:
        self._inner = inner
        self._base_uri = base_uri

    def size(self, path: str) -> int | None:
        try:
            with _translated("look at", path):
                return int(obstore.head(self._inner, path)["size"])
        except FileNotFoundError:
            return None

    def put_file(self, path: str, file: Path) -> None:
        with _translated("write", path):
            obstore.put(self._inner, path, file, chunk_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)

    def put_bytes(self, path: str, data: bytes, *, settled: bool = True) -> None:  # noqa: ARG002 - it always is
        with _translated("write", path):
            obstore.put(self._inner, path, data, use_multipart=False)

    def settle(self, folder: str) -> None:
        """Do nothing: S3 keeps what it has accepted."""

    def put_new(self, path: str, data: bytes) -> bool:
        try:
            with _translated("write", path):
                try:
                    obstore.put(self._inner, path, data, use_multipart=False, mode="create")
                except (NotSupportedError, GenericError) as error:
                    if not (isinstance(error, NotSupportedError) or "<Code>NotImplemented</Code>" in str(error)):
                        raise
                    obstore.put(self._inner, path, data, use_multipart=False)
        except FileExistsError:
            return False
        return True

    def read(self, path: str) -> bytes:
        with _translated("read", path):
            return bytes(obstore.get(self._inner, path).bytes())

    def chunks(self, path: str, *, offset_bytes: int = 0) -> Iterator[bytes]:
        options: GetOptions = {"range": {"offset": offset_bytes}} if offset_bytes else {}
        with _translated("read", path):
            stream = obstore.get(self._inner, path, options=options).stream(min_chunk_size=_READ_BYTES)
        while True:
            # Only the store's side is translated, not what the reader does with a chunk.
            with _translated("read", path):
                chunk = next(stream, None)
            if chunk is None:
                return
            yield bytes(chunk)

    def paths(self, prefix: str) -> Iterator[str]:
        return (found.path for found in self.objects(prefix))

    def objects(self, prefix: str) -> Iterator[StoredObject]:
        with _translated("list", prefix):
            for batch in obstore.list(self._inner, prefix or None):
                for found in batch:
                    yield StoredObject(found["path"], found["size"], found["last_modified"])

    def unfinished(self) -> Iterator[StoredObject]:
        return iter(())

    def delete(self, path: str) -> None:
        try:
            with _translated("delete", path):
                obstore.delete(self._inner, path)
        except FileNotFoundError:
            return

    def uri(self, path: str) -> str:
        return f"{self._base_uri}/{path}"


@contextmanager
def _translated(operation: str, path: str) -> Iterator[None]:
    _Runtime.enter()
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the store has no {path}") from error
    except AlreadyExistsError as error:
        raise FileExistsError(f"the store has a {path} already") from error
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(operation, path, _reason(error)) from error


def _reason(error: Exception) -> str:
    """Return the cause in one line, without what a server may echo of the request (such as an access key)."""
    text = str(error)
    if _STRAY in text:
        # obstore lists nothing beside it.
        told = printable(text.partition("\n\nDebug source")[0][:300])
        return f"{told}. vizfetch writes no such object: remove it from the bucket"
    code = re.search(r"<Code>(\w+)</Code>", text)
    if isinstance(error, PermissionDeniedError | UnauthenticatedError):
        detail = f" ({code[1]})" if code else ""
        return f"permission denied{detail}; check the access key, the secret key and the bucket's policy"
    if code:
        return f"the server answered {code[1]}"
    return re.split(r"\n|<\?xml", text, maxsplit=1)[0].strip()[:300]
