"""The list of a real job, fetched by vizfetch, by plain and by strong: with empty caches, and with full ones."""

import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pypi_simple

from bench.figures import Figure, Goal, Results
from bench.measure import Spent, spending
from bench.mirror import Mirror, mirror
from bench.options import Options
from bench.peers import PLAIN, STRONG, Peer, fetch_all
from bench.stack import PREFIX, Stack, direct_children, stack

PACKAGE = "moderne-visualizations-misc"
VERSIONS = ("2.2.0", "2.1.0", "2.0.0", "1.9.0", "1.8.3", "1.7.0", "1.6.0", "1.5.2", "1.4.0", "1.3.0", "1.2.2")
LIST = tuple(f"{PACKAGE}=={version}" for version in VERSIONS)
OURS = "vizfetch"
FOLDER = "vizfetch, folder"
"""With a folder as the store, which is where the peers leave what they fetched."""
MIB = 2**20
_SUBMIT = ("submit", *LIST, "--wait", "--json")
_STORES = frozenset({"valkey", "seaweed"})
"""Servers that a deployment has anyway; the peers leave what they fetched in a folder."""


@dataclass
class Runs:
    """What each way took, round by round, and what came over the network for it."""

    spent: dict[str, list[Spent]] = field(default_factory=dict)
    file_bytes: dict[str, list[float]] = field(default_factory=dict)
    fetched: dict[str, int] = field(default_factory=dict)
    """Of how many packages it got the files; uv refuses one that pip takes, since a dependency was yanked."""
    told: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, told: str, spent: Spent, file_bytes: float, fetched: int) -> None:
        """Add a round."""
        self.fetched[name] = fetched
        self.spent.setdefault(name, []).append(spent)
        self.file_bytes.setdefault(name, []).append(file_bytes)
        self.told[name] = told

    def results(self, part: str, bounds: Mapping[str, float]) -> Results:
        """Return figures of all ways, and by how much vizfetch is better than each."""
        figures = [figure for name in self.spent for figure in self._figures(part, name)]
        goals = [
            goal
            for ours in (OURS, FOLDER)
            for name, bound in bounds.items()
            if {ours, name} <= self.spent.keys()
            for goal in self._goals(part, ours, name, bound)
        ]
        return Results(figures, goals)

    def _figures(self, part: str, name: str) -> Iterator[Figure]:
        spent, told = self.spent[name], self.told[name]
        yield Figure(part, f"{name}: CPU of all processes", "s", [each.cpu_seconds for each in spent], told)
        yield Figure(part, f"{name}: packages fetched", "", [self.fetched[name]], told)
        yield Figure(part, f"{name}: wall time", "s", [each.wall_seconds for each in spent], told)
        yield Figure(part, f"{name}: peak memory", "MiB", [each.peak_bytes / MIB for each in spent], told)
        if part != "public":  # nobody counts there
            yield Figure(
                part, f"{name}: file bytes from the index", "MB", [n / 1e6 for n in self.file_bytes[name]], told
            )
        for service in sorted({service for each in spent for service in each.services}):
            values = [each.services[service] for each in spent]
            yield Figure(part, f"{name}: CPU of {service}, part of it", "s", values, told)

    def _goals(self, part: str, ours: str, peer: str, bound: float) -> Iterator[Goal]:
        """Compare round by round, for each package that was fetched."""
        share = self.fetched[ours] / self.fetched[peer]
        pairs = list(zip(self.spent[peer], self.spent[ours], strict=True))
        cpu = statistics.median(their.cpu_seconds / our.cpu_seconds for their, our in pairs)
        wall = statistics.median(their.wall_seconds / our.wall_seconds for their, our in pairs)
        told = "ours" if ours == OURS else "ours with a folder as the store"
        yield Goal(part, f"{part}: CPU of {peer} to {told}, for each package", share * cpu, bound)
        yield Goal(part, f"{part}: wall time of {peer} to {told}, for each package", share * wall, bound)


def cold(options: Options) -> Results:
    """Fetch the list while everything is empty: the caches, the store, Redis."""
    runs, sums = Runs(), []
    with mirrored(options) as index:
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
                place = Path(name)
                for peer in _peers(options):
                    _run_peer(runs, peer, index, place / peer.name, place / f"home-{peer.name}")
                sums.append(_sums(_cold(place / "ours", runs, index, OURS)))
                _cold(place / "folder", runs, index, FOLDER, store=f"file://{place / 'store'}")
    results = runs.results("cold", {"plain": 5, "strong": 1.5})
    return Results([*results.figures, *_byte_figures(sums)], [*results.goals, *_byte_goals(runs, sums)])


def public(options: Options) -> Results:
    """Fetch the list from the public index, once, everything empty: what the network does is in it, and no goal."""
    runs, index = Runs(), PublicIndex()
    with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
        place = Path(name)
        for peer in _peers(options):
            _run_peer(runs, peer, index, place / peer.name, place / f"home-{peer.name}")
        _cold(place / "ours", runs, index, OURS)
    return runs.results("public", {})


@dataclass(frozen=True)
class PublicIndex:
    """Stands where a mirror does; what it sends is not counted."""

    url: str = pypi_simple.PYPI_SIMPLE_ENDPOINT
    pid: int | None = None

    def counts(self) -> Counter[str]:
        """Return nothing."""
        return Counter()


Index = Mirror | PublicIndex


def _cold(place: Path, runs: Runs, index: Index, name: str, *, store: str | None = None) -> Any:  # noqa: ANN401 - a JSON document
    place.mkdir()
    with installation(place, index, store=store) as running:
        return run_ours(runs, running, index, _SUBMIT, name)


