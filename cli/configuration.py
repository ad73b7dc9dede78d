"""``vizfetch config``: the settings that hold, and where each comes from."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.invocation import AsJson, ConfigFile, invocation
from cli.output import console, print_json
from config.names import OURS
from config.problems import Problem, SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from config.sources import Effective, Reading

_EXIT_CONFIG = 78
_LEAF_WIDTH = 26
_VALUE_WIDTH = 20


def config(
    context: typer.Context,
    migrate: Annotated[
        bool, typer.Option("--migrate", help="The same settings under the Connector's names, as a file for --config.")
    ] = False,
    show_secrets: Annotated[
        bool, typer.Option("--show-secrets", help="With --migrate: write the secrets as well.")
    ] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the settings that hold, secrets masked, each with where it comes from.

    Exits with 78 when the settings are wrong, and says everything that is.
    """
    if show_secrets and not migrate:
        raise typer.BadParameter("--show-secrets goes with --migrate")
    try:
        reading = invocation(context).reading(config)
    except SettingsError as error:
        if not as_json:
            raise
        print_json({"problems": [_problem(problem) for problem in error.problems]})
        raise typer.Exit(_EXIT_CONFIG) from None
    if migrate:
        _migrate(reading, show_secrets=show_secrets, as_json=as_json)
    elif as_json:
        print_json({"settings": [_row(row) for row in reading.effective]})
    else:
        _print(reading.effective)


def _migrate(reading: Reading, *, show_secrets: bool, as_json: bool) -> None:
    """Print the file. As JSON, which is YAML too, it has no comments: what they say goes to standard error."""
    import yaml

    from config.migration import as_json as to_json
    from config.migration import migrate

    text = migrate(reading.settings, reading.effective, show_secrets=show_secrets)
    if not as_json:
        sys.stdout.write(text)
        return
    sys.stdout.write(to_json(yaml.safe_load(text) or {}))
    sys.stderr.writelines(f"{line.removeprefix('# ')}\n" for line in text.splitlines() if line.startswith("# "))


def _problem(problem: Problem) -> dict[str, Any]:
    return {"source": problem.source, "name": problem.name, "line": problem.line, "message": problem.message}


def _row(row: Effective) -> dict[str, Any]:
    return {
        "name": row.name,
        "value": row.value or None,
        "source": row.source,
        "written": row.written,
        "line": row.line,
        "secretFile": _text(row.secret_file),
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _print(rows: Iterable[Effective]) -> None:
    """Print a paragraph for each group of settings, so that their names need not be repeated in full."""
    from rich.text import Text

    out, unset = console(), 0
    groups: dict[str, list[Effective]] = {}
    for row in rows:
        unset += not row.value
        if row.value:
            groups.setdefault(_split(row.name)[0], []).append(row)
    for group, members in groups.items():
        out.print(Text(group, style="bold"))
        out.print(_table(members))
    out.print(f"{unset} more are not set and have no default; --json lists them.", style="dim")


def _table(rows: Iterable[Effective]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=_LEAF_WIDTH, no_wrap=True)
    table.add_column(min_width=_VALUE_WIDTH, overflow="fold")
    table.add_column(overflow="fold")
    for row in rows:
        style = "dim" if row.written is None else ""
        table.add_row(f"  {_split(row.name)[1]}", Text(row.value, style=style), Text(_origin(row), style="dim"))
    return table


def _split(name: str) -> tuple[str, str]:
    """Split a name after what it shares with its neighbours."""
    from config.sources import PUBLIC

    if name == PUBLIC:
        return "the public index", "url"
    for end in ("].", f"{OURS}."):
        head, found, leaf = name.partition(end)
        if found:
            return f"{head}{end}".rstrip("."), leaf
    group, _, leaf = name.rpartition(".")
    return group, leaf


def _origin(row: Effective) -> str:
    if row.written is None:
        return row.source
    place = row.source if row.line is None else f"{row.source} line {row.line}"
    file = f", from {row.secret_file}" if row.secret_file else ""
    return f"{place}: {row.written}{file}"
