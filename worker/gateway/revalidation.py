"""Whether an earlier result still holds: what the indexes say of its projects, as one digest to compare.

Looking again goes the way of any task: the indexes in their order, each with its own credentials, a page that is fresh
without asking, any other conditionally (RFC 9110, 13). So a page counts as unchanged exactly where a new task would be
shown the same. What is compared is what the client is told, not what the index sent: a file that has become old enough
for ``minPackageAge`` changes it, and a new address of the same file does not.
"""

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING

import structlog

from config.settings import Model, Target
from worker.gateway.record import Entry

if TYPE_CHECKING:
    from worker.gateway.tasks import Place, Task

MAX_PROJECTS = 2000
_PAGES_AT_ONCE = 8

_log = structlog.get_logger()


class Seen(Entry):
    """What a task was shown of the indexes."""

    projects: tuple[str, ...]
    """Normalised (PEP 503), in order."""
    digest: str | None
    """Of which index has each of them and of what it offers; None when that proves nothing: a page could not be had,
    or has files without a sha256, whose content may change while their page stays as it is."""


class RevalidationRequest(Model):
    """Which projects are to be looked at again, and for whom."""

    target: Target
    index: str | None = None
    """The only index to ask, by its name; None for all in their order."""
    projects: tuple[str, ...]
    labels: Mapping[str, str | int] = {}
    """As those of a task."""


def seen(places: "Mapping[str, Place | None]") -> Seen:
    """Return the digest of where projects were found, None standing for nowhere."""
    projects = tuple(sorted(places))
    lines = [_line(name, places[name]) for name in projects]
    known = [line for line in lines if line is not None]
    whole = len(known) == len(lines)
    return Seen(projects=projects, digest=hashlib.sha256("\n".join(known).encode()).hexdigest() if whole else None)


def _line(name: str, place: "Place | None") -> str | None:
    if place is None:
        return f"{name} -"
    digest = place.view.digest
    # The indexes before this one said that they do not have it: else it would not have been found here.
    return None if digest is None else f"{name} {place.upstream.name} {digest}"


def look_again(task: "Task", projects: Iterable[str]) -> Seen:
    """Have ``task`` look at the projects, several at once, and return what it sees. Never raises for an index."""
    names = sorted(set(projects))[:MAX_PROJECTS]
    with ThreadPoolExecutor(_PAGES_AT_ONCE, thread_name_prefix="look-again") as pool:
        for future in [pool.submit(copy_context().run, task.place, name) for name in names]:
            if (error := future.exception()) is not None:
                _log.info("revalidation_broken_off", reason=str(error))
                pool.shutdown(cancel_futures=True)
                break
    return task.seen()
