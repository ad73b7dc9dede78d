"""The bench: what vizfetch costs, beside what people would use instead, in one run on this machine.

    make bench [BENCH="cold warm …"] [BENCH_ARGS="--rounds 5"]

Parts:
    cold       the list, everything empty; beside plain and strong
    warm       the list, caches full; beside plain and strong
    unchanged  the list again, answered from memory
    overhead   a fetch that does nothing beside a bare Celery task, at 10, 1,000 and 10,000 jobs
    listing    pages of batches and jobs, submit and status, at 10,000 jobs and 1,000 batches
    latency    an index that answers after 200 ms: eight workers beside one
    memory     at rest, with a wheel of 1 GB, over many jobs
    start      --help, status, a worker
    public     the list, everything empty, against the public index; runs only when it is named

Prints a table for each part and writes everything to a JSON file; compares ratios with those that are kept.
Works in the directory for temporary files (TMPDIR).
"""

import argparse
import os
import platform
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from bench import guard, parts, pictures
from bench.figures import Results, table, write
from bench.measure import noise
from bench.options import Options

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vizfetch-bench"


def main() -> int:
    """Run the parts that were asked for and return the exit code."""
    # A run that is given up ends its services too: they have sessions of their own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    options, given = _arguments()
    document = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": _machine(), "parts": {}}
    found: dict[str, Results] = {}
    for name in given.parts or parts.LOCAL:
        before = noise()
        results = found[name] = parts.run(name, options)
        after = noise()
        print(
            f"\n== {name}: noise {before[0]:.2f}, worst {before[1]:.2f}; after it {after[0]:.2f}, worst {after[1]:.2f}"
        )
        print(table(results), flush=True)
        document["parts"][name] = {  # type: ignore[index]  # a JSON document
            "noise": {"before": before, "after": after},
            "figures": [figure.shown() for figure in results.figures],
            "goals": [goal.shown() for goal in results.goals],
        }
        write(given.json, document)
    print(f"\nwritten to {given.json}")
    if given.pictures:
        pictures.draw_all(document, given.pictures)
    return guard.compare(found, given.kept, keep=given.keep)


def _arguments() -> tuple[Options, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *parts.NAMES], help="all but the last when none is named")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mirror", type=Path, default=_CACHE, help="directory of the local mirror")
    parser.add_argument("--without", nargs="*", default=[], help="peers to leave out")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"))
    parser.add_argument("--kept", type=Path, default=Path(__file__).with_name("kept.json"))
    parser.add_argument("--pictures", type=Path, help="draw them in this directory, such as docs/images")
    parser.add_argument("--keep", action="store_true", help="keep this run's ratios for later comparisons")
    given = parser.parse_args()
    return Options(given.mirror, given.rounds, frozenset(given.without)), given


def _machine() -> dict[str, object]:
    return {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.platform(terse=True)}


if __name__ == "__main__":
    sys.exit(main())
