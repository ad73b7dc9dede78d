"""``vizfetch cache``: what the index gateway keeps on this machine."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.audit import recorded
from cli.invocation import AsJson, ConfigFile, invocation
from cli.output import print_json, print_table
from jobs.words import size


def cache(
    context: typer.Context,
    empty: Annotated[bool, typer.Option("--clear", help="Remove everything; agents may go on working.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what is cached of the indexes, or clear it."""
    from worker.gateway.upkeep import clear

    whole = invocation(context).settings(config)
    settings = whole.cache
    before = _document(settings.directory, settings.max_size_bytes)
    if empty:
        with recorded(whole, "cache_clear", directory=str(settings.directory)):
            clear(settings.directory)
    document = _document(settings.directory, settings.max_size_bytes)
    if empty:
        freed = _total(before) - _total(document)
        document |= {"clearedBytes": freed}
    if as_json:
        print_json(document)
        return
    rows = [(sort, document[sort]["count"], size(document[sort]["sizeBytes"])) for sort in ("files", "pages")]
    typer.echo(f"{settings.directory}, which may grow to {size(settings.max_size_bytes)}")
    print_table(("", "entries", "size"), rows)
    if empty:
        typer.echo(f"{size(freed)} cleared")


def _document(directory: Path, max_size_bytes: int) -> dict[str, Any]:
    from worker.gateway.upkeep import usage

    used = usage(directory)
    last = None if used.last_used is None else datetime.fromtimestamp(used.last_used, UTC).isoformat(timespec="seconds")
    return {
        "directory": str(directory),
        "maxSizeBytes": max_size_bytes,
        "files": {"count": used.files.count, "sizeBytes": used.files.size_bytes},
        "pages": {"count": used.pages.count, "sizeBytes": used.pages.size_bytes},
        "lastUsed": last,
    }


def _total(document: dict[str, Any]) -> int:
    return int(document["files"]["sizeBytes"] + document["pages"]["sizeBytes"])
