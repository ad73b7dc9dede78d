"""The application: all endpoints, the pages, the guard in front of them, and the description of the API."""

import time
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from config.settings import ApiSettings
from jobs.actuator import ACTUATOR, Actuator, asgi
from scheduler.api import agents, batches, catalogue, errors, events, jobs, schedules
from scheduler.api.limits import Envelope, Limits
from scheduler.api.models import PREFIX
from scheduler.api.refusals import Refusals
from scheduler.api.resources import Resources
from scheduler.api.security import Access, BearerToken, Credential, Door, Guard, json_only
from scheduler.page.install import OPEN_FOLDERS, OPEN_PATHS, install, session_of
from scheduler.page.session import Session

OPENAPI = f"{PREFIX}/openapi.json"
_ROUTERS = (batches.router, events.router, jobs.router, catalogue.router, schedules.router, agents.router)
_FAILURES = (400, 401, 403, 404, 408, 413, 415, 421, 422, 429, 500, 503)
_SCHEMAS = "#/components/schemas"


def application(resources: Resources, actuator: Actuator | None = None) -> ASGIApp:
    """Return the whole service as an ASGI application, with health and metrics if there is an ``actuator``."""
    inner = routes(resources)
    if actuator is not None:
        inner.mount(ACTUATOR, asgi(actuator))
    clock = time.monotonic
    settings = resources.settings.api
    session = session_of(settings)
    refusals = Refusals(resources.audit)
    resources.at_end.callback(refusals.close)
    door = Door(access(settings, session), clock, refusals.count)
    install(inner, resources, door, session)
    return Envelope(Guard(Limits(inner, clock), door))


def access(settings: ApiSettings, session: Session | None) -> Access:
    """Return who is let in by the settings."""
    known: tuple[Credential, ...] = ()
    if settings.token is not None and session is not None:
        known = (BearerToken(settings.token.get_secret_value()), session)
    return Access(
        credentials=known,
        open_paths=OPEN_PATHS | {OPENAPI, ACTUATOR},
        open_folders=(f"{ACTUATOR}/", *OPEN_FOLDERS),
    )


def routes(resources: Resources) -> FastAPI:
    """Return the endpoints, without what stands in front of them."""
    app = FastAPI(
        title="vizfetch",
        summary="Fetches visualization packages and publishes them as wheel bundles.",
        version=version("vizfetch"),
        openapi_url=OPENAPI,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        dependencies=[Depends(json_only)],
        # What is traced stands in config.tracing. FastAPI's own spans would hold queries and messages of errors.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.resources = resources
    app.state.seats = events.Seats(events.LISTENERS)
    for router in _ROUTERS:
        app.include_router(router, prefix=PREFIX)
    errors.install(app, _methods_of)
    plain = app.openapi
    app.openapi = lambda: _described(plain())  # type: ignore[method-assign]  # the way FastAPI documents
    return app


def _methods_of(path: str) -> set[str]:
    own = path.removeprefix(PREFIX)
    found = (route for router in _ROUTERS for route in router.routes if isinstance(route, APIRoute))
    return {method for route in found if route.path_regex.match(own) for method in route.methods or ()}


def _described(document: dict[str, Any]) -> dict[str, Any]:
    """Add to FastAPI's description the token, and the problems that every endpoint may answer with. Idempotent."""
    components = document["components"]
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{"token": []}]
    schemas = components["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = errors.Problem.model_json_schema(ref_template=_SCHEMAS + "/{model}")
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"] |= {str(status): _failure(status) for status in _FAILURES}
    return document


def _failure(status: int) -> dict[str, Any]:
    schema = {"$ref": f"{_SCHEMAS}/Problem"}
    return {"description": HTTPStatus(status).phrase, "content": {errors.MEDIA_TYPE: {"schema": schema}}}
