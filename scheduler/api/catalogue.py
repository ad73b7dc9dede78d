"""What is published: bundles and their files.

Files pass through this service. Addresses that S3 signs would be quicker, but they name the store as the service
reaches it, which callers often cannot, and they work for whoever has them.
"""

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Path, Query
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from starlette.responses import StreamingResponse

from bundles.catalog import Entry
from bundles.layout import WHEELS
from bundles.models import Bundle
from jobs.models import CatalogEntry
from scheduler.api.cursors import PAGE, Cursor, Limit, invalid_cursor, parts, text_of
from scheduler.api.models import PREFIX, BundleDetail, BundlePage, BundleSummary, FileLink
from scheduler.api.resources import Given

router = APIRouter(prefix="/bundles", tags=["bundles"])

_LONGEST_FILE_NAME = 255
"""On Linux. A wheel's has both its name and its version."""
NamePath = Annotated[
    str, Path(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=_LONGEST_FILE_NAME, examples=["acme-charts"])
]
VersionPath = Annotated[
    str,
    Path(
        # The normal form of PEP 440, as all are published.
        pattern=r"^([0-9]+!)?[0-9]+(\.[0-9]+)*((a|b|rc)[0-9]+)?(\.post[0-9]+)?(\.dev[0-9]+)?(\+[a-z0-9]+(\.[a-z0-9]+)*)?$",
        max_length=_LONGEST_FILE_NAME,
        examples=["1.4.0"],
    ),
]
BundleIdPath = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
_Path = Annotated[str, Path(max_length=500)]

_SHOWN = {".png": "image/png"}
"""Only these may be looked at in a browser; everything else is to be kept."""
_KEPT = {".json": "application/json", ".toml": "application/toml", ".txt": "text/plain; charset=utf-8"}
_SANDBOX = "default-src 'none'; sandbox; frame-ancestors 'none'"
_IMAGE_SECONDS = 3600


@router.get("")
def list_bundles(
    given: Given,
    name: Annotated[str, Query(max_length=200, description="A part of the package's name.")] = "",
    limit: Limit = PAGE,
    cursor: Cursor = None,
) -> BundlePage:
    """Return published bundles, by name, then newest version first."""
    wanted = canonicalize_name(name)
    found = sorted((each for each in given.catalog.entries() if wanted in each.name), key=_order)
    if cursor is not None:
        after = _place(cursor)
        found = [each for each in found if _order(each) > after]
    shown = found[:limit]
    following = text_of(shown[-1].name, shown[-1].version, shown[-1].id) if len(found) > limit else None
    return BundlePage(bundles=tuple(map(_summary, shown)), next=following)


async def _bundle(name: NamePath, version: VersionPath, id: BundleIdPath, given: Given) -> Bundle:  # noqa: A002 - its word in the API
    return await given.shelf.look(Entry(name, version, id))


@router.get("/{name}/{version}/{id}")
def read_bundle(bundle: Annotated[Bundle, Depends(_bundle)], given: Given) -> BundleDetail:
    """Return a bundle with links to all its files."""
    entry = Entry(bundle.name, bundle.version, bundle.id)
    return BundleDetail(
        uri=given.shelf.uri(bundle), size_bytes=bundle.size_bytes, bundle=bundle, files=tuple(_links(entry, bundle))
    )


@router.get(
    "/{name}/{version}/{id}/files/{path:path}",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The file."}},
)
async def read_file(
    name: NamePath,
    version: VersionPath,
    id: BundleIdPath,  # noqa: A002 - as above
    path: _Path,
    given: Given,
) -> StreamingResponse:
    """Return a file of a bundle, by its path in a portable folder."""
    file, content = await given.shelf.open(Entry(name, version, id), path)
    return StreamingResponse(content, headers=_headers(path, file.size_bytes))


def _headers(path: str, size_bytes: int | None) -> dict[str, str]:
    file = path.rpartition("/")[2]
    ending = f".{file.rpartition('.')[2].lower()}"
    headers = {"Content-Security-Policy": _SANDBOX}
    if size_bytes is not None:
        headers["Content-Length"] = str(size_bytes)
    if ending in _SHOWN:
        # By its id a bundle never changes.
        private = f"private, max-age={_IMAGE_SECONDS}, immutable"
        return headers | {"Content-Type": _SHOWN[ending], "Cache-Control": private}
    kept = f"attachment; filename*=UTF-8''{quote(file, safe='')}"
    return headers | {"Content-Type": _KEPT.get(ending, "application/octet-stream"), "Content-Disposition": kept}


def _href(entry: Entry) -> str:
    return f"{PREFIX}/bundles/{quote(entry.name)}/{quote(entry.version)}/{quote(entry.id)}"


def _summary(entry: CatalogEntry) -> BundleSummary:
    return BundleSummary(**dict(entry), href=_href(Entry(entry.name, entry.version, entry.id)))


def _links(entry: Entry, bundle: Bundle) -> Iterator[FileLink]:
    wheels = ((f"{WHEELS}/{each.filename}", each.sha256, each.size_bytes) for each in bundle.wheels)
    files = ((each.path, each.sha256, each.size_bytes) for each in bundle.files)
    for path, sha256, size_bytes in (*wheels, *files):
        yield FileLink(path=path, href=f"{_href(entry)}/files/{quote(path)}", sha256=sha256, size_bytes=size_bytes)


class _Newest:
    """Sorts versions backwards."""

    def __init__(self, version: Version) -> None:
        self._version = version

    def __lt__(self, other: "_Newest") -> bool:
        return other._version < self._version

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Newest) and self._version == other._version

    def __hash__(self) -> int:
        return hash(self._version)


def _order(entry: CatalogEntry) -> tuple[str, _Newest, str]:
    return entry.name, _Newest(Version(entry.version)), entry.id


def _place(cursor: str) -> tuple[str, _Newest, str]:
    name, version, id_ = map(str, parts(cursor, str, str, str))
    try:
        return name, _Newest(Version(version)), id_
    except InvalidVersion:
        raise invalid_cursor() from None
