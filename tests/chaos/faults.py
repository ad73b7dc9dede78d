"""The faults, each a function of the world; those that last take what they did back before they return."""

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from redis.exceptions import RedisError

from tests.chaos.processes import wait_for_redis
from tests.support.index_server import Fault, Reset, Short, Stall, Status

if TYPE_CHECKING:
    from tests.chaos.world import World

Act = Callable[["World", random.Random], int]
"""Does it and returns how many processes were killed with SIGKILL."""


def kill_worker(world: "World", chance: random.Random) -> int:
    worker = chance.choice(world.workers)
    world.recovery.watch(worker.name)
    worker.kill()
    return 1


def kill_child(world: "World", chance: random.Random) -> int:
    worker = chance.choice(world.workers)
    # One whose pool is only just starting ends as a whole, and is started again by its supervisor.
    return _kill_one(worker.pool(), chance) if worker.ready else 0


def kill_pip(world: "World", chance: random.Random) -> int:
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        pips = [pid for worker in world.workers for pid in worker.pips()]
        if pips:
            return _kill_one(pips, chance)
        time.sleep(0.02)
    return 0


def kill_scheduler(world: "World", chance: random.Random) -> int:
    chance.choice(world.schedulers).kill()
    return 1


def kill_valkey(world: "World", chance: random.Random) -> int:
    world.valkey.kill()
    time.sleep(chance.uniform(0.1, 2))
    world.valkey.again()
    wait_for_redis(world.valkey)
    return 1


def kill_store(world: "World", chance: random.Random) -> int:
    world.store.kill()
    time.sleep(chance.uniform(0.1, 2))
    world.store.again()
    return 1


def freeze_worker(world: "World", chance: random.Random) -> int:
    worker = chance.choice(world.workers)
    world.recovery.watch(worker.name)
    frozen = worker.family()
    _send(frozen, signal.SIGSTOP)
    time.sleep(world.lease_seconds * chance.uniform(1.3, 1.8))
    _send(frozen, signal.SIGCONT)
    return 0


def terminate_worker(world: "World", chance: random.Random) -> int:
    chance.choice(world.workers).terminate()
    return 0


def cut_lines(world: "World", chance: random.Random) -> int:
    for _ in range(chance.randint(1, 3)):
        world.line.cut()
        time.sleep(0.3)
    return 0


def stall_lines(world: "World", chance: random.Random) -> int:
    world.line.stall()
    time.sleep(chance.uniform(0.5, 1.5 * world.lease_seconds))
    world.line.flow()
    return 0


def break_index(world: "World", chance: random.Random) -> int:
    faults: list[Fault] = [
        Status(503),
        Status(429, {"Retry-After": "1"}),
        Reset(),
        Reset(after_bytes=100),
        Short(50),
        Stall(),
    ]
    path = chance.choice(["/simple/", "/files/"])
    world.index.misbehave(path, chance.choice(faults), times=chance.randint(1, 3))
    return 0


def fill_temporary(world: "World", chance: random.Random) -> int:
    _fill(world.temporary, chance)
    return 0


def fill_cache(world: "World", chance: random.Random) -> int:
    _fill(world.cache, chance)
    return 0


def fill_redis(world: "World", chance: random.Random) -> int:
    with suppress(RedisError), world.valkey.client() as redis:
        redis.config_set("maxmemory", "1mb")
        time.sleep(chance.uniform(0.5, 3))
        redis.config_set("maxmemory", "0")
    return 0


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


def _kill_one(pids: list[int], chance: random.Random) -> int:
    if not pids:
        return 0
    with suppress(ProcessLookupError):
        os.kill(chance.choice(sorted(pids)), signal.SIGKILL)
        return 1
    return 0


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _fill(disk: Path, chance: random.Random) -> None:
    ballast = disk / "ballast"
    try:
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        time.sleep(chance.uniform(0.5, 3))
    finally:
        ballast.unlink(missing_ok=True)
