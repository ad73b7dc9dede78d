"""How an attempt can end without a bundle."""

from jobs.errors import ErrorKind
from worker.findings import Finding, Verdict, worst


class WorkerError(Exception):
    """The root of what the agent side raises."""


class FetchError(WorkerError):
    """The fetch failed for a reason that users are told.

    ``kind`` decides whether it is tried again, and ``again_in_seconds`` how long at least that makes no sense;
    ``index`` is the name of the index to blame, if one is. With ``tried`` False nothing was even asked, since the
    index is known to be down.
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        index: str | None = None,
        again_in_seconds: float | None = None,
        tried: bool = True,
    ) -> None:
        super().__init__(message)
        self.again_in_seconds = again_in_seconds
        self.tried = tried
        self.kind = kind
        self.message = message
        self.index = index


class Fenced(WorkerError):
    """The attempt is no longer this worker's: nothing may be published any more."""


class Stopping(WorkerError):
    """The worker is being stopped: the attempt is to be given back."""


class Unfit(WorkerError):
    """Something that was looked at before the start does not hold; ``problems`` says each and what to do."""

    head = "what a worker needs is not there"

    def __init__(self, problems: tuple[Finding, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join([f"{self.head}:", *(f"  {problem}" for problem in self.problems)])

    @property
    def verdict(self) -> Verdict:
        """The worst of them."""
        return worst(self.problems)


class UnfitEnvironment(Unfit):
    """The machine cannot run fetches as it is."""

    head = "this machine is not fit for fetching"


class UnfitServices(Unfit):
    """An index, Redis or the store cannot be used."""

    head = "not everything that a worker needs can be used"
