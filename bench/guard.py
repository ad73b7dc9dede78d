"""Compares ratios with those of an earlier run: times depend on the machine, ratios hardly."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from bench.figures import Goal, Results, write

TOLERANCE = 0.25
"""A ratio may be worse by so much before it counts as a step back: as much as noise makes of it."""


def compare(found: Mapping[str, Results], path: Path, *, keep: bool) -> int:
    """Print every ratio that is clearly worse than the kept one; return 1 when there is any.

    With ``keep``, this run's ratios take the place of the kept ones.
    """
    kept: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    ratios = {goal.name: goal for results in found.values() for goal in results.goals if goal.ratio}
    worse = list(_worse(ratios, kept))
    for line in worse:
        print("WORSE", line)
    if keep:
        fresh = {name: round(goal.value, 3) for name, goal in ratios.items()}
        write(path, dict(sorted((kept | fresh).items())))
        return 0
    return 1 if worse else 0


def _worse(ratios: Mapping[str, Goal], kept: Mapping[str, float]) -> Iterator[str]:
    for name, goal in ratios.items():
        before = kept.get(name)
        if before is None:
            continue
        allowed = before * (1 - TOLERANCE) if goal.at_least else before * (1 + TOLERANCE)
        if (goal.value < allowed) if goal.at_least else (goal.value > allowed):
            yield f"{name}: {goal.value:.2f}, was {before:.2f}"
