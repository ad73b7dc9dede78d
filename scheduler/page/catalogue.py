"""What is published, for those who look for a visualization."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from bundles.catalog import Entry
from bundles.models import MAX_VISUALIZATION_NAME, Bundle, Visualization
from scheduler.api.catalogue import BundleIdPath, NamePath, VersionPath
from scheduler.api.errors import Refused
from scheduler.api.resources import Given
from scheduler.page.gallery import Found, Gallery, age, href, image, place
from scheduler.page.views import PageRoute, page

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_CARDS = 48
_MOST_CARDS = 5000


def _gallery(request: Request) -> Gallery:
    found = request.app.state.gallery
    assert isinstance(found, Gallery)  # noqa: S101 - scheduler.page.install puts it there
    return found


_Text = Annotated[str, Query(max_length=200)]


async def _found(request: Request, q: _Text = "", package: _Text = "") -> Found:
    return await _gallery(request).search(q, package)


@router.get("/catalogue")
def show_catalogue(
    request: Request,
    found: Annotated[Found, Depends(_found)],
    q: _Text = "",
    package: _Text = "",
    shown: Annotated[int, Query(ge=1, le=_MOST_CARDS)] = _CARDS,
) -> Response:
    """Show the visualizations of the newest version of each package."""
    more = min(shown + _CARDS, _MOST_CARDS) if len(found.cards) > shown else None
    return page(
        request, "catalogue.html", found=found, cards=found.cards[:shown], q=q, package=package, shown=shown, more=more
    )


async def _bundle(package: NamePath, version: VersionPath, id: BundleIdPath, given: Given) -> Bundle:  # noqa: A002 - its word in the API
    return await given.shelf.look(Entry(package, version, id))


@router.get("/catalogue/{package}/{version}/{id}")
def show_visualization(
    request: Request,
    bundle: Annotated[Bundle, Depends(_bundle)],
    given: Given,
    name: Annotated[str, Query(max_length=MAX_VISUALIZATION_NAME)] = "",
) -> Response:
    """Show a visualization of a bundle, or the first if none is named."""
    entry = Entry(bundle.name, bundle.version, bundle.id)
    shown = _named(bundle.visualizations, name)
    versions = sorted((each for each in given.catalog.entries() if each.name == bundle.name), key=age, reverse=True)
    return page(
        request,
        "visualization.html",
        bundle=bundle,
        entry=entry,
        visualization=shown,
        image=None if shown is None else image(entry, shown),
        versions=[(each, href(place(each), name)) for each in versions],
        uri=given.shelf.uri(bundle),
        href=lambda each: href(entry, each),
        name=name,
    )


def _named(visualizations: tuple[Visualization, ...], name: str) -> Visualization | None:
    if not name:
        return visualizations[0] if visualizations else None
    for each in visualizations:
        if each.name == name:
            return each
    raise Refused(
        HTTPStatus.NOT_FOUND, "unknown-visualization", "This version of the package has no visualization of that name."
    )
