"""What callers are told when something is wrong: problem details (RFC 9457) for every answer that is not a success.

No answer holds a traceback, an address of a service behind this one, or a secret.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bundles.errors import BrokenBundle, NotPublished, StorageError
from jobs.store import StatusUnavailable, UnknownJob
from jobs.submissions import KeyReused
from scheduler.manifest import InvalidManifest

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

_log = structlog.get_logger()


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="What sort of problem it is, as a URN that stays.")
    title: str = Field(description="The sort of problem in words.")
    status: int = Field(description="The status code of this answer.")
    detail: str = Field(description="What happened here, and what to do.")
    problems: list[str] | None = Field(
        default=None, description="Each single thing that is wrong with what was sent, with its place."
    )


class Refused(HTTPException):
    """A request that is answered by a problem of the sort ``kind``."""

    def __init__(self, status: HTTPStatus, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.kind = kind


def problem(
    status: int,
    kind: str,
    detail: str,
    *,
    problems: Iterable[str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the answer that tells of a problem."""
    content = Problem(
        type=f"urn:vizfetch:{kind}",
        title=kind.replace("-", " ").capitalize(),
        status=status,
        detail=detail,
        problems=None if problems is None else list(problems),
    )
    return Response(content.model_dump_json(exclude_none=True), status, headers, MEDIA_TYPE)


def install(app: FastAPI, methods_of: Callable[[str], Iterable[str]]) -> None:
    """Have every error of the application answered by its problem; ``methods_of`` tells what a path allows."""
    app.add_exception_handler(Exception, _unexpected)
    app.add_exception_handler(HTTPStatus.METHOD_NOT_ALLOWED, _not_allowed(methods_of))
    for error, handler in _HANDLERS.items():
        app.add_exception_handler(error, _as_handler(handler))


def told(error: Exception) -> Problem:
    """Return what callers are told of an error, for whoever shows it in another form; raises it when it is a defect."""
    for kind in type(error).__mro__:
        if handler := _HANDLERS.get(kind):
            return Problem.model_validate_json(bytes(handler(error).body))
    raise error


def _not_allowed(methods_of: Callable[[str], Iterable[str]]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Answer a method that a path does not have by all that it has: each of its routes knows only its own."""

    async def handle(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - the only one that is installed for this status
        if allowed := sorted(methods_of(request.url.path)):
            error.headers = {"Allow": ", ".join(allowed)}
        return _http(error)

    return handle


def _as_handler(handler: Callable[[Any], Response]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_request: Request, error: Exception) -> Response:
        return handler(error)

    return handle


def _http(error: HTTPException) -> Response:
    status = HTTPStatus(error.status_code)
    kind = error.kind if isinstance(error, Refused) else status.phrase.lower().replace(" ", "-")
    return problem(status, kind, error.detail or status.description, headers=error.headers)


def _invalid_request(error: RequestValidationError) -> Response:
    # Only places and messages: what was sent may hold a secret.
    problems = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    if any(each["type"] == "json_invalid" for each in error.errors()):
        return problem(HTTPStatus.BAD_REQUEST, "invalid-json", "The body is no JSON.", problems=problems)
    return _unprocessable("invalid-request", "The request is not as the API describes it.", problems)


def _invalid_manifest(error: InvalidManifest) -> Response:
    return _unprocessable("invalid-requirements", "Not all that was asked for can be understood.", error.problems)


def _key_reused(_error: KeyReused) -> Response:
    detail = "This Idempotency-Key was used for another submission; take a new one."
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "idempotency-key-reused", detail)


def _unprocessable(kind: str, detail: str, problems: Iterable[str]) -> Response:
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, kind, detail, problems=problems)


def _unknown_job(error: UnknownJob) -> Response:
    detail = f"There is no batch or job {error.args[0]}, or it is older than the history that is kept."
    return problem(HTTPStatus.NOT_FOUND, "unknown-job", detail)


def _not_published(_error: NotPublished) -> Response:
    return problem(HTTPStatus.NOT_FOUND, "not-published", "No such bundle or file of one is published.")


def _broken_bundle(error: BrokenBundle) -> Response:
    _log.error("bundle_broken", path=error.path, issues=error.issues)
    detail = "The published bundle is broken; `vizfetch verify` tells more."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "broken-bundle", detail)


def _status_unavailable(error: StatusUnavailable) -> Response:
    _log.warning("status_unavailable", reason=str(error))
    return _unavailable("status-unavailable", "Redis does not answer; try again soon.")


def _store_unavailable(error: StorageError) -> Response:
    _log.warning("store_unavailable", reason=str(error))
    detail = "The store of the bundles does not answer. Try again soon; `vizfetch check` tells what is wrong with it."
    return _unavailable("store-unavailable", detail)


def _unavailable(kind: str, detail: str) -> Response:
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)}
    return problem(HTTPStatus.SERVICE_UNAVAILABLE, kind, detail, headers=headers)


async def _unexpected(_request: Request, error: Exception) -> Response:
    # What fails when the answer has begun comes here, inside an error that says so.
    cause = error.__cause__
    return _store_unavailable(cause) if isinstance(cause, StorageError) else unexpected(error)


def unexpected(error: BaseException) -> Response:
    """Return the answer for a defect, and log where it happened, without values, which might be secret."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "unknown"
    _log.log(logging.ERROR, "api_defect", error=type(error).__name__, place=place)
    detail = "This is a defect of vizfetch; its log says where. Please report it."
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "internal-error", detail)


_HANDLERS: dict[type[Exception], Callable[[Any], Response]] = {
    HTTPException: _http,
    RequestValidationError: _invalid_request,
    InvalidManifest: _invalid_manifest,
    KeyReused: _key_reused,
    UnknownJob: _unknown_job,
    NotPublished: _not_published,
    BrokenBundle: _broken_bundle,
    StatusUnavailable: _status_unavailable,
    StorageError: _store_unavailable,
}
