"""How many jobs a second are answered from memory, when nothing has changed since they were published.

Publishes packages once from an index on this machine, then queues them again in many batches, and counts jobs a second
and what the index was asked: with a page's time at its default, and with one of none, so that each page is asked about.
"""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.figures import Figure, Goal, Results
from bench.measure import spending
from bench.options import Options
from bench.stack import PREFIX, Stack, stack
from config.settings import RedisSettings
from jobs.connection import connect
from jobs.store import StatusStore
from tests.support.index_server import IndexServer
from tests.support.wheels import build_wheel

_PACKAGES = 30
_BATCHES = 20
_TOLD = f"vizfetch submit, {_PACKAGES} packages, {_BATCHES} times"


def measure(options: Options) -> Results:
    """Run it with pages that are fresh, and with pages that are asked about each time."""
    fresh = [_once("10m") for _ in range(options.rounds)]
    asked = _once("0s")
    figures = [
        Figure("unchanged", "jobs answered from memory", "jobs/s", [each["rate"] for each in fresh], _TOLD),
        Figure("unchanged", "CPU of all services", "ms/job", [each["cpu"] for each in fresh], _TOLD),
        Figure("unchanged", "jobs/s where pages are asked about each time", "jobs/s", [asked["rate"]], _TOLD),
        Figure("unchanged", "requests for it", "", [asked["requests"]], _TOLD),
    ]
    goals = [
        Goal("unchanged", "unchanged: jobs a second", figures[0].median, 50, ratio=False),
        Goal(
            "unchanged",
            "unchanged: jobs fetched again",
            sum(each["fetched"] for each in [*fresh, asked]),
            0,
            at_least=False,
        ),
        Goal("unchanged", "unchanged: unconditional requests", asked["unconditional"], 0, at_least=False),
    ]
    return Results(figures, goals)


def _once(page_ttl: str) -> Mapping[str, float]:
    with tempfile.TemporaryDirectory(prefix="vizfetch-unchanged-") as name, IndexServer(etags=True) as index:
        place = Path(name)
        names = _offer(index, place)
        variables = {
            f"{PREFIX}USEONLYCONFIGURED": "true",
            f"{PREFIX}CACHE_PAGETTL": page_ttl,
            f"{PREFIX}CONCURRENCY": "2",
            f"{PREFIX}MINFREESPACE": "1MiB",
            "MODERNE_AGENT_PYPI_0_URL": index.url,
        }
        with stack(place, ["one"], **variables) as running:
            return _again(running, index, names)


def _offer(index: IndexServer, place: Path) -> list[str]:
    base = build_wheel(place, "acme-base", "1.0")
    index.add(base.name, base)
    names = [f"acme-{number}" for number in range(_PACKAGES)]
    for name in names:
        wheel = build_wheel(place, name, "1.0", requires=["acme-base"], visualizations=["bars"])
        index.add(wheel.name, wheel)
    return names


def _again(running: Stack, index: IndexServer, names: list[str]) -> Mapping[str, float]:
    first: Any = running.deployment.run("submit", *names, "--wait", "--json", seconds=900).document
    index.requests.clear()
    redis = connect(RedisSettings.model_validate({"url": running.deployment.variables[f"{PREFIX}REDIS_URL"]}))
    store = StatusStore(redis)
    specs = [order.spec for order in store.orders(store.members(first["id"])).values()]
    batches = [f"again-{number}" for number in range(_BATCHES)]
    with spending(running.pids) as spent:
        for batch in batches:
            store.enqueue(batch, specs)
        while store.unfinished() != (0, 0):
            time.sleep(0.05)
    jobs = [job for batch in batches for job in store.batch(batch).jobs]
    redis.close()
    return {
        "rate": len(jobs) / spent.wall_seconds,
        "cpu": 1000 * spent.cpu_seconds / len(jobs),
        "fetched": sum(job.bundle is None or not job.bundle.unchanged for job in jobs),
        "requests": len(index.requests),
        "unconditional": sum("If-None-Match" not in request.headers for request in index.requests),
    }
