"""``vizfetch submit``, ``status``, ``retry`` and ``cancel``: batches and their jobs."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from cli.audit import recorded
from cli.invocation import AsJson, ConfigFile, Requirements, RequirementsFile, invocation
from cli.output import LARGE, print_batch, print_batches, print_error, print_json
from jobs.errors import ErrorKind
from jobs.states import JobState, Priority

if TYPE_CHECKING:
    from config.settings import Settings
    from jobs.models import Batch, Job
    from jobs.store import StatusStore

_KINDS = f"Only jobs that failed so; may be repeated: {', '.join(ErrorKind)}."

Names = Annotated[
    list[str], typer.Argument(metavar="BATCH or JOB...", help="A batch, only some jobs of it, or jobs by themselves.")
]


@contextmanager
def status_store(settings: Settings) -> Iterator[StatusStore]:
    """Connect to the status store for the length of a command."""
    from jobs.connection import connect
    from jobs.losses import Losses
    from jobs.store import StatusStore, StatusUnavailable, UnknownJob

    redis = connect(settings.redis)
    try:
        yield StatusStore(redis, prefix=settings.redis.prefix, history_seconds=settings.history_seconds)
    except UnknownJob as error:
        with suppress(StatusUnavailable):
            error.lost_at = Losses(redis, settings.redis.prefix).last()
        raise
    finally:
        redis.close()


def tell_of_losses(settings: Settings) -> None:
    """Say on standard error that Redis has lost its data, if it has."""
    from jobs.connection import connect
    from jobs.losses import Losses, said

    with closing(connect(settings.redis)) as redis:
        if at := Losses(redis, settings.redis.prefix).last():
            print_error(said(at))


def submit(
    context: typer.Context,
    requirements: Requirements = None,
    file: RequirementsFile = None,
    priority: Annotated[
        Priority, typer.Option("--priority", help="For the entries that have none of their own.")
    ] = Priority.NORMAL,
    wait: Annotated[bool, typer.Option("--wait", help="Show the batch until it is finished.")] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Fetch also what was published before and has not changed since.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Queue a batch of packages and print its id. With --wait, exits with 1 when some job did not succeed.

    A manifest with `refresh` becomes a schedule as well, named after the file: see `vizfetch schedule`.
    """
    from config.tracing import tracing_of
    from scheduler.manifest import asked_for
    from scheduler.submit import new_batch_id
    from scheduler.submit import submit as queue

    asked = asked_for(requirements or [], file)
    called = invocation(context)
    settings = called.settings(config, logs=False)
    with tracing_of(settings, called.environment, "vizfetch"), status_store(settings) as store:
        batch = new_batch_id()
        with recorded(settings, "batch_submit", batch=batch, entries=len(asked.entries)):
            queue(store, asked.entries, settings, batch=batch, priority=priority, anew=anew)
        if file and asked.refresh_seconds:
            from cli.schedules import register

            register(file, asked, settings, priority, batch)
        if wait:
            # Whoever is interrupted here must be able to go on with `status --watch`.
            typer.echo(f"batch {batch}", err=True)
            from cli.watch import watch  # only now, while the workers begin

            _show(watch(store, batch), as_json=as_json)
        elif as_json:
            print_json(store.batch(batch).as_document())
        else:
            typer.echo(batch)


