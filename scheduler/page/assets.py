"""What the pages bring along: read once, served from memory under an address that changes with the content."""

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER: Final = "/static/"
_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
    "woff2": "font/woff2",
}
_FOREVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Assets:
    """The files by their names, and a digest of all of them."""

    contents: dict[str, bytes]
    digest: str

    def address(self, name: str) -> str:
        """Return where a file is served."""
        if name not in self.contents:
            raise FileNotFoundError(name)
        return f"{FOLDER}{self.digest}/{name}"


@cache
def assets() -> Assets:
    """Return all files."""
    folder = files("scheduler.page") / "static"
    found = {each.name: each.read_bytes() for each in folder.iterdir() if each.name.rpartition(".")[2] in _TYPES}
    whole = hashlib.sha256()
    for name in sorted(found):
        whole.update(hashlib.sha256(name.encode() + b"\0" + found[name]).digest())
    return Assets(found, whole.hexdigest()[:16])


async def _serve(request: Request) -> Response:
    name = request.path_params["name"]
    content = assets().contents.get(name)
    if content is None:
        return Response("There is no such file.", 404, media_type="text/plain")
    # Of another release, while schedulers of both run: right for now, but not for ever.
    lasting = request.path_params["digest"] == assets().digest
    headers = {"Content-Type": _TYPES[name.rpartition(".")[2]], "Cache-Control": _FOREVER if lasting else "no-store"}
    return Response(content, headers=headers)


ROUTE = Route(FOLDER + "{digest}/{name}", _serve, methods=["GET"])
