"""``vizfetch list``, ``pull``, ``verify``, ``rebuild`` and ``collect``: what is published, and the care for it."""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from cli.audit import recorded
from cli.invocation import AsJson, ConfigFile, invocation
from cli.output import print_error, print_json, print_table
from jobs.words import size

if TYPE_CHECKING:  # imported when a command needs it: the others start faster
    from bundles.collect import Collection
    from bundles.errors import BrokenBundle
    from bundles.models import Bundle
    from bundles.verify import Report
    from config.settings import Settings

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130


def list_(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Show the published bundles, newest versions first.

    Exits with 1 when one of them cannot be read; `vizfetch verify --all` tells more.
    """
    from bundles.catalog import survey
    from bundles.layout import bundle_folder
    from bundles.store import open_store

    store = open_store(invocation(context).settings(config).storage)
    found = survey(store)
    if as_json:
        print_json([_document(bundle, store.uri(bundle_folder(bundle))) for bundle in found.bundles])
    elif found.bundles:
        _print_bundles(found.bundles)
    else:
        typer.echo(f"nothing is published in {store.uri('')}")
    _report_broken(found.broken)


def pull(
    context: typer.Context,
    package: Annotated[str, typer.Argument(metavar="NAME[==VERSION]", help="The newest version when none is given.")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it; made when it is not there.")],
    as_zip: Annotated[bool, typer.Option("--zip", help="One zip file instead of a folder.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy a published bundle to DIR, every byte verified, ready to be installed offline.

    After an interruption, run it again: what is there already is kept, and a wheel that is there in part is continued.
    """
    from bundles.pull import pull as copy
    from bundles.store import open_store

    name, _, version = package.partition("==")
    store = open_store(invocation(context).settings(config).storage)
    try:
        written = copy(store, name, version or None, directory, zip=as_zip)
    except KeyboardInterrupt:
        _end_at_once()
    if as_json:
        print_json({"files": [str(path) for path in written]})
    elif as_zip:
        typer.echo(f"{written[0]}\nunpack it, and install offline, with pip from 26.1:")
        typer.echo("  pip install --no-index -r pylock.toml")
    else:
        typer.echo(f"{_count(len(written), 'file')} in {directory}; install offline, with pip from 26.1:")
        typer.echo(f"  pip install --no-index -r {directory / 'pylock.toml'}")


def verify(
    context: typer.Context,
    packages: Annotated[
        list[str] | None, typer.Argument(metavar="NAME[==VERSION]", help="The bundles to verify.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All bundles, and everything else in the store.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Read published bundles again from the store and report everything that is not as it was published.

    Exits with 1 when something is wrong. Nothing is changed: to mend a bundle, delete the objects that are named and
    fetch the package again.
    """
    from bundles.store import open_store
    from bundles.verify import Wanted
    from bundles.verify import verify as read_again

    if everything == bool(packages):
        raise typer.BadParameter("name packages, or give --all", param_hint="NAME... | --all")
    wanted = [Wanted(name, version or None) for name, _, version in (each.partition("==") for each in packages or [])]
    report = read_again(open_store(invocation(context).settings(config).storage), wanted)
    if as_json:
        print_json(_report_document(report))
    else:
        _print_report(report)
    raise typer.Exit(_EXIT_FAILED if report.issues else 0)


def rebuild(context: typer.Context, config: ConfigFile = None, as_json: AsJson = False) -> None:
    """Make the catalogue in Redis anew from the store alone, after Redis lost it.

    Exits with 1 when a bundle cannot be read; the others are in the catalogue then.
    """
    from bundles.catalog import survey
    from bundles.layout import bundle_folder
    from bundles.store import open_store
    from jobs.catalog import Catalog, catalog_entry
    from jobs.connection import connect

    settings = invocation(context).settings(config)
    store = open_store(settings.storage)
    with connect(settings.redis) as redis:
        catalog = Catalog(redis, prefix=settings.redis.prefix)
        known = catalog.keys()
        found = survey(store)
        with recorded(settings, "rebuild", bundles=len(found.bundles)):
            catalog.replace(known, (catalog_entry(each, store.uri(bundle_folder(each))) for each in found.bundles))
    if as_json:
        print_json({"bundles": len(found.bundles), "broken": _broken_documents(found.broken)})
    else:
        typer.echo(f"{_count(len(found.bundles), 'bundle')} in the catalogue")
    _report_broken(found.broken)


def collect(
    context: typer.Context,
    keep: Annotated[
        int | None,
        typer.Option("--keep", min=1, metavar="N", help="Keep the N newest versions for each package and target."),
    ] = None,
    older_than: Annotated[
        str | None,
        typer.Option(
            "--older-than",
            metavar="TIME",
            help="Remove only bundles published longer ago than this, such as 90d; the newest version always stays.",
        ),
    ] = None,
    grace: Annotated[
        str, typer.Option("--grace", metavar="TIME", help="Leave wheels alone that no bundle names and are younger.")
    ] = "1h",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed; change nothing.")] = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove bundles by rule, and what no bundle needs: wheels that none names, leftovers of killed workers.

    Without --keep and --older-than no bundle is removed. With both, those that neither keeps. It may run while workers
    publish.
    """
    from bundles.collect import Rules
    from bundles.collect import collect as remove
    from bundles.store import open_store

    rules = Rules(
        keep,
        None if older_than is None else _time(older_than, "--older-than"),
        _time(grace, "--grace"),
    )
    settings = invocation(context).settings(config)
    store, now = open_store(settings.storage), datetime.now(UTC)
    if dry_run:
        done = remove(store, rules, now=now, dry_run=True)
    else:
        with recorded(settings, "collect", keep=keep, older_than=older_than, grace=grace) as also:
            done = remove(store, rules, now=now)
            _forget(settings, done.bundles)
            also["bundles"] = [f"{each.name}/{each.version}/{each.id}" for each in done.bundles]
            also["objects"] = len(done.objects)
    if as_json:
        print_json(_collection_document(done, dry_run=dry_run))
    else:
        _print_collection(done, dry_run=dry_run)
    _report_broken(done.broken)


def _end_at_once() -> NoReturn:
    """End as an interrupted command does, without waiting for threads: a silent store keeps them for minutes."""
    print_error("interrupted; run it again to continue")
    sys.stderr.flush()
    os._exit(_EXIT_INTERRUPTED)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _time(text: str, option: str) -> timedelta:
    from config.durations import parse_duration

    try:
        return timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def _forget(settings: "Settings", bundles: "Sequence[Bundle]") -> None:
    """Take removed bundles out of the catalogue, if there is one to be reached."""
    from jobs.catalog import Catalog, catalog_entry
    from jobs.connection import connect
    from jobs.store import StatusUnavailable

    if not bundles:
        return
    with connect(settings.redis) as redis:
        try:
            Catalog(redis, prefix=settings.redis.prefix).remove(catalog_entry(each, "").key for each in bundles)
        except StatusUnavailable as error:
            print_error(f"the catalogue still has what was removed; `vizfetch rebuild` mends that ({error})")


def _report_broken(broken: "Iterable[BrokenBundle]") -> None:
    """Tell of bundles that cannot be read, and exit with 1 when there are any."""
    errors = list(broken)
    for error in errors:
        print_error(str(error))
    if errors:
        raise typer.Exit(_EXIT_FAILED)


def _document(bundle: "Bundle", uri: str) -> dict[str, Any]:
    return {"uri": uri, "sizeBytes": bundle.size_bytes, **bundle.model_dump(mode="json", by_alias=True)}


def _broken_documents(broken: "Iterable[BrokenBundle]") -> list[dict[str, Any]]:
    return [{"object": error.path, "issues": list(error.issues)} for error in broken]


def _report_document(report: "Report") -> dict[str, Any]:
    return {
        "bundles": report.bundles,
        "objects": report.objects,
        "sizeBytes": report.size_bytes,
        "issues": [{"object": each.object, "issue": each.issue} for each in report.issues],
    }


def _collection_document(done: "Collection", *, dry_run: bool) -> dict[str, Any]:
    return {
        "dryRun": dry_run,
        "bundles": [{"name": each.name, "version": each.version, "id": each.id} for each in done.bundles],
        "objects": list(done.objects),
        "freedBytes": done.freed_bytes,
        "spared": done.spared,
        "unfinished": done.unfinished,
        "broken": _broken_documents(done.broken),
    }


def _print_bundles(bundles: "Iterable[Bundle]") -> None:
    heads = ("package", "version", "target", "wheels", "size", "visualizations", "published")
    rows = [
        (
            bundle.name,
            bundle.version,
            f"Python {bundle.target.python}, glibc {bundle.target.glibc}, {bundle.target.architecture}",
            len(bundle.wheels),
            size(bundle.size_bytes),
            len(bundle.visualizations),
            f"{bundle.created_at:%Y-%m-%d %H:%M}",
        )
        for bundle in bundles
    ]
    print_table(heads, rows)


def _print_report(report: "Report") -> None:
    for each in report.issues:
        typer.echo(f"{each.object}: {each.issue}")
    read = f"{_count(report.bundles, 'bundle')}, {_count(report.objects, 'object')}, {size(report.size_bytes)} read"
    if report.issues:
        found = _count(len(report.issues), "issue")
        typer.echo(
            f"{read}: {found}. To mend a bundle, delete these objects and fetch it again (vizfetch submit --anew)."
        )
    else:
        typer.echo(f"{read}: everything is as it was published")


def _print_collection(done: "Collection", *, dry_run: bool) -> None:
    for bundle in done.bundles:
        typer.echo(f"{bundle.name} {bundle.version} ({bundle.id})")
    verb = "would be removed" if dry_run else "removed"
    removed = f"{_count(len(done.bundles), 'bundle')} and {_count(len(done.objects), 'object')}"
    typer.echo(f"{removed} {verb}, {size(done.freed_bytes)}")
    if done.spared:
        typer.echo(f"{_count(done.spared, 'object')} stayed: somebody publishes with them just now")
    if done.broken:
        typer.echo("no wheel was removed, since bundles that cannot be read may need it")
    if done.unfinished:
        typer.echo("time ran out before all was removed: run it again")
