"""How groups of commands introduce themselves."""

from typing import Any

from typer.core import TyperGroup


class CommandGroup(TyperGroup):
    """Commands of which ``--help`` tells all that stands in the first paragraph of each; typer would cut it off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - as typer's
        """List the commands."""
        rows = [(name, (command.help or "").partition("\n\n")[0]) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
