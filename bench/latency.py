"""An index that takes 200 ms for every answer: what eight workers get done, beside what one does.

Each package has dependencies of its own, so that no job finds in the cache what another has waited for.
"""

import json
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from bench.figures import Figure, Goal, Results
from bench.lists import installation
from bench.mirror import Mirror, mirror
from bench.options import Options
from tests.support.wheels import build_wheel

DELAY_SECONDS = 0.2
_WORKERS = 8
_DEPENDENCIES = 8
"""Each is a page and a wheel; a real package of the list has 35."""
_JOBS_EACH = 4


def measure(options: Options) -> Results:
    """Fetch as many packages for each worker by one worker and by eight."""
    alone: list[float] = []
    together: list[float] = []
    for _ in range(options.rounds):
        alone.append(_jobs_each_second(1))
        together.append(_jobs_each_second(_WORKERS))
    told = f"vizfetch submit, index after {DELAY_SECONDS} s, {_DEPENDENCIES} dependencies"
    figures = [
        Figure("latency", "one worker", "jobs/s", alone, told),
        Figure("latency", "eight workers", "jobs/s", together, told),
    ]
    ratio = figures[1].median / figures[0].median
    return Results(figures, [Goal("latency", "latency: throughput of eight workers to one", ratio, 7)])


def _jobs_each_second(workers: int) -> float:
    with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
        place = Path(name)
        names = list(_packages(place / "index", _JOBS_EACH * workers))
        with mirror(place / "index", delay_seconds=DELAY_SECONDS) as index:
            return len(names) / _seconds(place, index, names, workers)


def _seconds(place: Path, index: Mirror, names: list[str], workers: int) -> float:
    """Return the seconds from the moment the batch was accepted to the end of its last job, as the jobs tell them."""
    (place / "ours").mkdir()
    with installation(place / "ours", index, concurrency=workers) as running:
        done = running.deployment.run("submit", *names, "--wait", "--json", seconds=600)
        if done.exit_code != 0:
            raise RuntimeError(f"vizfetch failed:\n{done.output}\n{done.errors}")
        if any(job["attempt"] > 1 for job in done.document["jobs"]):
            raise RuntimeError("a job was tried again, and does not tell of the first attempt")
        seconds: float = max(sum(job["timings"].values()) for job in done.document["jobs"])
        return seconds


def _packages(directory: Path, count: int) -> Iterator[str]:
    """Put packages into a mirror's directory and yield their names."""
    for number in range(count):
        needed = [f"acme-{number}-part-{part}" for part in range(_DEPENDENCIES)]
        for name in needed:
            put(directory, name)
        put(directory, f"acme-{number}", requires=needed)
        yield f"acme-{number}"


def put(
    directory: Path, name: str, *, requires: list[str] | None = None, files: dict[str, bytes] | None = None
) -> None:
    """Put a package of one version into a mirror's directory, with a page that promises no metadata."""
    folder = directory / "files" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    shown = [] if requires is None else ["bars"]
    wheel = build_wheel(folder, name, "1.0", requires=requires or [], visualizations=shown, files=files)
    file = {
        "filename": wheel.name,
        "url": f"/files/bench/{wheel.name}",
        "hashes": {"sha256": sha256(wheel.read_bytes()).hexdigest()},
        "size": wheel.stat().st_size,
    }
    page = directory / "pages" / name
    page.parent.mkdir(exist_ok=True)
    page.write_text(json.dumps({"meta": {"api-version": "1.1"}, "name": name, "versions": ["1.0"], "files": [file]}))
