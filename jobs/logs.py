"""What pip said in the last attempts of a job, as it is kept beside the job.

Written by the script that ends the attempt, so that it costs no round trip, and expires with the job.
"""

import base64
import json
import re
import zlib
from collections.abc import Iterable, Mapping

from jobs.models import Document
from jobs.states import JobState

KEPT_LINES = 200
KEPT_CHARACTERS = 64 * 1024
"""Of an attempt; the end is kept."""
LONGEST_LINE = 2000

_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?)")
"""What colours and moves on a terminal (ECMA-48), and what sets its title."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What else a terminal or a page might act upon: also marks that change the direction of writing."""


class AttemptLog(Document):
    """The last lines of pip in one attempt."""

    attempt: int
    lines: tuple[str, ...]


class JobLog(Document):
    """What is kept of pip's output for a job."""

    job: str
    batch: str
    state: JobState
    attempt: int
    """The current one, whose log is there when it has ended."""
    attempts: tuple[AttemptLog, ...] = ()
    """The last ones that ran pip to some end, oldest first."""

    def only(self, attempt: int | None) -> "JobLog":
        """Return the same with one attempt alone; with all when that is None."""
        if attempt is None:
            return self
        return self.model_copy(update={"attempts": tuple(log for log in self.attempts if log.attempt == attempt)})


def readable(lines: Iterable[str]) -> tuple[str, ...]:
    """Return lines without anything that a terminal would act upon. Length and number stay."""
    return tuple(_CONTROL.sub("", _ESCAPE.sub("", line)) for line in lines)


def pack(lines: Iterable[str]) -> str:
    """Return the end of a log as the store keeps it: at most ``KEPT_LINES`` and ``KEPT_CHARACTERS``; or nothing."""
    kept: list[str] = []
    left = KEPT_CHARACTERS
    for line in reversed(list(lines)[-KEPT_LINES:]):
        short = line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "…"
        left -= len(short)
        if left < 0:
            break
        kept.append(short)
    if not kept:
        return ""
    return base64.b85encode(zlib.compress(json.dumps(kept[::-1]).encode(), 1)).decode()


def log_of(job: str, fields: Mapping[str, str], packed: Mapping[str, str]) -> JobLog:
    """Return the log of a job from the fields of its hash and what is kept by attempt."""
    logs = (AttemptLog(attempt=int(attempt), lines=_unpacked(text)) for attempt, text in packed.items())
    return JobLog(
        job=job,
        batch=fields["batch"],
        state=JobState(fields["state"]),
        attempt=int(fields["attempt"]),
        attempts=tuple(sorted(logs, key=lambda log: log.attempt)),
    )


def _unpacked(text: str) -> tuple[str, ...]:
    return tuple(json.loads(zlib.decompress(base64.b85decode(text))))
