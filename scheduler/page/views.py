"""How pages are made: from templates, with the headers that keep them apart from everything else."""

from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, Final
from urllib.parse import quote, urlencode

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from bundles.errors import BrokenBundle, NotPublished, StorageError
from jobs import words as shared
from jobs.models import JobState
from jobs.store import StatusUnavailable, UnknownJob
from scheduler.api.errors import told
from scheduler.api.security import LOOPBACK
from scheduler.page import charts, words
from scheduler.page.assets import assets

LOGIN: Final = "/login"
# No script of ours makes markup of text, and by the last two none can.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)
_SHOWN = (
    StatusUnavailable,
    UnknownJob,
    StorageError,
    NotPublished,
    BrokenBundle,
    HTTPException,
    RequestValidationError,
)
_HEADINGS = {404: "Not found", 422: "Not understood", 503: "Not available just now"}


@cache
def templates() -> Environment:
    """Return the templates. Everything that is put into them is text, never markup."""
    made = Environment(
        loader=PackageLoader("scheduler.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "ago": words.ago,
        "breakable": words.breakable,
        "kind": words.kind,
        "moment": words.moment,
        "plural": words.plural,
        "seconds": words.seconds,
        "size": shared.size,
        "span": words.span,
        "state": words.state,
    }
    made.globals |= {
        "asset": assets().address,
        "attempts": shared.attempts,
        "charts": charts,
        "JobState": JobState,
        "query": query,
    }
    return made


def query(**values: object) -> str:
    """Return the query of an address: what is empty or None is left out."""
    text = urlencode({name: value for name, value in values.items() if value not in {None, "", False}})
    return f"?{text}" if text else "?"


def page(request: Request, template: str, status: int = 200, **values: object) -> Response:
    """Return a page."""
    caller = getattr(request.state, "caller", None)
    about = {"inside": caller is not None, "can_leave": caller is not None and caller.name != LOOPBACK}
    text = templates().get_template(template).render(**about, path=request.url.path, **values)
    # With `no-referrer`, browsers say `Origin: null` of our own forms.
    headers = {"Content-Security-Policy": POLICY, "Referrer-Policy": "same-origin"}
    return HTMLResponse(text, status, headers=headers)


def failure(request: Request, error: Exception) -> Response:
    """Return the page that tells of an error in the words of the API; raises it when it is a defect."""
    problem = told(error)
    heading = _HEADINGS.get(problem.status, problem.title)
    answer = page(request, "error.html", problem.status, problem=problem, heading=heading)
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer


class PageRoute(APIRoute):
    """A page for those who are let in; others are led to the login. What goes wrong is told on a page as well."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return what answers."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            if not hasattr(request.state, "caller"):
                return _to_login(request)
            try:
                return await inner(request)
            except _SHOWN as error:
                return await run_in_threadpool(failure, request, error)

        return answer


def _to_login(request: Request) -> Response:
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    way = "" if wanted == "/" else f"?next={quote(wanted, safe='')}"
    return RedirectResponse(f"{LOGIN}{way}", 303)
