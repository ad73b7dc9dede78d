"""Places in a listing, as clients carry them from page to page: opaque text that is checked when it comes back."""

import base64
import binascii
import json
import re
from http import HTTPStatus
from typing import Annotated

from fastapi import Query

from scheduler.api.errors import Refused

PAGE = 50
LARGEST_PAGE = 200
_MAX_NUMBER = 10**14
"""More than any time in milliseconds; also Lua counts exactly so far."""
_MAX_TEXT = 1024
"""More than any requirement, which may have 1000 characters, and a few more in its normal form."""
_MAX_CURSOR = 1500
"""As many as the longest text takes in base64, with what stands beside it."""

Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="How many at most.")]
Cursor = Annotated[
    str | None,
    Query(
        max_length=_MAX_CURSOR, description="`next` of the page before; everything else in the query stays the same."
    ),
]
Part = str | int


def text_of(*parts: Part) -> str:
    """Return a place as text."""
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


def parts(text: str, *kinds: type[Part]) -> tuple[Part, ...]:
    """Return the place that ``text_of`` was given; raises ``Refused`` when it is none of these kinds."""
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError) as error:
        raise invalid_cursor() from error
    if not isinstance(found, list) or len(found) != len(kinds) or not all(map(_fits, found, kinds)):
        raise invalid_cursor()
    return tuple(found)


def _fits(value: object, kind: type[Part]) -> bool:
    if kind is int:
        return type(value) is int and 0 <= value <= _MAX_NUMBER
    return isinstance(value, str) and len(value) <= _MAX_TEXT and re.fullmatch(r"[\x20-\x7e]*", value) is not None


def invalid_cursor() -> Refused:
    """Return what refuses a cursor of another listing."""
    detail = "The cursor is not one that a page before gave, with the same query."
    return Refused(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-cursor", detail)
