"""What must hold in the end, and the figures."""

import json
import os
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from bundles.layout import MANIFEST
from bundles.store import ObjectStore
from bundles.verify import verify
from jobs.agents import Agents
from jobs.errors import ErrorKind
from jobs.models import Job, JobState
from jobs.store import StatusStore
from tests.support.command import children

_PREFIX = "vizfetch"


@dataclass
class Figures:
    """What a run showed."""

    jobs: int = 0
    published: int = 0
    failed_as_injected: int = 0
    lost: int = 0
    published_twice: int = 0
    orphans: int = 0
    most_attempts: int = 0
    most_tries: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """How often each met something."""
    retries: dict[str, int] = field(default_factory=dict)
    """By the kind of error before them."""
    returned_seconds: list[float] = field(default_factory=list)
    resumed_seconds: list[float] = field(default_factory=list)
    stop_seconds: list[float] = field(default_factory=list)
    bundles: int = 0
    disks: bool = False
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How many processes were killed with SIGKILL."""
        return sum(count for name, count in self.faults.items() if name.startswith("kill_"))

    def lines(self, lease_seconds: float) -> list[str]:
        """Return all of it for people."""
        first = (
            f"jobs {self.jobs}: published {self.published}, failed as injected {self.failed_as_injected}, "
            f"lost {self.lost}, published twice {self.published_twice}; bundles verified {self.bundles}"
        )
        return [
            first,
            f"kills {self.kills}; orphans {self.orphans}",
            f"of one job at most {self.most_tries} tries, in {self.most_attempts} attempts",
            f"a lost job is back in the queue: {_spread(self.returned_seconds)}, at a lease of {lease_seconds} s",
            f"and runs again, behind others: {_spread(self.resumed_seconds)}",
            f"end after SIGTERM: {_spread(self.stop_seconds)}",
            f"faults: {_counts(self.faults)}",
            f"retries: {_counts(self.retries)}",
            f"full disks: {'small tmpfs mounts' if self.disks else 'left out, since this user may not mount'}",
            *(f"WRONG: {what}" for what in self.wrong),
        ]


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "none measured"
    return f"median {statistics.median(seconds):.1f} s, maximum {max(seconds):.1f} s of {len(seconds)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"


@dataclass(frozen=True)
class Evidence:
    """What is left once all services have ended."""

    redis: Redis
    store: ObjectStore
    batches: Sequence[str]
    expected: Mapping[str, ErrorKind | None]
    """By requirement, the reason for which it cannot succeed; None where it must be published."""
    offered: int
    """How many jobs were accepted."""
    max_attempts: int
    temporary: Sequence[Path]
    """Directories in which nothing may be left."""
    audit: Path
    """What the agents say they did."""
    known: Callable[[], frozenset[int]]
    """Descendants of this process that are to be there."""


def judge(evidence: Evidence, figures: Figures) -> None:
    """Look at everything that is left, and fill in the figures."""
    status = StatusStore(evidence.redis)
    jobs = [job for batch in evidence.batches for job in status.batch(batch).jobs]
    figures.jobs = len(jobs)
    for job in jobs:
        _judge_job(job, evidence, figures)
    for batch in evidence.batches:
        _judge_counts(batch, status, figures)
    _judge_audit(evidence, figures)
    _judge_bundles(jobs, evidence, figures)
    _judge_redis(status, evidence, figures)
    _judge_machine(evidence, figures)
    if missing := evidence.offered - len(jobs):
        figures.lost += missing
        figures.wrong.append(f"{missing} jobs that were accepted are gone")


def _judge_job(job: Job, evidence: Evidence, figures: Figures) -> None:
    tries = int(str(evidence.redis.hget(f"{_PREFIX}:job:{job.id}", "tries")))
    figures.most_attempts = max(figures.most_attempts, job.attempt)
    figures.most_tries = max(figures.most_tries, tries)
    if tries > evidence.max_attempts:
        figures.wrong.append(f"{job.id} {job.requirement} was tried {tries} times")
    expected = evidence.expected[job.requirement]
    kind = job.error.kind if job.error and job.state is JobState.FAILED else None
    if not job.state.final:
        figures.lost += 1
        figures.wrong.append(f"{job.id} {job.requirement} is {job.state} in attempt {job.attempt}: {job.error}")
    elif kind != expected or (expected is None) != (job.state is JobState.PUBLISHED):
        figures.wrong.append(f"{job.id} {job.requirement} is {job.state} with {job.error}, not {expected}")
    elif expected is None:
        figures.published += 1
    else:
        figures.failed_as_injected += 1


def _judge_counts(batch: str, status: StatusStore, figures: Figures) -> None:
    """Every change of state counts once: a second publication would show in the batch's counts."""
    found = status.batch(batch)
    for state in JobState:
        counted, there = found.counts[state], sum(job.state is state for job in found.jobs)
        if state is JobState.PUBLISHED:
            figures.published_twice += max(0, counted - there)
        if counted != there:
            figures.wrong.append(f"{batch} counts {counted} jobs as {state}, of which there are {there}")