def warm(options: Options) -> Results:
    """Fetch the list in another batch while caches are full; nothing is answered from memory."""
    runs = Runs()
    with mirrored(options) as index, tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
        place = Path(name)
        (place / "ours").mkdir()
        with installation(place / "ours", index) as running:
            run_ours(Runs(), running, index, _SUBMIT)
            for peer in _peers(options):
                _run_peer(Runs(), peer, index, place / f"{peer.name}-first", place / f"home-{peer.name}")
            for number in range(options.rounds):
                for peer in _peers(options):
                    _run_peer(runs, peer, index, place / f"{peer.name}-{number}", place / f"home-{peer.name}")
                run_ours(runs, running, index, (*_SUBMIT, "--anew"))
    return runs.results("warm", {"plain": 7, "strong": 2})


@contextmanager
def mirrored(options: Options, delay_seconds: float = 0) -> Iterator[Mirror]:
    """Serve the list's files from this machine; made from the public index when they are not there."""
    if not (options.mirror / "complete").exists():
        _make_mirror(options.mirror)
    with mirror(options.mirror, delay_seconds=delay_seconds) as index:
        yield index


def _make_mirror(directory: Path) -> None:
    """Let every way fetch the list once while the mirror records what they ask for."""
    with (
        tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name,
        mirror(directory, record=True) as index,
    ):
        place = Path(name)
        for peer in (PLAIN, STRONG):
            fetch_all(peer, index.url, LIST, place / peer.name, place / f"home-{peer.name}")
        (place / "ours").mkdir()
        with installation(place / "ours", index) as running:
            running.deployment.run(*_SUBMIT, seconds=1800)
    (directory / "complete").touch()


@contextmanager
def installation(place: Path, index: Index, *, concurrency: int = 2, store: str | None = None) -> Iterator[Stack]:
    """Run services whose only index is the mirror: one agent, with two jobs at a time.

    ``store`` is the address of another one than the S3 server.
    """
    settings = {
        "MODERNE_AGENT_PYPI_0_URL": index.url,
        # A mirror of packages made for one part has none of those that the look at the start asks for.
        "MODERNE_AGENT_PYPI_0_SKIPVALIDATECONNECTIVITY": "true",
        f"{PREFIX}USEONLYCONFIGURED": "true",
        f"{PREFIX}CONCURRENCY": str(concurrency),
        f"{PREFIX}MINFREESPACE": "1MiB",
    }
    if store is not None:
        settings[f"{PREFIX}STORAGE_URI"] = store
    with stack(place, ["one"], **settings) as running:
        yield running


def run_ours(runs: Runs, running: Stack, index: Index, command: Sequence[str], name: str = OURS) -> Any:  # noqa: ANN401 - a JSON document
    """Submit the list and wait until all is published; return what was printed."""
    before = index.counts()
    services = {each: pid for each, pid in running.pids.items() if each not in _STORES}
    with spending(
        services, ignored=[*([] if index.pid is None else [index.pid]), *(running.pids[each] for each in _STORES)]
    ) as spent:
        done = running.deployment.run(*command, seconds=900)
    if done.exit_code != 0:
        raise RuntimeError(f"vizfetch failed:\n{done.output}\n{done.errors}")
    got = index.counts() - before
    told = f"vizfetch submit LIST {' '.join(word for word in command if word.startswith('--'))}"
    runs.add(name, told, spent, got["fileBytes"], len(done.document["jobs"]))
    return done.document


def _run_peer(runs: Runs, peer: Peer, index: Index, place: Path, home: Path) -> None:
    before = index.counts()
    home.mkdir(exist_ok=True)
    with spending(ignored=direct_children()) as spent:
        files = fetch_all(peer, index.url, LIST, place, home)
    runs.add(peer.name, peer.told, spent, (index.counts() - before)["fileBytes"], sum(map(bool, files)))


def _peers(options: Options) -> Sequence[Peer]:
    return [peer for peer in (PLAIN, STRONG) if peer.name not in options.without]


def _sums(document: Any) -> dict[str, float]:  # noqa: ANN401 - a JSON document
    bundles = [job["bundle"] for job in document["jobs"]]
    return {
        "wheels": sum(len(bundle["wheels"]) for bundle in bundles),
        "distinct": len({wheel for bundle in bundles for wheel in bundle["wheels"]}),
        "size": sum(bundle["sizeBytes"] for bundle in bundles),
        "uploaded": sum(bundle["uploadedBytes"] for bundle in bundles),
    }


def _byte_figures(sums: Sequence[Mapping[str, float]]) -> Iterator[Figure]:
    names: list[tuple[str, str, str, Callable[[float], float]]] = [
        ("wheels", "wheels in all bundles", "", float),
        ("distinct", "of them distinct", "", float),
        ("size", "bytes in all bundles", "MB", lambda value: value / 1e6),
        ("uploaded", "bytes uploaded", "MB", lambda value: value / 1e6),
    ]
    for key, name, unit, scaled in names:
        yield Figure("cold", f"{OURS}: {name}", unit, [scaled(each[key]) for each in sums], "the jobs' bundles")


def _byte_goals(runs: Runs, sums: Sequence[Mapping[str, float]]) -> Iterator[Goal]:
    downloaded = runs.file_bytes[OURS]
    pairs = [got / each["uploaded"] for got, each in zip(downloaded, sums, strict=True)]
    # Metadata files come on top of the wheels; they are below a thousandth.
    yield Goal("cold", "cold: file bytes from the index to bytes uploaded", max(pairs), 1.01, at_least=False)
