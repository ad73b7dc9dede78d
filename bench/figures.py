"""Figures and ratios: what a part of the bench returns, as a table for people and as JSON."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """Something measured several times."""

    part: str
    name: str
    unit: str
    values: Sequence[float]
    command: str
    """What was run to get it."""

    @property
    def median(self) -> float:
        """The middle of the values."""
        return statistics.median(self.values)

    def shown(self) -> dict[str, Any]:
        """Return it for the JSON document."""
        return {
            "part": self.part,
            "name": self.name,
            "unit": self.unit,
            "median": _rounded(self.median),
            "min": _rounded(min(self.values)),
            "max": _rounded(max(self.values)),
            "values": [_rounded(value) for value in self.values],
            "command": self.command,
        }


@dataclass(frozen=True)
class Goal:
    """A figure or ratio that should reach a bound."""

    part: str
    name: str
    value: float
    bound: float | None
    """None for a ratio that is only compared with the kept one."""
    at_least: bool = True
    """Else at most."""
    ratio: bool = True
    """Whether it compares two things of the same run, and so may be kept and compared with on other machines."""

    @property
    def reached(self) -> bool | None:
        """Whether it is as it should be; None where there is nothing that it should be."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def shown(self) -> dict[str, Any]:
        """Return it for the JSON document."""
        return {
            "part": self.part,
            "name": self.name,
            "value": _rounded(self.value),
            "bound": self.bound,
            "atLeast": self.at_least,
            "ratio": self.ratio,
            "reached": self.reached,
        }


@dataclass(frozen=True)
class Results:
    """What one part found."""

    figures: Sequence[Figure] = ()
    goals: Sequence[Goal] = ()


def table(results: Results) -> str:
    """Write figures and goals for people."""
    lines = [f"{'figure':50} {'median':>9} {'from':>9} {'to':>9}  unit"]
    lines += [
        f"{figure.name:50} {figure.median:9.3f} {min(figure.values):9.3f} {max(figure.values):9.3f}  {figure.unit}"
        for figure in results.figures
    ]
    return "\n".join([*lines, *map(_line, results.goals)])


def _line(goal: Goal) -> str:
    if goal.bound is None:
        return f"{'ratio':8} {goal.name}: {goal.value:.2f}"
    word = "at least" if goal.at_least else "at most"
    return f"{'reached' if goal.reached else 'MISSED':8} {goal.name}: {goal.value:.2f} ({word} {goal.bound:g})"


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def _rounded(value: float) -> float:
    return round(value, 4)
