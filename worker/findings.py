"""What a look at one thing found: whether it holds, and if not, what to do about it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a look ended."""

    HOLDS = "holds"
    WRONG = "wrong"
    """Somebody has to change the settings or the machine."""
    UNREACHABLE = "unreachable"
    """A service does not answer; it may be there again later."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Holds no secret."""

    subject: str
    """Such as ``temporary directory`` or ``index pypi[0]``."""
    verdict: Verdict
    found: str
    """What is the case, as a clause without a full stop."""
    advice: str = ""
    """What to do about it, in whole sentences; empty when it holds."""
    step: str = ""
    """How far it went, for a service that cannot be used."""
    required: bool = True
    """Whether a worker refuses to start when this does not hold."""

    @property
    def holds(self) -> bool:
        """Whether nothing has to be done."""
        return self.verdict is Verdict.HOLDS

    def __str__(self) -> str:
        step = f"{self.step}: " if self.step else ""
        return f"{self.subject}: {step}{self.found}. {self.advice}".strip()


def holds(subject: str, found: str) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(subject, Verdict.HOLDS, found)


def wrong(subject: str, found: str, advice: str, *, step: str = "") -> Finding:
    """Return the finding that the settings or the machine have to be changed."""
    return Finding(subject, Verdict.WRONG, found, advice, step)


def unreachable(subject: str, found: str, advice: str, *, step: str = "") -> Finding:
    """Return the finding that a service does not answer."""
    return Finding(subject, Verdict.UNREACHABLE, found, advice, step)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict over all that is required: wrong before unreachable, since waiting does not mend it."""
    verdicts = {finding.verdict for finding in findings if finding.required}
    return next((verdict for verdict in (Verdict.WRONG, Verdict.UNREACHABLE) if verdict in verdicts), Verdict.HOLDS)
