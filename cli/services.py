"""``vizfetch worker`` and ``vizfetch scheduler``: the two services, in the foreground."""

import signal
import sys
import threading
from typing import Annotated

import typer

from cli.invocation import ConfigFile, LogsAsJson, invocation


def worker(
    context: typer.Context,
    config: ConfigFile = None,
    as_json: LogsAsJson = False,
    drain: Annotated[bool, typer.Option(help="On SIGTERM finish running jobs instead of giving them back.")] = False,
) -> None:
    """Run an agent: takes jobs from the queue until it gets SIGTERM."""
    from worker.start import run

    # Until Celery takes over: whoever is told to stop while it starts has nothing to give back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    called = invocation(context)
    settings = called.settings(config, json_logs=as_json)
    raise typer.Exit(run(settings, called.environment, drain=drain))


def scheduler(context: typer.Context, config: ConfigFile = None, as_json: LogsAsJson = False) -> None:
    """Run a scheduler: brings due jobs to the workers, and back what a lost worker held. Several may run."""
    import structlog

    from scheduler.service import run

    called = invocation(context)
    settings = called.settings(config, json_logs=as_json)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    log = structlog.get_logger()
    run(settings, stop, called.environment, started=lambda: log.info("scheduler_started"))
    log.info("scheduler_stopped")
