"""What the endpoints work with, and how they are given it."""

import threading
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from redis import Redis

from config.audit import Audit, audit_of
from config.settings import Settings
from jobs.agents import Agents
from jobs.catalog import Catalog
from jobs.listing import Listing
from jobs.schedules import Schedules
from jobs.store import StatusStore
from jobs.submissions import Submissions
from scheduler.api.security import Caller
from scheduler.api.shelf import Shelf


@dataclass(frozen=True)
class Resources:
    """Everything behind the API. Whoever made the client of Redis closes it."""

    settings: Settings
    redis: Redis
    status: StatusStore
    listing: Listing
    submissions: Submissions
    agents: Agents
    catalog: Catalog
    schedules: Schedules
    shelf: Shelf
    audit: Audit
    stopping: threading.Event
    """Set when the service ends: whoever streams ends then."""
    at_end: ExitStack = field(default_factory=ExitStack)
    """What is closed when nothing is answered any more."""


def resources_of(settings: Settings, redis: Redis, stopping: threading.Event) -> Resources:
    """Return the resources on one Redis."""
    prefix = settings.redis.prefix
    shelf = Shelf(settings.storage)
    made = Resources(
        settings=settings,
        redis=redis,
        status=StatusStore(redis, prefix=prefix, history_seconds=settings.history_seconds),
        listing=Listing(redis, prefix),
        submissions=Submissions(redis, prefix),
        agents=Agents(redis, prefix),
        catalog=Catalog(redis, prefix=prefix),
        schedules=Schedules(redis, prefix=prefix),
        shelf=shelf,
        audit=audit_of(settings),
        stopping=stopping,
    )
    made.at_end.callback(shelf.close)
    return made


def _resources(request: Request) -> Resources:
    found = request.app.state.resources
    assert isinstance(found, Resources)  # noqa: S101 - only scheduler.api.application makes these applications
    return found


def _caller(request: Request) -> Caller:
    found = request.state.caller
    assert isinstance(found, Caller)  # noqa: S101 - the guard stands before everything that asks for it
    return found


Given = Annotated[Resources, Depends(_resources)]
CallerGiven = Annotated[Caller, Depends(_caller)]
