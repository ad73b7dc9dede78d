"""``vizfetch list`` and ``vizfetch pull``: what is published, and how to take it along."""

from pathlib import Path
from typing import Annotated

import typer

from cli.invocation import AsJson, ConfigFile, invocation
from cli.output import print_json, print_table, size


def list_(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the published bundles."""
    from bundles.catalog import published
    from bundles.store import open_store

    bundles = list(published(open_store(invocation(context).settings(config).storage)))
    if as_json:
        print_json([bundle.model_dump(mode="json", by_alias=True) for bundle in bundles])
        return
    heads = ("package", "version", "target", "wheels", "size", "visualizations", "published")
    rows = [
        (
            bundle.name,
            bundle.version,
            f"Python {bundle.target.python}, glibc {bundle.target.glibc}, {bundle.target.architecture}",
            len(bundle.wheels),
            size(sum(wheel.size_bytes for wheel in bundle.wheels)),
            len(bundle.visualizations),
            f"{bundle.created_at:%Y-%m-%d %H:%M}",
        )
        for bundle in bundles
    ]
    print_table(heads, rows)


def pull(
    context: typer.Context,
    package: Annotated[str, typer.Argument(metavar="NAME[==VERSION]")],
    directory: Annotated[Path, typer.Argument(metavar="DIR")],
    as_zip: Annotated[bool, typer.Option("--zip", help="One zip file instead of a folder.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy a published bundle to DIR, verified, ready to be installed offline."""
    from bundles.pull import pull as copy
    from bundles.store import open_store

    name, _, version = package.partition("==")
    store = open_store(invocation(context).settings(config).storage)
    written = copy(store, name, version or None, directory, zip=as_zip)
    if as_json:
        print_json({"files": [str(path) for path in written]})
    else:
        typer.echo(f"{len(written)} files in {directory}")
