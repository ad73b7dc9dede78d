"""Who works on the queue."""

from fastapi import APIRouter

from jobs.agents import disagreements
from scheduler.api.models import AgentList
from scheduler.api.resources import Given

router = APIRouter(prefix="/agents", tags=["agents"])


@router.get("")
def list_agents(given: Given) -> AgentList:
    """Return the agents that live, and what does not fit together."""
    found = given.agents.all()
    return AgentList(agents=found, warnings=tuple(disagreements(found)))
