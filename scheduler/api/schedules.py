"""Schedules: manifests that are looked at again and again."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Path, Response

from jobs.models import Schedule
from jobs.schedules import Added
from scheduler.api.audit import recorded
from scheduler.api.errors import Refused
from scheduler.api.models import ScheduleInput, ScheduleList, ScheduleSummary
from scheduler.api.resources import CallerGiven, Given
from scheduler.manifest import from_text
from scheduler.schedules import add_schedule

router = APIRouter(prefix="/schedules", tags=["schedules"])

_Name = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", examples=["nightly"])]


@router.get("")
def list_schedules(given: Given) -> ScheduleList:
    """Return all schedules, the one that is due next first."""
    return ScheduleList(schedules=tuple(map(_summary, given.schedules.all())))


@router.put(
    "/{name}",
    status_code=HTTPStatus.CREATED,
    responses={200: {"description": "There was one of this name.", "model": ScheduleSummary}},
)
def put_schedule(
    name: _Name, asked: ScheduleInput, given: Given, caller: CallerGiven, response: Response
) -> ScheduleSummary:
    """Have a manifest looked at now and then at its interval; one of the same name is replaced."""
    manifest = from_text(asked.manifest, "manifest", manifest=True)
    with recorded(given.audit, caller, "schedule_put", schedule=name, entries=len(manifest.repeated)):
        done = add_schedule(given.schedules, name, manifest, given.settings, priority=asked.priority)
    if done is not Added.ADDED:
        response.status_code = HTTPStatus.OK
    for schedule in given.schedules.all():
        if schedule.name == name:
            return _summary(schedule)
    raise _unknown()


@router.delete("/{name}", status_code=HTTPStatus.NO_CONTENT)
def delete_schedule(name: _Name, given: Given, caller: CallerGiven) -> None:
    """Remove a schedule. A batch of it that was begun goes on; what was published stays."""
    with recorded(given.audit, caller, "schedule_delete", schedule=name):
        if not given.schedules.remove(name):
            raise _unknown()


def _summary(schedule: Schedule) -> ScheduleSummary:
    told = {name: getattr(schedule, name) for name in ScheduleSummary.model_fields}
    return ScheduleSummary(**told | {"last": schedule.last and schedule.last.id})


def _unknown() -> Refused:
    return Refused(HTTPStatus.NOT_FOUND, "unknown-schedule", "There is no schedule of this name.")
