"""A batch of 10,000 tiny packages: how long it takes to submit, what ``status`` costs meanwhile, and what grows.

    PYTHONPATH=. .venv/bin/python -m bench.large [--jobs N] [--seconds S] [--json FILE]

All is on this machine: an index in a directory, a Valkey, a SeaweedFS, a scheduler, and agents that fetch each package
with pip. Prints a line for each look, and then each process's memory at the start, at most and at the end. A run that
reaches ``--seconds`` is broken off, by cancelling what is left, and says how far it came.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.figures import write
from bench.latency import put
from bench.lists import MIB
from bench.measure import memory_bytes
from bench.mirror import mirror
from bench.stack import PREFIX, Stack, stack
from tests.support.command import children

WORKERS = ("one", "two")
_PATIENCE_SECONDS = 1800
"""For one command: such a run takes hours beside whatever else the machine does."""
_PARTS = {b"worker.gateway": "gateway", b"pip_fork": "pip and its server"}


@dataclass
class Look:
    """What was seen at one moment."""

    seconds: float
    """Since the batch was submitted."""
    counts: Mapping[str, int]
    status_seconds: float
    """The whole command ``status BATCH``."""
    rss_bytes: Mapping[str, int]


@dataclass
class Run:
    """What a run showed."""

    jobs: int
    submit_seconds: float = 0
    cancel_seconds: float | None = None
    looks: list[Look] = field(default_factory=list)
    children: set[int] = field(default_factory=set)
    """All processes of agents that ran jobs, also those that were replaced."""

    def lines(self) -> Iterator[str]:
        """Return the figures as a table."""
        last = self.looks[-1]
        done = sum(count for state, count in last.counts.items() if state not in {"queued", "running"})
        yield f"jobs {self.jobs}: {dict(last.counts)} after {last.seconds:.0f} s, {done / last.seconds:.1f} a second"
        if self.cancel_seconds is not None:
            yield f"broken off: the rest was cancelled in {self.cancel_seconds:.2f} s"
        status = sorted(look.status_seconds for look in self.looks)
        median = status[len(status) // 2]
        yield f"submit {self.submit_seconds:.2f} s; status median {median:.2f} s, maximum {status[-1]:.2f} s"
        yield f"processes that ran jobs: {len(self.children)}"
        yield f"{'memory (RSS), MiB':28} {'start':>7} {'half':>7} {'most':>7} {'end':>7}"
        for name in self.looks[0].rss_bytes:
            sizes = [look.rss_bytes.get(name, 0) / MIB for look in self.looks]
            yield f"  {name:26} {sizes[0]:7.0f} {sizes[len(sizes) // 2]:7.0f} {max(sizes):7.0f} {sizes[-1]:7.0f}"

    def document(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "jobs": self.jobs,
            "submitSeconds": self.submit_seconds,
            "cancelSeconds": self.cancel_seconds,
            "childProcesses": len(self.children),
            "looks": [vars(look) for look in self.looks],
        }


def main() -> int:
    """Run it, and return 0 when every job was published."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=4 * 3600, help="until the rest is cancelled")
    parser.add_argument("--look", type=float, default=20, help="seconds between looks")
    parser.add_argument("--json", type=Path, default=Path("build/large.json"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
        place = Path(name)
        for number in range(given.jobs):
            put(place / "index", f"tiny-{number}", requires=[])
        put(place / "index", "warm-up", requires=[])
        (place / "ours").mkdir()
        with mirror(place / "index") as index:
            settings = {
                "MODERNE_AGENT_PYPI_0_URL": index.url,
                "MODERNE_AGENT_PYPI_0_SKIPVALIDATECONNECTIVITY": "true",  # it lacks what the look at the start asks for
                f"{PREFIX}USEONLYCONFIGURED": "true",
                f"{PREFIX}MINFREESPACE": "1MiB",
            }
            run = Run(given.jobs)
            try:
                with stack(place / "ours", WORKERS, **settings) as running:
                    _run(running, given, run)
            finally:
                print("\n".join(run.lines() if run.looks else ["broken off before the first look"]))
                write(given.json, run.document())
    return 0 if run.looks[-1].counts.get("published") == given.jobs else 1


def _run(running: Stack, given: argparse.Namespace, run: Run) -> None:
    command = running.deployment.run
    for _ in WORKERS:  # so that no process is looked at before it has done anything
        command("submit", "warm-up", "--anew", "--wait", "--json", seconds=_PATIENCE_SECONDS)
    listed = running.deployment.directory / "requirements.txt"
    listed.write_text("".join(f"tiny-{number}\n" for number in range(given.jobs)))
    began = time.monotonic()
    batch = command("submit", "-r", str(listed), seconds=_PATIENCE_SECONDS).output.strip()
    run.submit_seconds = time.monotonic() - began
    while not run.looks or run.looks[-1].counts.get("queued", 0) + run.looks[-1].counts.get("running", 0):
        if run.looks:
            time.sleep(given.look)
        run.looks.append(_look(running, batch, began, run))
        _say(run.looks[-1])
        write(given.json, run.document())
        if run.looks[-1].seconds > given.seconds and run.cancel_seconds is None:
            cancelling = time.monotonic()
            command("cancel", batch, seconds=_PATIENCE_SECONDS)
            run.cancel_seconds = time.monotonic() - cancelling


def _look(running: Stack, batch: str, began: float, run: Run) -> Look:
    asked = time.monotonic()
    running.deployment.run("status", batch, seconds=_PATIENCE_SECONDS)
    took = time.monotonic() - asked
    newest = running.deployment.run("status", "--json", seconds=_PATIENCE_SECONDS).document["batches"]
    counts = {
        state: count for each in newest if each["id"] == batch for state, count in each["counts"].items() if count
    }
    return Look(time.monotonic() - began, counts, took, _memory(running, run.children))


def _memory(running: Stack, seen: set[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, pid in running.pids.items():
        found[name] = memory_bytes(pid, "Rss")
        for child in children(pid) if name in WORKERS else ():
            part = _part(child)
            if part == "child":
                seen.add(child)
            found[f"{name}: {part}"] = max(found.get(f"{name}: {part}", 0), memory_bytes(child, "Rss"))
    return found


def _part(pid: int) -> str:
    command = b""
    with suppress(FileNotFoundError, ProcessLookupError):  # it may end at any moment
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return next((part for word, part in _PARTS.items() if word in command), "child")


def _say(look: Look) -> None:
    sizes = ", ".join(f"{name} {size / MIB:.0f}" for name, size in look.rss_bytes.items())
    print(f"{look.seconds:6.0f} s {dict(look.counts)} status {look.status_seconds:.2f} s; MiB: {sizes}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
