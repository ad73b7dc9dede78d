"""Wheels are checked while others are still on their way: until then a core would only wait for the network."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import Event

from bundles.check import look_ahead
from bundles.proofs import Proofs
from worker.background import later

_LOOK_EVERY_SECONDS = 0.05


@contextmanager
def checking_ahead(places: Sequence[Path], proofs: Proofs) -> Iterator[None]:
    """Check what arrives in folders during the block, so that the check of the whole finds it done.

    Nothing is told of it, and nobody waits: a wheel that is being read when the block is left is read to its end.
    """
    left = Event()
    with suppress(RuntimeError):  # no room for a thread; the check of the whole does it all
        later(partial(_check, places, proofs, left))
    try:
        yield
    finally:
        left.set()


def _check(places: Sequence[Path], proofs: Proofs, left: Event) -> None:
    done: set[str] = set()
    while not left.is_set():
        arrived = {wheel.name: wheel for place in places for wheel in place.glob("*.whl") if wheel.name not in done}
        if not arrived:
            left.wait(_LOOK_EVERY_SECONDS)
            continue
        # Any of them: two processes that wait for the same wheels then seldom read the same one.
        name = random.choice(sorted(arrived))  # noqa: S311 - spreads work, guards nothing
        done.add(name)
        look_ahead(arrived[name], proofs)