def _judge_audit(evidence: Evidence, figures: Figures) -> None:
    """Each agent records that an attempt was published when Redis has said that it was this one."""
    if not evidence.audit.exists():
        figures.wrong.append("no agent recorded what it did")
        return
    ends: Counter[str] = Counter()
    for line in filter(None, evidence.audit.read_text().splitlines()):
        record = json.loads(line)
        if record["action"] == "fetch" and record["outcome"] in {"published", "unchanged"}:
            ends[record["job"]] += 1
    twice = {job: count for job, count in ends.items() if count > 1}
    figures.published_twice += len(twice)
    figures.wrong += [f"{job} was published by {count} attempts" for job, count in twice.items()]


def _judge_bundles(jobs: Iterable[Job], evidence: Evidence, figures: Figures) -> None:
    report = verify(evidence.store)
    figures.bundles = report.bundles
    figures.wrong += [f"bundle: {issue.object}: {issue.issue}" for issue in report.issues]
    whole: dict[tuple[str, str, str], bool] = {}
    for path in map(str, evidence.store.paths("bundles/")):
        _, name, version, bundle, file = path.split("/", 4)
        whole[name, version, bundle] = whole.get((name, version, bundle), False) or file == MANIFEST
    ids = Counter((name, version) for name, version, _ in whole)
    twice = {place: count for place, count in ids.items() if count > 1}
    figures.published_twice += len(twice)
    figures.wrong += [f"{'/'.join(place)} has {count} bundles" for place, count in twice.items()]
    figures.wrong += [f"{'/'.join(place)} has no {MANIFEST}" for place, is_whole in whole.items() if not is_whole]
    told = {(job.bundle.name, job.bundle.version) for job in jobs if job.bundle}
    figures.wrong += [f"{'/'.join(missing)} is published but not stored" for missing in sorted(told - set(ids))]


def _judge_redis(status: StatusStore, evidence: Evidence, figures: Figures) -> None:
    queued, running = status.unfinished()
    if queued or running:
        figures.wrong.append(f"{queued} jobs count as queued, {running} leases are left")
    for pattern in ("due:*", "waiting:*", "batch:*:running"):
        left = list(evidence.redis.scan_iter(f"{_PREFIX}:{pattern}"))
        figures.wrong += [f"left in Redis: {key}" for key in left]
    if figures.most_attempts > 3 * evidence.max_attempts:
        figures.wrong.append(f"a job had {figures.most_attempts} attempts")
    announced = Agents(evidence.redis, _PREFIX).all()
    figures.wrong += [f"agent {agent.nickname} is still announced" for agent in announced]
    totals: dict[str, str] = evidence.redis.hgetall(f"{_PREFIX}:totals")  # type: ignore[assignment]  # of one client
    figures.retries = {
        name.removeprefix("retry "): int(count) for name, count in totals.items() if name.startswith("retry ")
    }


def _judge_machine(evidence: Evidence, figures: Figures) -> None:
    orphans = list(_orphans(evidence.known()))
    figures.orphans = len(orphans)
    figures.wrong += [f"orphan {orphan}" for orphan in orphans]
    figures.wrong += [f"left on the disk: {path}" for place in evidence.temporary for path in place.glob("*")]


def _orphans(known: frozenset[int]) -> Iterator[str]:
    """Yield what still runs: all that lost its parent is a child of this process, which asked for that (prctl(2))."""
    for pid in children(os.getpid()):
        if pid not in known and (line := _command_line(pid)):
            yield f"{pid}: {line[:100]}"


def _command_line(pid: int) -> str:
    """Return what a process was started with; nothing for one that has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
