"""The ``vizfetch`` command."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import typer

from cli import agents, batches, cache, check, configuration, fetch, published, schedules, services
from cli.errors import EXIT_FAILED, explain
from cli.invocation import Invocation
from config.entries import is_setting

app = typer.Typer(
    name="vizfetch",
    help="Fetches visualization packages with everything they need, and publishes them as wheel bundles.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(fetch.fetch)
app.command()(check.check)
app.command()(configuration.config)
app.command()(services.worker)
app.command()(services.scheduler)
app.command()(agents.agents)
app.command()(batches.submit)
app.command()(batches.status)
app.command()(batches.retry)
app.command()(batches.cancel)
app.add_typer(schedules.app, name="schedule")
app.command("list")(published.list_)
app.command()(published.pull)
app.command()(published.verify)
app.command()(published.rebuild)
app.command()(published.collect)
app.command()(cache.cache)


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command line and return the exit code. No exception reaches the user as a traceback."""
    from config.sources import split_arguments

    ours, rest = split_arguments(arguments)
    try:
        app(args=list(rest), obj=Invocation(tuple(ours), environment), prog_name="vizfetch")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last resort before the user
        return explain(error)
    return 0


def run() -> NoReturn:
    """Entry point of the installed command.

    The settings are taken out of the process's environment once they are read: what is started, such as the embedded
    Valkey, must not inherit secrets, since it shows its environment to others of the same user.
    """
    environment = dict(os.environ)
    for name in filter(is_setting, environment):
        del os.environ[name]
    sys.exit(main(sys.argv[1:], environment))
