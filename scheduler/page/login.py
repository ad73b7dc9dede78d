"""Logging in with the API token, and out again."""

from contextlib import ExitStack
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from scheduler.api.audit import recorded
from scheduler.api.limits import announced_bytes, too_large
from scheduler.api.security import Caller, Door, Refusal, client_address
from scheduler.page.session import end, over_tls
from scheduler.page.views import LOGIN, page

LOGOUT = "/logout"
_LONGEST_FORM_BYTES = 16 * 2**10
_FORM = "application/x-www-form-urlencoded"
_SEE_OTHER = 303
_WRONG = (
    "This is not the token that the scheduler was given. Whoever runs it can tell you which one holds: the setting is "
    "moderne.agent.visualization.api.token."
)
_REFUSED = {
    HTTPStatus.UNAUTHORIZED: _WRONG,
    HTTPStatus.TOO_MANY_REQUESTS: f"{_WRONG} Too many wrong ones came from your address.",
}


async def _ask(request: Request) -> Response:
    target = _local(request.query_params.get("next", ""))
    if hasattr(request.state, "caller"):
        return RedirectResponse(target, _SEE_OTHER)
    return await run_in_threadpool(page, request, "login.html", target=target, refused=None)


async def _take(request: Request) -> Response:
    given = await _form(request)
    target = _local(given.get("next", ""))
    # As in a header, so that there is one place that compares, counts and slows down.
    headers = Headers(raw=[(b"authorization", b"Bearer " + given.get("token", "").strip().encode())])
    found = _door(request).caller(headers, client_address(request.scope))
    if isinstance(found, Refusal):
        refused = _REFUSED[found.status]
        answer = await run_in_threadpool(page, request, "login.html", found.status, target=target, refused=refused)
        answer.headers.update(found.headers)
        return answer
    answer = RedirectResponse(target, _SEE_OTHER)
    await run_in_threadpool(_begin, request, found[0], answer)
    return answer


def _begin(request: Request, caller: Caller, answer: Response) -> None:
    session, resources = request.app.state.session, request.app.state.resources
    if session is None:  # nobody is asked for a token, and nobody need be known
        return
    with recorded(resources.audit, caller, "login"):
        session.begin(answer, secure=over_tls(request.headers, request.url.scheme))


async def _leave(request: Request) -> Response:
    answer = RedirectResponse(LOGIN, _SEE_OTHER)
    await run_in_threadpool(_end, request, answer)
    return answer


def _end(request: Request, answer: Response) -> None:
    with ExitStack() as record:
        if request.app.state.session is not None and hasattr(request.state, "caller"):
            record.enter_context(recorded(request.app.state.resources.audit, request.state.caller, "logout"))
        end(answer, secure=over_tls(request.headers, request.url.scheme))


async def _form(request: Request) -> dict[str, str]:
    """Return what a form sent; nothing when it is no such form. Raises ``Refused`` when it is too large."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return {}
    content = await _content(request)
    try:
        fields = parse_qs(content.decode(), max_num_fields=10, encoding="utf-8", errors="strict")
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items()}


async def _content(request: Request) -> bytes:
    """Return what was sent; no more is read than a form may have, since anybody may send one."""
    if announced_bytes(request.scope) > _LONGEST_FORM_BYTES:
        raise too_large(_LONGEST_FORM_BYTES)
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > _LONGEST_FORM_BYTES:
            raise too_large(_LONGEST_FORM_BYTES)
    return content


def _door(request: Request) -> Door:
    found = request.app.state.door
    assert isinstance(found, Door)  # noqa: S101 - scheduler.page.install puts it there
    return found


def _local(target: str) -> str:
    """Return the address on this site that was asked for before, else that of the first page."""
    try:
        parts = urlsplit(target)
    except ValueError:
        return "/"
    here = target.startswith("/") and target[1:2] not in {"/", "\\"} and not parts.netloc
    return target if here and target.isascii() and target.isprintable() else "/"


ROUTES = (
    Route(LOGIN, _ask, methods=["GET"]),
    Route(LOGIN, _take, methods=["POST"]),
    Route(LOGOUT, _leave, methods=["POST"]),
)