def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[BATCH or JOB]", help="Newest batches when absent.")] = None,
    watching: Annotated[bool, typer.Option("--watch", help="Go on until the batch is finished.")] = False,
    failed: Annotated[bool, typer.Option("--failed", help="Only failures, by kind and index.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened, with the reason of each failure. Exits with 1 when some job that is shown has failed."""
    if failed and (name is None or _is_job(name) or watching):
        raise typer.BadParameter("--failed needs a batch, and goes without --watch")
    settings = invocation(context).settings(config, logs=False)
    with status_store(settings) as store:
        if name is None:
            _show_newest(store, as_json=as_json)
            tell_of_losses(settings)
        elif failed:
            _show_failures(store, name, as_json=as_json)
        elif _is_job(name):
            _show_job(store.job(name), as_json=as_json)
        elif watching:
            from cli.watch import watch

            _show(watch(store, name), as_json=as_json)
        else:
            _show_as_it_is(store, name, as_json=as_json)


def retry(
    context: typer.Context,
    names: Names,
    kinds: Annotated[list[ErrorKind] | None, typer.Option("--kind", metavar="KIND", help=_KINDS)] = None,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Queue the failed or cancelled jobs of batches, or single jobs, again."""
    from config.tracing import tracing_of

    called = invocation(context)
    settings = called.settings(config, logs=False)
    with tracing_of(settings, called.environment, "vizfetch"), status_store(settings) as store:
        chosen = _chosen(store, names)
        if kinds:
            chosen = {batch: _of_kinds(store, batch, jobs, kinds) for batch, jobs in chosen.items()}
        again = _recorded(settings, "batch_retry", store.retry)
        _change(chosen, again, "queued again", "only failed and cancelled ones can be", as_json=as_json)


def cancel(context: typer.Context, names: Names, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Stop the queued and running jobs of batches, or single jobs."""
    settings = invocation(context).settings(config, logs=False)
    with status_store(settings) as store:
        stop = _recorded(settings, "batch_cancel", store.cancel)
        _change(_chosen(store, names), stop, "cancelled", "the others had ended before", as_json=as_json)


def _is_job(name: str) -> bool:
    return name.startswith("j-")


def _chosen(store: StatusStore, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the jobs that ``names`` stand for, by their batches; jobs named beside their batch are only those."""
    from jobs.store import UnknownJob

    batches = {name: _members(store, name) for name in names if not _is_job(name)}
    found: dict[str, list[str]] = {}
    for job in filter(_is_job, names):
        batch = store.job(job).batch
        if batches and batch not in batches:
            raise UnknownJob(job)
        found.setdefault(batch, []).append(job)
    return batches | found


def _members(store: StatusStore, batch: str) -> list[str]:
    store.batch(batch, jobs=False)  # raises when there is none
    return store.members(batch)


def _of_kinds(store: StatusStore, batch: str, jobs: Sequence[str], kinds: Sequence[ErrorKind]) -> list[str]:
    failed = store.jobs_in(batch, JobState.FAILED)
    wanted = {job.id for job in failed if job.error and job.error.kind in kinds}
    return [job for job in jobs if job in wanted]


def _recorded(
    settings: Settings, action: str, change: Callable[[Sequence[str]], list[str]]
) -> Callable[[str, Sequence[str]], list[str]]:
    """Return ``change`` of jobs of a batch as it stands in the audit record."""

    def changed(batch: str, jobs: Sequence[str]) -> list[str]:
        one = jobs[0] if len(jobs) == 1 else None
        with recorded(settings, action, batch=batch, jobs=len(jobs), job=one) as also:
            found = change(jobs)
            also["changed"] = len(found)
        return found

    return changed


def _change(
    chosen: Mapping[str, Sequence[str]],
    change: Callable[[str, Sequence[str]], list[str]],
    word: str,
    why_not: str,
    *,
    as_json: bool,
) -> None:
    """Change the jobs, and say how many were; ``why_not`` is for those that were not."""
    changed = [job for batch, jobs in chosen.items() for job in change(batch, jobs)]
    if as_json:
        print_json({"batch": next(iter(chosen)) if len(chosen) == 1 else None, "jobs": changed})
    else:
        asked = sum(map(len, chosen.values()))
        typer.echo(f"{len(changed)} of {asked} jobs {word}" + (f": {why_not}" if len(changed) < asked else ""))


def _as_far_as_shown(store: StatusStore, name: str) -> Batch:
    """Return a batch with its jobs, or only with those that run or have failed if it is a large one."""
    batch = store.batch(name, jobs=False)
    if batch.total <= LARGE:
        return store.batch(name)
    telling = [job for state in (JobState.RUNNING, JobState.FAILED) for job in store.jobs_in(name, state, LARGE)]
    return batch.model_copy(update={"jobs": tuple(telling[:LARGE])})


def _show_failures(store: StatusStore, name: str, *, as_json: bool) -> None:
    from cli.failures import grouped, print_failures

    batch = store.batch(name, jobs=False)
    groups = grouped(store.jobs_in(name, JobState.FAILED))
    if as_json:
        print_json({"batch": batch.id, "failures": [group.as_document() for group in groups]})
    else:
        print_failures(batch, groups)
    raise typer.Exit(1 if groups else 0)


def _show_job(job: Job, *, as_json: bool) -> None:
    from jobs.models import Batch

    print_json(job.as_document()) if as_json else print_batch(Batch(id=job.batch, counts={}, jobs=(job,)))
    raise typer.Exit(1 if job.state is JobState.FAILED else 0)


def _show_as_it_is(store: StatusStore, name: str, *, as_json: bool) -> None:
    batch = store.batch(name) if as_json else _as_far_as_shown(store, name)
    print_json(batch.as_document()) if as_json else print_batch(batch)
    raise typer.Exit(1 if batch.counts.get(JobState.FAILED) else 0)


def _show(batch: Batch, *, as_json: bool) -> None:
    print_json(batch.as_document()) if as_json else print_batch(batch)
    raise typer.Exit(0 if batch.succeeded else 1)


def _show_newest(store: StatusStore, *, as_json: bool) -> None:
    batches = store.batches()
    if as_json:
        print_json({"batches": [{"id": batch.id, "counts": batch.as_document()["counts"]} for batch in batches]})
    else:
        print_batches(batches)
