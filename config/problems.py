"""What is wrong with the settings, told all at once and in the user's own names."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import Settings


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong. Its text never holds the value of a setting, so it can never hold a secret."""

    source: str
    """``argument``, ``system property``, ``environment``, or the name of the settings file."""
    name: str
    """As the user wrote it; cut where characters begin that no name has."""
    message: str
    """What is wrong and what to do about it."""
    line: int | None = None
    """In the settings file, counted from 1."""

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source} line {self.line}"
        return f"{place}: {self.name}: {self.message}"


class SettingsError(Exception):
    """The settings cannot be used: the root of this package's errors. The process should exit with 78."""

    problems: tuple[Problem, ...]
    machine: "Settings | None"
    """What could be read of the settings about the machine, with defaults in place of all others."""

    def __init__(self, problems: Iterable[Problem], machine: "Settings | None" = None) -> None:
        self.problems = tuple(problems)
        self.machine = machine
        super().__init__(self.problems)

    def __str__(self) -> str:
        count = len(self.problems)
        head = "1 problem in the settings" if count == 1 else f"{count} problems in the settings"
        return "\n  ".join([f"{head}:", *map(str, self.problems)])
