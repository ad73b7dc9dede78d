"""``make chaos``: ten minutes of it at most. Exits with 1 when something happened that must not."""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.driver import Plan, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="to replay a run")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=400, help="for the faults; settling comes on top")
    parser.add_argument("--keep", type=Path, help="a directory for logs that is to be kept")
    given = parser.parse_args()
    plan = Plan(given.seed, given.jobs, given.kills, given.seconds, heal_seconds=120)
    with tempfile.TemporaryDirectory(prefix="chaos-") as place:
        directory = given.keep or Path(place)
        figures = run(plan, directory, say=lambda line: print(line, flush=True))  # noqa: T201 - a command
    print("\n".join(figures.lines(plan.lease_seconds)))  # noqa: T201
    print(f"replay with --seed {plan.seed}")  # noqa: T201
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
