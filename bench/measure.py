"""What something cost: time, CPU seconds of all its processes, memory; and how sure that is."""

import os
import resource
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.command import children

_TICKS = os.sysconf("SC_CLK_TCK")
_SAMPLE_SECONDS = 1.0
_SETTLE_SECONDS = 60.0
_IDLE_CPU_SECONDS = 0.1
"""In a second: heartbeats and looks at queues go on."""


@dataclass
class Spent:
    """What a piece of work took. Filled in when its block is left."""

    wall_seconds: float = 0
    cpu_seconds: float = 0
    services: dict[str, float] = field(default_factory=dict)
    """CPU seconds by the name of each service that runs all the time; part of ``cpu_seconds``."""
    peak_bytes: int = 0
    """The largest sum of what its processes held in memory at one moment, each shared page counted once (PSS)."""


@contextmanager
def spending(services: Mapping[str, int] | None = None, *, ignored: Iterable[int] = ()) -> Iterator[Spent]:
    """Measure the block: the commands it runs to their end, and ``services``, which run all the time, by their pid.

    Commands are counted with all that they started and waited for. Memory is looked at once a second, since looking
    takes time of its own: of all this process's descendants but those of ``ignored``. What was written before is
    brought to the disk first, so that nobody waits for what another has written.
    """
    os.sync()
    spent, pids = Spent(), dict(services or {})
    before, began = {name: tree_cpu_seconds(pid) for name, pid in pids.items()}, time.monotonic()
    commands = _commands_cpu_seconds()
    stop = threading.Event()
    sampler = threading.Thread(target=_sample, args=(spent, frozenset(ignored), stop), daemon=True)
    sampler.start()
    try:
        yield spent
    finally:
        spent.wall_seconds = time.monotonic() - began
        stop.set()
        sampler.join()
        spent.services = {name: tree_cpu_seconds(pid) - before[name] for name, pid in pids.items()}
        spent.cpu_seconds = _commands_cpu_seconds() - commands + sum(spent.services.values())


def tree_cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants, those that ended included once they were waited for."""
    total = 0
    for each in [pid, *children(pid)]:
        with suppress(FileNotFoundError, ProcessLookupError):
            # proc(5): utime, stime, cutime, cstime are fields 14 to 17; the name in field 2 may hold spaces.
            values = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()[11:15]
            total += sum(map(int, values))
    return total / _TICKS


def settle(pids: Iterable[int]) -> None:
    """Wait until processes that were started have done what they do by themselves, so that it is not measured."""
    pids, before = tuple(pids), -1.0
    deadline = time.monotonic() + _SETTLE_SECONDS
    while (now := sum(map(tree_cpu_seconds, pids))) > before + _IDLE_CPU_SECONDS and time.monotonic() < deadline:
        before = now
        time.sleep(1)


def tree_bytes(pid: int) -> int:
    """Return what a process and its descendants hold in memory, each shared page counted once."""
    return sum(map(memory_bytes, [pid, *children(pid)]))


def memory_bytes(pid: int, what: str = "Pss") -> int:
    """Return what one process holds in memory: ``Pss`` shares pages out among their owners, ``Rss`` does not."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) * 1024
    return 0


def _sample(spent: Spent, ignored: frozenset[int], stop: threading.Event) -> None:
    while not stop.wait(_SAMPLE_SECONDS):
        left_out = ignored | {child for pid in ignored for child in children(pid)}
        held = sum(memory_bytes(pid) for pid in children(os.getpid()) if pid not in left_out)
        spent.peak_bytes = max(spent.peak_bytes, held)


def _commands_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def noise(rounds: int = 15) -> tuple[float, float]:
    """Return how many times longer a short calculation took than its fastest run, as median and worst.

    1.0 is a quiet machine; 2.0 one on which this process got half a core.
    """
    times = [_timed(lambda: sum(range(1_000_000))) for _ in range(rounds)]
    return statistics.median(times) / min(times), max(times) / min(times)


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def repeated(work: Callable[[], object], rounds: int) -> list[float]:
    """Return the seconds that each of so many calls took."""
    return [_timed(work) for _ in range(rounds)]
