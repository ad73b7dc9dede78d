"""``vizfetch worker`` and ``vizfetch scheduler``: the two services, in the foreground."""

import signal
import threading
from typing import Annotated

import typer

from cli.invocation import ConfigFile, invocation


def worker(
    context: typer.Context,
    config: ConfigFile = None,
    drain: Annotated[bool, typer.Option(help="On SIGTERM finish running jobs instead of giving them back.")] = False,
) -> None:
    """Run an agent: takes jobs from the queue until it gets SIGTERM."""
    from worker.app import run

    called = invocation(context)
    settings = called.settings(config)
    raise typer.Exit(run(settings, called.environment, drain=drain, validate_connectivity=True))


def scheduler(context: typer.Context, config: ConfigFile = None) -> None:
    """Run a scheduler: brings due jobs to the workers, and back what a lost worker held. Several may run."""
    import structlog

    from scheduler.service import run

    settings = invocation(context).settings(config)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = structlog.get_logger()
    run(settings, stop, started=lambda: log.info("scheduler_started"))
    log.info("scheduler_stopped")
