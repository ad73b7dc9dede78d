"""What every command starts from: the agent's arguments, the environment, and the options all commands share."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from config.settings import Settings
    from config.sources import Reading

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="Settings in YAML; VIZFETCH_CONFIG names it as well.", metavar="FILE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Requirements = Annotated[
    list[str] | None, typer.Argument(help="Packages such as `name` or `name==1.0`.", metavar="REQ...")
]
LogsAsJson = Annotated[bool, typer.Option("--json", help="Log JSON lines, also to a terminal.")]
RequirementsFile = Annotated[
    Path | None,
    typer.Option("-r", "--requirements", help="A requirements list, or a YAML manifest (.yml).", metavar="FILE"),
]


@dataclass(frozen=True)
class Invocation:
    """The process's own arguments and environment, read once."""

    arguments: Sequence[str]
    """Those of the agent's forms (``--moderne.agent.…=``, ``-Dmoderne.agent.…=``)."""
    environment: Mapping[str, str]
    foreign: Sequence[str] = ()
    """The names of arguments for the agent's Java and Spring, which nobody reads here."""

    def settings(self, file: Path | None = None, *, json_logs: bool = False, logs: bool = True) -> Settings:
        """Return the validated settings and set up logging with their secrets masked; raises ``SettingsError``.

        Without ``logs``, for a command that has hardly ever something to say, logging is set up when it has.
        """
        return self.reading(file, json_logs=json_logs, logs=logs).settings

    def reading(self, file: Path | None = None, *, json_logs: bool = False, logs: bool = True) -> Reading:
        """Return the settings with the origin of each, as ``settings`` does."""
        from config.logging import configure_logging
        from config.secrets import secret_values
        from config.sources import read
        from config.tracing import tracing_settings

        reading = read(self.arguments, self.environment, file=file)
        settings = reading.settings
        tracing = tracing_settings(self.environment)
        secrets = {*secret_values(settings), *tracing.secrets()}
        late = not logs and not tracing.wanted
        configure_logging(json=json_logs or None, secrets=secrets, agent=settings.nickname, late=late)
        return reading


def invocation(context: typer.Context) -> Invocation:
    """Return what ``cli.main`` put into the context."""
    found = context.obj
    assert isinstance(found, Invocation)  # noqa: S101 - only cli.main makes contexts
    return found
