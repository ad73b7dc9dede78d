"""What stays in memory: at rest, while a wheel of 1 GB passes through, and after many jobs."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.figures import Figure, Goal, Results
from bench.latency import put
from bench.lists import MIB, installation
from bench.measure import memory_bytes
from bench.mirror import mirror
from bench.options import Options
from bench.stack import Stack
from config.settings import RedisSettings, Target
from jobs.connection import connect
from jobs.models import JobSpec
from jobs.store import StatusStore
from tests.support.command import children

_LARGE_BYTES = 2**30
_BLOCK_BYTES = 16 * 2**20
_QUEUED = 10_000
_AGAIN = 20
_AT_ONCE = 500
_MANY = "an equal job many times"
_LIVED = 3
"""Looks at a process that say something of whether it grows."""
_GROWTH = 1.05


def measure(_options: Options) -> Results:
    """Look at the processes of one installation, one thing after the other."""
    with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
        place = Path(name)
        content = {f"acme_large/block-{n}.bin": _noise(n) for n in range(_LARGE_BYTES // _BLOCK_BYTES)}
        put(place / "index", "acme-large", requires=[], files=content)
        del content
        put(place / "index", "acme", requires=[])
        (place / "ours").mkdir()
        with (
            mirror(place / "index") as index,
            installation(place / "ours", index, concurrency=1) as running,
        ):
            return _look(running)


def _look(running: Stack) -> Results:
    running.deployment.run("submit", "acme", "--wait", "--json", seconds=120)
    rest = _worker(running)
    peaks = _peaks_during(running, ["submit", "acme-large", "--wait", "--json"])
    lives = _lives(running)
    scheduler = _scheduler_with_queue(running)
    figures = [
        *(
            Figure("memory", f"worker {part} at rest (RSS)", "MiB", [size / MIB], "vizfetch worker")
            for part, size in rest.items()
        ),
        *(
            Figure("memory", f"worker {part}, highest with 1 GB", "MiB", [size / MIB], "vizfetch submit acme-large")
            for part, size in peaks.items()
        ),
        *(
            Figure(
                "memory",
                f"{part}, after each {_AT_ONCE} jobs",
                "MiB",
                [size / MIB for life in each for size in life],
                _MANY,
            )
            for part, each in lives.items()
        ),
        Figure("memory", "scheduler with 10,000 jobs", "MiB", [scheduler / MIB], "vizfetch scheduler"),
    ]
    most, more = max(rest.values()) / MIB, max(peaks[part] - rest[part] for part in rest) / MIB
    goals = [
        Goal("memory", "memory: worker process at rest, MiB", most, 120, at_least=False, ratio=False),
        Goal("memory", "memory: more with a wheel of 1 GB, MiB", more, 64, at_least=False, ratio=False),
        Goal("memory", "memory: scheduler with 10,000 jobs, MiB", scheduler / MIB, 120, at_least=False, ratio=False),
        *(
            Goal("memory", f"memory: {part} after all its jobs to half of them", _growth(each), _GROWTH, at_least=False)
            for part, each in lives.items()
        ),
    ]
    return Results(figures, goals)


def _noise(number: int) -> bytes:
    import random  # noqa: PLC0415

    return random.Random(number).randbytes(_BLOCK_BYTES)  # noqa: S311 - content that does not compress


def _worker(running: Stack) -> dict[str, int]:
    """Return what each of an agent's processes holds (RSS)."""
    found: dict[str, int] = {}
    for part, pid in _processes(running):
        found[part] = max(found.get(part, 0), memory_bytes(pid, "Rss"))
    return found


def _processes(running: Stack) -> Iterator[tuple[str, int]]:
    pid = running.pids["one"]
    yield "main", pid
    for child in children(pid):
        yield _part(child), child


def _lives(running: Stack) -> dict[str, list[list[int]]]:
    """Run many jobs, and return what each process held meanwhile, one list for each of those that took turns."""
    lives: dict[str, dict[int, list[int]]] = {}
    for number in range(_AGAIN):
        _many(running, f"again-{number}")
        for part, pid in [*_processes(running), ("scheduler", running.pids["scheduler"])]:
            lives.setdefault(part, {}).setdefault(pid, []).append(memory_bytes(pid, "Rss"))
    return {part: list(each.values()) for part, each in lives.items()}


def _growth(lives: list[list[int]]) -> float:
    """Return how much more a process held at last than half-way, of those that were seen often enough."""
    return max(life[-1] / life[len(life) // 2] for life in lives if len(life) >= _LIVED)


def _part(pid: int) -> str:
    command = b""
    with suppress(FileNotFoundError, ProcessLookupError):  # pip ends at any moment
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    if b"worker.gateway" in command:
        return "gateway"
    return "pip and its server" if b"pip_fork" in command else "child"


def _peaks_during(running: Stack, command: list[str]) -> dict[str, int]:
    peaks: dict[str, int] = {}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            for part, size in _worker(running).items():
                peaks[part] = max(peaks.get(part, 0), size)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    finished = running.deployment.run(*command, seconds=600)
    done.set()
    watcher.join()
    if finished.exit_code != 0:
        raise RuntimeError(f"the large wheel failed:\n{finished.output}")
    return peaks


def _store(running: Stack) -> StatusStore:
    variables = running.deployment.variables
    return StatusStore(
        connect(RedisSettings.model_validate({"url": variables["MODERNE_AGENT_VISUALIZATION_REDIS_URL"]}))
    )


def _many(running: Stack, batch: str) -> None:
    """Have an equal job run many times: each batch holds it once."""
    store = _store(running)
    for number in range(_AT_ONCE):
        store.enqueue(f"{batch}-{number}", [JobSpec(requirement="acme", target=Target())])
    while store.unfinished() != (0, 0):
        time.sleep(0.1)


def _scheduler_with_queue(running: Stack) -> int:
    store = _store(running)
    # A target that nobody serves: they stay queued.
    other = Target(python="3.99")
    store.enqueue("b-waiting", [JobSpec(requirement=f"waiting-{number}", target=other) for number in range(_QUEUED)])
    time.sleep(3)
    return memory_bytes(running.pids["scheduler"], "Rss")
