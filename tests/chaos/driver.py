"""The driver: gives work, plays faults by a seed, heals, and tells what it found."""

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jobs.store import StatusUnavailable
from tests.chaos.faults import DISKS, KILLS, OTHERS, Act, plays
from tests.chaos.judge import Figures
from tests.chaos.world import World, world

_LOOK_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Plan:
    """How much chaos. The same plan with the same seed plays the same faults in the same order."""

    seed: int
    jobs: int
    kills: int
    """Faults are played until there were so many jobs and so many kills."""
    seconds: float
    """But not longer than this."""
    heal_seconds: float
    """How long everything may take to settle afterwards."""
    batch: int = 20
    """Another batch of so many jobs is given whenever less than half of one is left to do."""
    workers: int = 3
    lease_seconds: float = 4
    kill_pause_seconds: tuple[float, float] = (0.5, 2.5)
    fault_pause_seconds: tuple[float, float] = (3, 8)
    every_fault: bool = True
    """Whether a run in which some fault never met anything is wrong."""


def run(plan: Plan, directory: Path, say: Callable[[str], None]) -> Figures:
    """Run a plan to its end and return what it showed; ``figures.wrong`` holds all that must not be."""
    figures = Figures()
    begin = time.monotonic()
    directory.mkdir(exist_ok=True)
    with world(directory, workers=plan.workers, lease_seconds=plan.lease_seconds) as made:
        say(f"seed {plan.seed}: all services run after {time.monotonic() - begin:.0f} s")
        _play(made, plan, figures, say)
        made.heal()
        say(f"healed after {time.monotonic() - begin:.0f} s, with {figures.kills} kills and {made.offered} jobs")
        if not made.wait_until_done(plan.heal_seconds):
            figures.wrong.append(f"not all jobs were done {plan.heal_seconds} s after the last fault")
        made.stop_services()
        made.judge(figures)
    if plan.every_fault:
        missing = sorted(set(_acts(made)) - set(figures.faults))
        figures.wrong += [f"{name} never met anything" for name in missing]
    say(f"done after {time.monotonic() - begin:.0f} s")
    return figures


def _acts(made: World) -> Mapping[str, tuple[Act, int]]:
    return KILLS | OTHERS | (DISKS if made.disks else {})


def _play(made: World, plan: Plan, figures: Figures, say: Callable[[str], None]) -> None:
    stop = threading.Event()
    others = {name: act for name, act in _acts(made).items() if name not in KILLS}
    lanes = [
        threading.Thread(
            target=_lane, args=(made, acts, pause, f"{plan.seed}-{name}", early, figures, stop, say), name=name
        )
        for name, acts, pause, early in (
            # Where the machine is slow, kills wait for the jobs: else workers would do nothing but start.
            ("kills", KILLS, plan.kill_pause_seconds, lambda: figures.kills * plan.jobs > made.offered * plan.kills),
            ("others", others, plan.fault_pause_seconds, lambda: False),
        )
    ]
    deadline = time.monotonic() + plan.seconds
    made.give_work(plan.batch)
    for lane in lanes:
        lane.start()
    while time.monotonic() < deadline and (made.offered < plan.jobs or figures.kills < plan.kills):
        with suppress(StatusUnavailable):
            if made.unfinished() < plan.batch / 2:
                made.give_work(plan.batch)
        time.sleep(_LOOK_EVERY_SECONDS)
    stop.set()
    for lane in lanes:
        lane.join()


def _lane(
    made: World,
    acts: Mapping[str, tuple[Act, int]],
    pause_seconds: tuple[float, float],
    seed: str,
    early: Callable[[], bool],
    figures: Figures,
    stop: threading.Event,
    say: Callable[[str], None],
) -> None:
    """Play one fault after the other; kills and other faults have a lane each, so that they meet."""
    for play in plays(acts, pause_seconds, seed):
        ended = stop.wait(play.pause_seconds)
        while early() and not ended:
            ended = stop.wait(_LOOK_EVERY_SECONDS)
        if ended:
            return
        try:
            met = acts[play.name][0](made, random.Random(play.seed))  # noqa: S311 - to be replayed
        except Exception as error:  # noqa: BLE001 - a fault that cannot be played is a finding like any other
            figures.wrong.append(f"{play.name} could not be played: {type(error).__name__}: {error}")
            say(figures.wrong[-1])
        else:
            if met:
                figures.faults[play.name] = figures.faults.get(play.name, 0) + 1
