"""The ``vizfetch`` command."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import typer

from cli import agents, batches, cache, check, configuration, fetch, published, services
from cli.invocation import Invocation
from cli.output import print_error
from config.entries import is_setting

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNAVAILABLE = 69
EXIT_CONFIG = 78

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
    except Exception as error:  # noqa: BLE001 - the last resort before the user: see _explain
        return _explain(error)
    return 0


def _explain(error: Exception) -> int:
    """Print what went wrong and return the exit code for it."""
    from bundles.errors import BundleError, StorageError
    from config.problems import SettingsError
    from jobs.store import StatusUnavailable, UnknownJob
    from scheduler.manifest import InvalidManifest
    from worker.errors import Unfit
    from worker.findings import Verdict

    match error:
        case SettingsError():
            code = EXIT_CONFIG
        case Unfit():
            code = EXIT_CONFIG if error.verdict is Verdict.WRONG else EXIT_UNAVAILABLE
        case StatusUnavailable():
            print_error(f"{error}; is moderne.agent.visualization.redis.url right, and does Redis run?")
            return EXIT_UNAVAILABLE
        case StorageError():
            code = EXIT_UNAVAILABLE
        case InvalidManifest():
            code = EXIT_USAGE
        case UnknownJob():
            print_error(f"there is no batch or job {error.args[0]}, or it is older than the history that is kept")
            return EXIT_USAGE
        case BundleError():
            code = EXIT_FAILED
        case _:
            return _crash(error)
    for line in str(error).splitlines():
        print_error(line)
    return code


def _crash(error: Exception) -> int:
    """Report an error that nobody foresaw: where it happened, and without any values, which might be secret."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "an unknown place"
    print_error(f"unexpected {type(error).__name__} at {place}: this is a defect of vizfetch; please report it")
    return EXIT_FAILED


def run() -> NoReturn:
    """Entry point of the installed command.

    The settings are taken out of the process's environment once they are read: what is started, such as the embedded
    Valkey, must not inherit secrets, since it shows its environment to others of the same user.
    """
    environment = dict(os.environ)
    for name in filter(is_setting, environment):
        del os.environ[name]
    sys.exit(main(sys.argv[1:], environment))
