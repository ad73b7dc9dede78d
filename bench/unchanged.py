"""How many jobs a second are answered from memory, when nothing has changed since they were published.

    PYTHONPATH=. .venv/bin/python -m bench.unchanged [--packages 30] [--rounds 20] [--ttl 10m]

Publishes the packages once from an index on this machine, then queues them again in so many batches, and counts: jobs a
second, pips started, and what the index was asked. Exits with 1 when a job was fetched again or an index was asked
unconditionally.
"""

import argparse
import tempfile
import time
from pathlib import Path

from bench.stack import PREFIX, stack
from config.settings import RedisSettings
from jobs.connection import connect
from jobs.store import StatusStore
from tests.support.command import Deployment
from tests.support.index_server import IndexServer
from tests.support.wheels import build_wheel


def main() -> int:
    """Run it and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--ttl", default="10m", help="moderne.agent.visualization.cache.pageTtl")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vizfetch-unchanged-") as name, IndexServer(etags=True) as index:
        place = Path(name)
        names = _offer(index, place, options.packages)
        variables = {
            f"{PREFIX}USEONLYCONFIGURED": "true",
            f"{PREFIX}CACHE_PAGETTL": options.ttl,
            f"{PREFIX}CONCURRENCY": "2",
            f"{PREFIX}MINFREESPACE": "1MiB",
            "MODERNE_AGENT_PYPI_0_URL": index.url,
        }
        with stack(place, ["one"], **variables) as running:
            return _measure(running.deployment, index, names, options.rounds)


def _offer(index: IndexServer, place: Path, count: int) -> list[str]:
    base = build_wheel(place, "acme-base", "1.0")
    index.add(base.name, base)
    names = [f"acme-{number}" for number in range(count)]
    for name in names:
        wheel = build_wheel(place, name, "1.0", requires=["acme-base"], visualizations=["bars"])
        index.add(wheel.name, wheel)
    return names


def _measure(deployment: Deployment, index: IndexServer, names: list[str], rounds: int) -> int:
    begin = time.monotonic()
    first = deployment.run("submit", *names, "--wait", "--json", seconds=900)
    print(f"first: {len(names)} packages in {time.monotonic() - begin:.1f} s, exit code {first.exit_code}")
    index.requests.clear()
    redis = connect(RedisSettings.model_validate({"url": deployment.variables[f"{PREFIX}REDIS_URL"]}))
    store = StatusStore(redis)
    specs = [spec for spec in map(store.spec, store.members(first.document["id"])) if spec]
    begin = time.monotonic()
    batches = [f"again-{number}" for number in range(rounds)]
    for batch in batches:
        store.enqueue(batch, specs)
    while store.unfinished() != (0, 0):
        time.sleep(0.05)
    seconds = time.monotonic() - begin
    found = [store.batch(batch) for batch in batches]
    redis.close()
    jobs = [job for batch in found for job in batch.jobs]
    fetched = [job for job in jobs if job.bundle is None or not job.bundle.unchanged]
    conditional = sum("If-None-Match" in request.headers for request in index.requests)
    print(f"again: {len(jobs)} jobs in {seconds:.1f} s: {len(jobs) / seconds:.0f} a second")
    print(
        f"       {len(fetched)} fetched again, {len(index.requests)} requests to the index, {conditional} conditional"
    )
    return 0 if not fetched and conditional == len(index.requests) else 1


if __name__ == "__main__":
    raise SystemExit(main())
