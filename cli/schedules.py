"""``vizfetch schedule``: manifests that the scheduler looks at again and again."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audit import recorded
from cli.batches import tell_of_losses
from cli.groups import CommandGroup
from cli.invocation import AsJson, ConfigFile, invocation
from cli.output import print_error, print_json, print_table
from config.durations import format_duration
from jobs.states import JobState, Priority

if TYPE_CHECKING:
    from config.settings import Settings
    from jobs.models import Batch, Schedule
    from jobs.schedules import Schedules
    from scheduler.manifest import Asked

app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,
    help="Manifests that are looked at again and again. Redis holds them: keep the files.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Up to 64 letters, digits, dots, dashes and underscores.")]
Manifest = Annotated[
    Path, typer.Option("-r", "--requirements", help="A YAML manifest (.yml) with `refresh`.", metavar="FILE")
]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    file: Manifest,
    priority: Annotated[
        Priority, typer.Option("--priority", help="For the entries that have none of their own.")
    ] = Priority.NORMAL,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Have a manifest looked at now and then every `refresh`; replaces the schedule of that name."""
    from scheduler.manifest import asked_for
    from scheduler.schedules import add_schedule

    asked = asked_for([], file)
    settings = invocation(context).settings(config)
    with _schedules(settings) as schedules:
        with recorded(settings, "schedule_put", schedule=name, entries=len(asked.repeated)):
            done = add_schedule(schedules, name, asked, settings, priority=priority)
        found = next((each for each in schedules.all() if each.name == name), None)
    if as_json:
        print_json({"result": done, "schedule": found and _document(found)})
    else:
        every = format_duration(asked.refresh_seconds or 0)
        typer.echo(f"schedule {name} {_SAID[done]}: {len(asked.repeated)} packages, every {every}")


@app.command("list")
def list_(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the schedules, with their last runs and their next."""
    settings = invocation(context).settings(config)
    with _schedules(settings) as schedules:
        found = schedules.all()
    tell_of_losses(settings)
    if as_json:
        print_json({"schedules": [_document(each) for each in found]})
    elif not found:
        typer.echo("there is no schedule")
    else:
        heads = ("schedule", "packages", "every", "last run", "batch", "outcome", "next run")
        print_table(heads, [_row(each) for each in found])


@app.command()
def remove(context: typer.Context, name: Name, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Remove a schedule. A batch of it that was begun goes on; what was published stays."""
    settings = invocation(context).settings(config)
    with _schedules(settings) as schedules, recorded(settings, "schedule_delete", schedule=name):
        removed = schedules.remove(name)
    if as_json:
        print_json({"removed": [name] if removed else []})
    else:
        typer.echo(f"schedule {name} removed" if removed else f"there is no schedule {name}")
    raise typer.Exit(0 if removed else 1)


def register(file: Path, asked: Asked, settings: Settings, priority: Priority, batch: str) -> None:
    """Make a manifest that was submitted as ``batch`` a schedule as well, named after its file, and say so."""
    from scheduler.schedules import add_schedule, name_for

    name = name_for(file)
    change = recorded(settings, "schedule_put", schedule=name, entries=len(asked.repeated), batch=batch)
    with _schedules(settings) as schedules, change:
        done = add_schedule(schedules, name, asked, settings, priority=priority, batch=batch)
    every = format_duration(asked.refresh_seconds or 0)
    print_error(
        f"{file} has `refresh`: schedule {name} {_SAID[done]}, every {every}. "
        f"To end that: vizfetch schedule remove {name}"
    )


_SAID = {"added": "added", "replaced": "replaced", "unchanged": "is there already, and stays as it is"}


@contextmanager
def _schedules(settings: Settings) -> Iterator[Schedules]:
    from jobs.connection import connect
    from jobs.schedules import Schedules

    redis = connect(settings.redis)
    try:
        yield Schedules(redis, prefix=settings.redis.prefix)
    finally:
        redis.close()


def _document(schedule: Schedule) -> dict[str, object]:
    document = schedule.as_document()
    if document["last"]:
        del document["last"]["jobs"]
    return document


def _row(schedule: Schedule) -> tuple[str, ...]:
    last = schedule.last
    return (
        schedule.name,
        str(schedule.packages),
        format_duration(schedule.interval_seconds),
        f"{schedule.last_at:%Y-%m-%d %H:%M:%S} UTC" if schedule.last_at else "",
        last.id if last else "",
        _outcome(schedule),
        _next(schedule),
    )


def _outcome(schedule: Schedule) -> str:
    told = _counts(schedule.last) if schedule.last else ""
    if schedule.skipped:
        told = f"{told}; not finished, so {schedule.skipped} later runs were skipped".lstrip("; ")
    return told


def _counts(batch: Batch) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in batch.counts.items() if count)
    if batch.counts.get(JobState.PUBLISHED) and batch.unchanged:
        counts = counts.replace("published", f"published ({batch.unchanged} unchanged)")
    return counts


def _next(schedule: Schedule) -> str:
    if schedule.next_at <= datetime.now(UTC):
        return "now"
    return f"{schedule.next_at:%Y-%m-%d %H:%M:%S} UTC"
