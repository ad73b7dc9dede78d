"""What a job costs besides its fetch: a fetch that does nothing, beside a bare Celery task on the same Valkey."""

import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from bench import bare
from bench.figures import Figure, Goal, Results
from bench.measure import settle, spending
from bench.mirror import mirror
from bench.options import Options
from bench.stack import PREFIX, direct_children
from config.settings import RedisSettings, Target
from jobs.connection import connect
from jobs.models import JobSpec
from jobs.store import StatusStore
from tests.support.command import Deployment, eventually
from tests.support.valkey import valkey

_QUEUED = (10, 1_000, 10_000)
_CONCURRENCY = 2
_AT_MOST_MS = 5.0
_WAIT_SECONDS = 1200
_FIRST = 40
_AT_LEAST = 200
"""Jobs in a measurement: CPU time is told in hundredths of a second, so few at once are run more than once."""
_LOOK_EVERY_SECONDS = 0.1


@dataclass(frozen=True)
class _Place:
    """Where both kinds of worker run."""

    deployment: Deployment
    redis: Redis
    url: str
    valkey: int

    @contextmanager
    def service(self, log: str, *arguments: str, ready: str) -> Iterator[int]:
        """Run a module of the bench until the block is left; yields its pid when ``ready`` stands in its log."""
        path = self.deployment.directory / log
        with path.open("wb") as output:
            command = [sys.executable, "-m", *arguments]
            process = subprocess.Popen(command, env=self._environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            eventually(lambda: ready in path.read_text(), 60, path.read_text)
            yield process.pid
        finally:
            process.terminate()
            process.wait()

    @property
    def _environment(self) -> dict[str, str]:
        return self.deployment.environment | {"PYTHONPATH": str(Path(__file__).parents[1])}


def measure(options: Options) -> Results:
    """Run so many jobs that do nothing, all queued at once, and so many bare tasks."""
    figures: list[Figure] = []
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name, _place(Path(name)) as place:
        for count in _QUEUED:
            rounds = options.rounds if count < max(_QUEUED) else 1
            plain = [_bare(place, count) for _ in range(rounds)]
            ours = [_ours(place, count) for _ in range(rounds)]
            found = [
                Figure(
                    "overhead", f"bare Celery task, {count} queued", "ms CPU/task", plain, f"bench.bare, {count} tasks"
                ),
                Figure(
                    "overhead", f"vizfetch job, {count} queued", "ms CPU/job", ours, f"bench.idle_worker, {count} jobs"
                ),
            ]
            figures += found
            goals += _goals(count, *(figure.median for figure in found))
    return Results(figures, goals)


def _goals(count: int, bare_ms: float, job_ms: float) -> Iterator[Goal]:
    name = f"overhead: ms of CPU more than a bare task, {count}"
    yield Goal("overhead", name, job_ms - bare_ms, _AT_MOST_MS, at_least=False, ratio=False)
    yield Goal("overhead", f"overhead: CPU of a job to a bare task's, {count}", job_ms / bare_ms, None, at_least=False)


@contextmanager
def _place(place: Path) -> Iterator[_Place]:
    with ExitStack() as running:
        before = direct_children()
        settings = running.enter_context(valkey(place / "valkey"))
        pid = (direct_children() - before).pop()
        index = running.enter_context(mirror(place / "index"))
        url = settings.url.get_secret_value()
        variables = {
            f"{PREFIX}REDIS_URL": url,
            f"{PREFIX}CACHE_DIRECTORY": str(place / "cache"),
            f"{PREFIX}STORAGE_URI": f"file://{place / 'store'}",
            f"{PREFIX}CONCURRENCY": str(_CONCURRENCY),
            f"{PREFIX}MINFREESPACE": "1MiB",
            f"{PREFIX}USEONLYCONFIGURED": "true",
            "MODERNE_AGENT_PYPI_0_URL": index.url,
            "MODERNE_AGENT_PYPI_0_SKIPVALIDATECONNECTIVITY": "true",
        }
        redis = running.enter_context(connect(RedisSettings.model_validate({"url": url})))
        yield _Place(Deployment(variables, place), redis, url, pid)


def _ours(place: _Place, count: int) -> float:
    """Return CPU milliseconds for each job: enqueue, scheduler, worker and Valkey together."""
    place.redis.flushall()
    store = StatusStore(place.redis)

    def submit(many: int) -> None:
        specs = [JobSpec(requirement=f"package-{number}", target=Target()) for number in range(many)]
        store.enqueue(f"b-{secrets.token_hex(4)}", specs)

    with (
        place.deployment.service("scheduler") as scheduler,
        place.service("idle.log", "bench.idle_worker", "worker", ready="ready.") as worker,
    ):
        services = {"scheduler": scheduler.process.pid, "worker": worker, "valkey": place.valkey}
        return _milliseconds(services, count, submit, lambda: store.unfinished() == (0, 0))


def _bare(place: _Place, count: int) -> float:
    place.redis.flushall()
    sender = bare.app(place.url)

    def send(many: int) -> None:
        for _ in range(many):
            sender.send_task("nothing", kwargs={"job": "j-0123456789abcdef", "attempt": 1})

    with place.service("bare.log", "bench.bare", place.url, "worker", str(_CONCURRENCY), ready="[queues]") as worker:
        return _milliseconds(
            {"worker": worker, "valkey": place.valkey},
            count,
            send,
            lambda: place.redis.llen("celery") == 0 and place.redis.hlen("unacked") == 0,
        )


def _milliseconds(
    services: dict[str, int], count: int, submit: Callable[[int], object], done: Callable[[], bool]
) -> float:
    """Measure ``count`` jobs or tasks at once after some others, with which all has been imported and connected.

    The services only wait by then: what their start still does in the background is not the jobs'.
    """

    def run(many: int) -> float:
        began = time.process_time()
        submit(many)
        own = time.process_time() - began
        deadline = time.monotonic() + _WAIT_SECONDS
        while not done() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_SECONDS)
        return own

    run(_FIRST)
    settle(services.values())
    times = max(1, _AT_LEAST // count)
    with spending(services) as spent:
        own = sum(run(count) for _ in range(times))
    return 1000 * (own + spent.cpu_seconds) / (count * times)
