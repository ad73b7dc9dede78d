"""The faults, each a function of the world; those that last take what they did back before they return."""

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import OutOfMemoryError, RedisError

from tests.chaos.processes import wait_for_redis
from tests.support.index_server import Fault, Reset, Short, Stall, Status

if TYPE_CHECKING:
    from tests.chaos.world import World

_MEETS_WITHIN_SECONDS = 5.0

Act = Callable[["World", random.Random], bool]
"""Does it, and tells whether it met anything: a pip can be killed only while one runs."""


def kill_worker(world: "World", chance: random.Random) -> bool:
    worker = chance.choice(world.workers)
    world.recovery.watch(worker.name)
    return worker.kill()


def kill_child(world: "World", chance: random.Random) -> bool:
    worker = chance.choice(world.workers)
    # One whose pool is only just starting ends as a whole, and is started again by its supervisor.
    return worker.ready and _kill_one(worker.pool(), chance)


def kill_pip(world: "World", chance: random.Random) -> bool:
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        # While it starts, a worker looks whether the machine's own pip runs, and would not start.
        pips = [pid for worker in world.workers if worker.ready for pid in worker.pips()]
        if pips:
            return _kill_one(pips, chance)
        time.sleep(0.02)
    return False


def kill_scheduler(world: "World", chance: random.Random) -> bool:
    return chance.choice(world.schedulers).kill()


def kill_valkey(world: "World", chance: random.Random) -> bool:
    world.valkey.kill()
    time.sleep(chance.uniform(0.1, 2))
    world.valkey.again()
    wait_for_redis(world.valkey)
    return True


def kill_store(world: "World", chance: random.Random) -> bool:
    world.store.kill()
    time.sleep(chance.uniform(0.1, 2))
    world.store.again()
    return True


def freeze_worker(world: "World", chance: random.Random) -> bool:
    """Stop all processes of an agent for longer than its leases last."""
    worker = chance.choice(world.workers)
    world.recovery.watch(worker.name)
    frozen = worker.family()
    stopped = _send(frozen, signal.SIGSTOP)
    time.sleep(world.lease_seconds * chance.uniform(1.3, 1.8))
    _send(frozen, signal.SIGCONT)
    return stopped


def terminate_worker(world: "World", chance: random.Random) -> bool:
    return chance.choice(world.workers).terminate()


def cut_lines(world: "World", chance: random.Random) -> bool:
    line, met = chance.choice(world.lines), 0
    for _ in range(chance.randint(1, 3)):
        met += line.cut()
        time.sleep(0.3)
    return met > 0


def stall_lines(world: "World", chance: random.Random) -> bool:
    line = chance.choice(world.lines)
    line.stall()
    time.sleep(chance.uniform(0.5, 1.5 * world.lease_seconds))
    met = line.open > 0
    line.flow()
    return met


def break_index(world: "World", chance: random.Random) -> bool:
    faults: list[Fault] = [
        Status(503),
        Status(429, {"Retry-After": "1"}),
        Reset(),
        Reset(after_bytes=100),
        Short(50),
        Stall(),
    ]
    path, fault, times = chance.choice(["/simple/", "/files/"]), chance.choice(faults), chance.randint(1, 3)
    before, deadline = world.index.played, time.monotonic() + _MEETS_WITHIN_SECONDS
    world.index.misbehave(path, fault, times=times)
    while world.index.played == before and time.monotonic() < deadline:
        time.sleep(0.05)
    return world.index.played > before


def fill_temporary(world: "World", chance: random.Random) -> bool:
    return _fill(world.temporary, chance)


def fill_cache(world: "World", chance: random.Random) -> bool:
    return _fill(world.cache, chance)


def fill_redis(world: "World", chance: random.Random) -> bool:
    """Have Redis refuse whatever needs memory."""
    refused = False
    with suppress(RedisError), world.valkey.client() as redis:
        redis.config_set("maxmemory", "1mb")
        try:
            redis.set("chaos", "a write", px=1)
        except OutOfMemoryError:
            refused = True
        time.sleep(chance.uniform(0.5, 3))
        redis.config_set("maxmemory", "0")
    return refused


KILLS: dict[str, tuple[Act, int]] = {
    "kill_worker": (kill_worker, 4),
    "kill_child": (kill_child, 8),
    "kill_pip": (kill_pip, 10),
    "kill_scheduler": (kill_scheduler, 4),
    "kill_valkey": (kill_valkey, 2),
    "kill_store": (kill_store, 1),
}
OTHERS: dict[str, tuple[Act, int]] = {
    "freeze_worker": (freeze_worker, 2),
    "terminate_worker": (terminate_worker, 3),
    "cut_lines": (cut_lines, 3),
    "stall_lines": (stall_lines, 2),
    "break_index": (break_index, 5),
    "fill_redis": (fill_redis, 2),
}
DISKS: dict[str, tuple[Act, int]] = {"fill_temporary": (fill_temporary, 2), "fill_cache": (fill_cache, 2)}


@dataclass(frozen=True)
class Play:
    """One fault of a sequence."""

    name: str
    pause_seconds: float
    """Before it."""
    seed: float
    """Of the chances within it."""


def plays(acts: Mapping[str, tuple[Act, int]], pause_seconds: tuple[float, float], seed: str) -> Iterator[Play]:
    """Yield an endless sequence of faults, the same for the same seed: each once, then any by their weights."""
    chance = random.Random(seed)  # noqa: S311 - to be replayed
    names, weights = list(acts), [weight for _, weight in acts.values()]
    first = chance.sample(names, len(names))
    while True:
        name = first.pop() if first else chance.choices(names, weights)[0]
        yield Play(name, chance.uniform(*pause_seconds), chance.random())


def _kill_one(pids: list[int], chance: random.Random) -> bool:
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(sorted(pids)), signal.SIGKILL)
        return True
    return False


def _send(pids: list[int], number: signal.Signals) -> bool:
    """Tell whether any of them was there."""
    met = False
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
            met = True
    return met


def _fill(disk: Path, chance: random.Random) -> bool:
    ballast, full = disk / "ballast", False
    try:
        try:
            with ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 20))
        except OSError as error:
            full = error.errno == errno.ENOSPC
        time.sleep(chance.uniform(0.5, 3))
    finally:
        ballast.unlink(missing_ok=True)
    return full
