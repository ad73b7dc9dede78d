"""``vizfetch fetch``: everything on one machine, nothing else running."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.invocation import AsJson, ConfigFile, Requirements, RequirementsFile, invocation
from cli.output import console, print_batch, print_json
from jobs.models import Batch


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
    from scheduler.manifest import collect
    from scheduler.submit import submit

    entries = collect(requirements or [], file)
    called = invocation(context)
    # Like Ctrl-C: what was started is stopped on the way out.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with machine(called.settings(config), called.environment, out) as here:
        batch = watch(here.store, submit(here.store, entries, here.settings), check=here.check)
    if as_json:
        print_json(batch.as_document())
    else:
        print_batch(batch)
        _print_ways_to_install(batch)
    raise typer.Exit(0 if batch.succeeded else 1)


def _print_ways_to_install(batch: Batch) -> None:
    out = console()
    for job in batch.jobs:
        if job.bundle:
            path = job.bundle.uri.removeprefix("file://")
            out.print(f"install {job.bundle.name} {job.bundle.version}, offline, with pip from 26.1:", markup=False)
            out.print(f"  pip install --no-index -r {path}/pylock.toml", markup=False, soft_wrap=True)
