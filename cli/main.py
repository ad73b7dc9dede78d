"""The ``vizfetch`` command."""

import atexit
import gc
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer
from typer.exceptions import TyperException

from cli import agents, batches, cache, check, configuration, fetch, logs, published, schedules, services
from cli.errors import EXIT_FAILED, explain
from cli.groups import CommandGroup
from cli.invocation import Invocation
from config.entries import is_setting, is_tracing, split_arguments, split_foreign
from config.garbage import search_less
from config.privacy import hide_from_neighbours


class _Commands(CommandGroup):
    """The commands. What is wrong with the agent's arguments is said before what that does to the command line."""

    def make_context(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as typer's
        """Read what stands before the command."""
        with _settings_first(options["obj"]):
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - as typer's
        """Run the command."""
        with _settings_first(ctx.obj):
            return super().invoke(ctx)


@contextmanager
def _settings_first(called: Invocation) -> Iterator[None]:
    try:
        yield
    except TyperException as error:
        from config.sources import require_values

        # Its message may repeat a word, which is a secret when it stands apart from its name, or holds one.
        require_values(called.arguments)
        error.message = _VALUE.sub("=…", error.message)
        raise


_VALUE = re.compile("(?<![=<>!~])=(?!=).*", re.DOTALL)


app = typer.Typer(
    cls=_Commands,
    name="vizfetch",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # what draws frames for it takes half the time that --help has
)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(f"vizfetch {metadata.version('vizfetch')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Fetch visualization packages with everything they need, and publish them as wheel bundles."""


app.command()(fetch.fetch)
app.command()(check.check)
app.command()(configuration.config)
app.command()(services.worker)
app.command()(services.scheduler)
app.command()(agents.agents)
app.command()(batches.submit)
app.command()(batches.status)
app.command()(logs.logs)
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
    ours, rest = split_arguments(arguments, _command_names())
    rest, foreign = split_foreign(rest)
    try:
        app(args=rest, obj=Invocation(tuple(ours), environment, tuple(foreign)), prog_name="vizfetch")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - the last resort before the user
        return explain(error)
    return 0


def _command_names() -> frozenset[str]:
    found = (command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands)
    return frozenset(found)


def run() -> NoReturn:
    """Entry point of the installed command.

    The settings are taken out of the process's environment once they are read: what is started, such as the embedded
    Valkey, must not inherit secrets, since it shows its environment to others of the same user.
    """
    hide_from_neighbours()
    search_less()
    atexit.register(gc.freeze)  # nor does it have to be looked for at the end
    environment = {name: _as_utf_8(value) for name, value in os.environ.items()}
    for name in environment:
        if is_setting(name) or is_tracing(name):
            del os.environ[name]
    # Looking for plugins, pydantic reads what every distribution says of itself; here there are none.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if sys.stdout is not None and sys.stdout.encoding == _ASCII:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # it is what Python opened
    sys.exit(main([_as_utf_8(argument) for argument in sys.argv[1:]], environment))


_ASCII = "ascii"


def _as_utf_8(text: str) -> str:
    """Read what the system gave as UTF-8, also in a locale that knows ASCII only: a password is what it is."""
    return os.fsencode(text).decode("utf-8", "surrogateescape")
