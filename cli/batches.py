"""``vizfetch submit``, ``status``, ``retry`` and ``cancel``: batches and their jobs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from cli.invocation import AsJson, ConfigFile, Requirements, RequirementsFile, invocation
from cli.output import print_batch, print_batches, print_json
from config.settings import Settings
from jobs.models import Batch
from jobs.store import StatusStore, UnknownJob

BatchId = Annotated[str, typer.Argument(metavar="BATCH")]
JobIds = Annotated[list[str] | None, typer.Argument(metavar="JOB...", help="Only these jobs of the batch.")]


@contextmanager
def status_store(settings: Settings) -> Iterator[StatusStore]:
    """Connect to the status store for the length of a command."""
    from jobs.connection import connect

    redis = connect(settings.redis)
    try:
        yield StatusStore(redis)
    finally:
        redis.close()


def submit(
    context: typer.Context,
    requirements: Requirements = None,
    file: RequirementsFile = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show the batch until it is finished.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Queue a batch of packages and print its id. With --wait, exits with 1 when some job did not succeed."""
    from cli.watch import watch
    from scheduler.manifest import collect
    from scheduler.submit import submit as queue

    entries = collect(requirements or [], file)
    settings = invocation(context).settings(config)
    with status_store(settings) as store:
        batch = queue(store, entries, settings)
        if wait:
            _show(watch(store, batch), as_json=as_json)
        elif as_json:
            print_json(store.batch(batch).as_document())
        else:
            typer.echo(batch)


def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[BATCH or JOB]", help="Newest batches when absent.")] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Go on until the batch is finished.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened, with the reason of each failure."""
    from cli.watch import watch

    with status_store(invocation(context).settings(config)) as store:
        if name is None:
            _show_newest(store, as_json=as_json)
        elif name.startswith("j-"):
            job = store.job(name)
            print_json(job.as_document()) if as_json else print_batch(Batch(id=job.batch, counts={}, jobs=(job,)))
        elif watching:
            _show(watch(store, name), as_json=as_json)
        else:
            batch = store.batch(name)
            print_json(batch.as_document()) if as_json else print_batch(batch)


def retry(
    context: typer.Context, batch: BatchId, jobs: JobIds = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Queue failed or cancelled jobs of a batch again."""
    _change(context, batch, jobs, config, as_json=as_json, change=StatusStore.retry, word="queued again")


def cancel(
    context: typer.Context, batch: BatchId, jobs: JobIds = None, config: ConfigFile = None, as_json: AsJson = False
) -> None:
    """Stop the queued and running jobs of a batch."""
    _change(context, batch, jobs, config, as_json=as_json, change=StatusStore.cancel, word="cancelled")


def _change(
    context: typer.Context,
    batch: str,
    jobs: list[str] | None,
    config: ConfigFile,
    *,
    as_json: bool,
    change: Callable[[StatusStore, str], bool],
    word: str,
) -> None:
    with status_store(invocation(context).settings(config)) as store:
        members = [job.id for job in store.batch(batch).jobs]
        for job in jobs or []:
            if job not in members:
                raise UnknownJob(job)
        changed = [job for job in jobs or members if change(store, job)]
    if as_json:
        print_json({"batch": batch, "jobs": changed})
    else:
        typer.echo(f"{len(changed)} of {len(jobs or members)} jobs {word}")


def _show(batch: Batch, *, as_json: bool) -> None:
    print_json(batch.as_document()) if as_json else print_batch(batch)
    raise typer.Exit(0 if batch.succeeded else 1)


def _show_newest(store: StatusStore, *, as_json: bool) -> None:
    batches = store.batches()
    if as_json:
        print_json({"batches": [{"id": batch.id, "counts": batch.as_document()["counts"]} for batch in batches]})
    else:
        print_batches(batches)
