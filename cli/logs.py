"""``vizfetch logs``: what pip said."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

from typing import TYPE_CHECKING, Annotated

import typer

from cli.batches import status_store
from cli.invocation import AsJson, ConfigFile, invocation
from cli.output import print_error, print_json
from jobs.states import JobState

if TYPE_CHECKING:
    from jobs.logs import JobLog


def logs(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="As `status` shows it.")],
    attempt: Annotated[int | None, typer.Option("--attempt", help="Only this one.", min=1, metavar="N")] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the last lines of pip in the last attempts of a job."""
    with status_store(invocation(context).settings(config, logs=False)) as store:
        found = store.log(job).only(attempt)
    if as_json:
        print_json(found.as_document())
        return
    for log in found.attempts:
        typer.echo(f"attempt {log.attempt}:")
        for line in log.lines:
            typer.echo(f"  {line}")
    if not found.attempts or (found.state is JobState.RUNNING and attempt in {None, found.attempt}):
        print_error(_why_not(found))


def _why_not(log: JobLog) -> str:
    if log.state is JobState.RUNNING:
        return f"Attempt {log.attempt} is running: what pip says in it can be read when it has ended."
    return (
        "Of this nothing is kept: pip did not run (nothing had changed, or the attempt ended before), its worker was "
        "lost, or newer attempts took its place."
    )
