"""Puts the pages into the scheduler's application."""

from fastapi import FastAPI

from config.settings import ApiSettings
from scheduler.api.resources import Resources
from scheduler.api.security import Door
from scheduler.page import assets, batch, catalogue, login, overview
from scheduler.page.gallery import Gallery
from scheduler.page.session import Session
from scheduler.page.views import LOGIN

ROUTERS = (overview.router, batch.router, catalogue.router)
OPEN_PATHS = frozenset({"/", "/catalogue", LOGIN, login.LOGOUT})
"""These ask for a login themselves, with a page and not with a problem."""
OPEN_FOLDERS = (assets.FOLDER, "/batches/", "/jobs/", "/catalogue/")


def session_of(settings: ApiSettings) -> Session | None:
    """Return what lets in those who have logged in; None where nobody has to."""
    return None if settings.token is None else Session(settings.token.get_secret_value())


def install(app: FastAPI, resources: Resources, door: Door, session: Session | None) -> None:
    """Serve the pages."""
    app.state.door = door
    app.state.session = session
    gallery = Gallery(resources.catalog, resources.shelf)
    resources.at_end.callback(gallery.close)
    app.state.gallery = gallery
    for router in ROUTERS:
        app.include_router(router)
    app.router.routes.extend((*login.ROUTES, assets.ROUTE))
