"""The first page: what is going on."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from jobs.agents import AgentDocument, disagreements
from jobs.listing import BatchSummary
from jobs.losses import Losses, said
from jobs.models import Job, JobState
from jobs.store import StatusUnavailable
from jobs.traffic import Condition, TrafficUnavailable, conditions
from scheduler.api.cursors import LARGEST_PAGE
from scheduler.api.resources import Given, Resources
from scheduler.page.views import PageRoute, page

router = APIRouter(route_class=PageRoute, include_in_schema=False)

_BATCHES = 12
_RUNNING_SHOWN = 8


@dataclass(frozen=True)
class AgentView:
    """An agent and what it does."""

    agent: AgentDocument
    jobs: tuple[Job, ...]
    beat_seconds: float


@dataclass(frozen=True)
class IndexView:
    """An index as the agents know it."""

    name: str
    url: str
    agents: int
    condition: Condition | None
    """None while no agent tells it."""


@router.get("/")
def overview(
    request: Request, given: Given, shown: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = _BATCHES
) -> Response:
    """Show batches, agents and indexes."""
    batches = given.listing.batches(LARGEST_PAGE)
    queued, running = given.status.unfinished()
    counts = _counts(batches) | {JobState.QUEUED: queued, JobState.RUNNING: running}
    agents = given.agents.all()
    lost = Losses(given.redis, given.settings.redis.prefix).last()
    return page(
        request,
        "overview.html",
        batches=batches[:shown],
        all_batches=len(batches),
        more=min(shown + 4 * _BATCHES, LARGEST_PAGE) if len(batches) > shown else None,
        counts=counts,
        agents=[_agent_view(given, agent) for agent in agents],
        indexes=_indexes(given, agents),
        warnings=disagreements(agents),
        lost=None if lost is None else said(lost),
        now=datetime.now(UTC),
    )


def _counts(batches: Iterable[BatchSummary]) -> dict[JobState, int]:
    found: Counter[JobState] = Counter(dict.fromkeys(JobState, 0))
    for batch in batches:
        found.update(batch.counts)
    return dict(found)


def _agent_view(given: Resources, agent: AgentDocument) -> AgentView:
    beat = (datetime.now(UTC) - agent.beat_at).total_seconds()
    return AgentView(agent, tuple(given.status.jobs(agent.running[:_RUNNING_SHOWN])), beat)


def _indexes(given: Resources, agents: Sequence[AgentDocument]) -> list[IndexView]:
    users: Counter[tuple[str, str]] = Counter()
    keys: dict[tuple[str, str], str] = {}
    for agent in agents:
        for index in agent.indexes:
            users[index.name, index.url] += 1
            if key := agent.traffic.get(index.name):
                keys[index.name, index.url] = key
    states = _conditions(given, keys)
    return [IndexView(*known, count, states.get(known)) for known, count in sorted(users.items())]


def _conditions(given: Resources, keys: Mapping[tuple[str, str], str]) -> dict[tuple[str, str], Condition]:
    try:
        found = conditions(given.redis, given.settings.redis.prefix, list(keys.values()))
    except TrafficUnavailable as error:
        raise StatusUnavailable(str(error)) from error
    return dict(zip(keys, found, strict=True))
