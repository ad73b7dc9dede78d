"""How an attempt can end without a bundle."""

from jobs.errors import ErrorKind


class WorkerError(Exception):
    """The root of what the agent side raises."""


class FetchError(WorkerError):
    """The fetch failed for a reason that users are told.

    ``kind`` decides whether it is tried again; ``index`` is the name of the index to blame, if one is.
    """

    def __init__(self, kind: ErrorKind, message: str, *, index: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.index = index


class Fenced(WorkerError):
    """The attempt is no longer this worker's: nothing may be published any more."""


class Stopping(WorkerError):
    """The worker is being stopped: the attempt is to be given back."""


class UnfitEnvironment(WorkerError):
    """The machine cannot run fetches as it is; ``problems`` says each reason and what to do."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems
