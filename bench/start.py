"""How long it takes until something is there: help, status, a worker that takes jobs."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.figures import Figure, Goal, Results
from bench.measure import Spent, settle, spending, tree_cpu_seconds
from bench.options import Options
from bench.stack import PREFIX, stack
from tests.support.command import Deployment

_MORE = 3
"""Starts are short, so they are measured that many times as often as other things."""


def measure(options: Options) -> Results:
    """Start commands and a worker; each command once before it is measured, so that it is in the disk cache."""
    rounds = _MORE * options.rounds
    with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
        place = Path(name)
        with stack(place, ["one"], MODERNE_AGENT_VISUALIZATION_MINFREESPACE="1MiB") as running:
            helps = [_command(running.deployment, "--help") for _ in range(rounds + 1)][1:]
            states = [_command(running.deployment, "status", "--json") for _ in range(rounds + 1)][1:]
            single, double = ([_worker(running.deployment, jobs) for _ in range(options.rounds)] for jobs in (1, 2))
    figures = [
        Figure("start", "--help: CPU", "s", [each.cpu_seconds for each in helps], "vizfetch --help"),
        Figure("start", "--help: wall time", "s", [each.wall_seconds for each in helps], "vizfetch --help"),
        Figure("start", "status: CPU", "s", [each.cpu_seconds for each in states], "vizfetch status --json"),
        Figure("start", "status: wall time", "s", [each.wall_seconds for each in states], "vizfetch status --json"),
        *_worker_figures(1, single),
        *_worker_figures(2, double),
    ]
    goals = [
        Goal("start", "--help: CPU seconds", figures[0].median, 0.3, at_least=False, ratio=False),
        Goal("start", "status: CPU seconds", figures[2].median, 0.5, at_least=False, ratio=False),
        Goal("start", "worker ready: seconds", figures[4].median, 3, at_least=False, ratio=False),
        Goal("start", "worker for two jobs ready: seconds", figures[6].median, 3, at_least=False, ratio=False),
    ]
    return Results(figures, goals)


def _command(deployment: Deployment, *words: str) -> Spent:
    with spending() as spent:
        done = deployment.run(*words)
    if done.exit_code != 0:
        raise RuntimeError(f"vizfetch {words} failed:\n{done.errors}")
    return spent


def _worker(deployment: Deployment, jobs: int) -> tuple[float, float]:
    """Return after how many seconds a worker was ready, and what CPU seconds it had taken once it only waited."""
    began = time.monotonic()
    variables = {"MODERNE_AGENT_NICKNAME": "another", f"{PREFIX}CONCURRENCY": str(jobs)}
    with deployment.service("worker", **variables) as worker:
        worker.wait_for("ready.")
        ready = time.monotonic() - began
        settle([worker.process.pid])
        return ready, tree_cpu_seconds(worker.process.pid)


def _worker_figures(jobs: int, found: list[tuple[float, float]]) -> Iterator[Figure]:
    told = f"vizfetch worker, concurrency {jobs}"
    yield Figure("start", f"worker for {jobs}: ready after", "s", [ready for ready, _ in found], told)
    yield Figure("start", f"worker for {jobs}: CPU until it only waits", "s", [cpu for _, cpu in found], told)
