"""``vizfetch fetch``: everything on one machine, nothing else running."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.invocation import AsJson, ConfigFile, Requirements, RequirementsFile, invocation
from cli.output import console, print_batch, print_error, print_json

if TYPE_CHECKING:
    from config.settings import Target
    from jobs.models import Batch
    from scheduler.manifest import Entry


def fetch(
    context: typer.Context,
    requirements: Requirements = None,
    file: RequirementsFile = None,
    out: Annotated[Path, typer.Option("--out", help="Where the bundles are left.", metavar="DIR")] = Path("bundles"),
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Fetch packages on this machine alone: starts what it needs, and stops it all again.

    Exits with 1 when some package could not be fetched.
    """
    from cli.machine import machine
    from cli.watch import watch
    from config.tracing import tracing_of
    from scheduler.manifest import asked_for
    from scheduler.submit import submit

    asked = asked_for(requirements or [], file)
    entries = asked.entries
    if asked.refresh_seconds:
        print_error(f"{file} has `refresh`, which needs services: here everything is fetched once")
    called = invocation(context)
    settings = called.settings(config)
    _refuse_other_machines(entries, settings.target)
    # Like Ctrl-C: what was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    traces = tracing_of(settings, called.environment, "vizfetch")
    with machine(settings, called.environment, out) as here, traces:
        batch = watch(here.store, submit(here.store, entries, here.settings), check=here.check)
    if as_json:
        print_json(batch.as_document())
    else:
        print_batch(batch)
        _print_ways_to_install(batch)
    raise typer.Exit(0 if batch.succeeded else 1)


def _refuse_other_machines(entries: Sequence[Entry], target: Target) -> None:
    """Raise ``InvalidManifest`` for entries that would wait for another agent: here is only this one."""
    from scheduler.manifest import InvalidManifest

    own = {"python": target.python, "architecture": target.architecture}
    problems = [
        f"{entry.requirement}: its target has {name} {entry.target[name]}, and this machine serves only {own[name]}"
        for entry in entries
        for name in own
        if entry.target.get(name, own[name]) != own[name]
    ]
    if problems:
        raise InvalidManifest(problems)


def _print_ways_to_install(batch: Batch) -> None:
    out = console()
    for job in batch.jobs:
        if job.bundle:
            path = job.bundle.uri.removeprefix("file://")
            out.print(f"install {job.bundle.name} {job.bundle.version}, offline, with pip from 26.1:", markup=False)
            out.print(f"  pip install --no-index -r {path}/pylock.toml", markup=False, soft_wrap=True)
