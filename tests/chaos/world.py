"""Everything that runs under chaos, with work for it, and what must hold in the end."""

import os
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pydantic import SecretStr

from bundles.store import open_store
from bundles.verify import verify
from config.settings import IndexSettings, RedisSettings, RetrySettings, Settings
from jobs.agents import Agents
from jobs.connection import connect
from jobs.errors import ErrorKind
from jobs.models import Job, JobState
from jobs.store import StatusStore, StatusUnavailable, UnknownJob
from scheduler.manifest import collect
from scheduler.submit import submit
from tests.chaos.processes import Kept, Store, Valkey, small_disk
from tests.support.command import eventually
from tests.support.index_server import IndexServer
from tests.support.tcp_proxy import TcpProxy, tcp_proxy
from tests.support.wheels import build_wheel

MAX_ATTEMPTS = 30
_OURS = "MODERNE_AGENT_VISUALIZATION_"
_PACKAGES = 40
_SWEPT_SECONDS = 90
_NOT_OURS = ("valkey-server", "weed", "tests.chaos", "pytest")


class Recovery:
    """How long jobs of a lost worker wait: until they can be had again, and until another attempt has begun.

    The second holds also what there is to do before it, and whatever other faults meet it.
    """

    def __init__(self, world: "World") -> None:
        self.returned: list[float] = []
        self.resumed: list[float] = []
        self._world = world
        self._lost: dict[str, tuple[int, float]] = {}
        self._back: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="recovery", daemon=True)

    def watch(self, worker: str) -> None:
        """Watch the jobs that run on a worker which is lost now."""
        now = time.monotonic()
        with suppress(StatusUnavailable):
            for batch in self._world.batches:
                for job in self._world.status.jobs_in(batch, JobState.RUNNING):
                    if job.worker == worker:
                        self._lost.setdefault(job.id, (job.attempt, now))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            for job_id, (attempt, since) in list(self._lost.items()):
                with suppress(StatusUnavailable, UnknownJob):
                    self._follow(self._world.status.job(job_id), attempt, time.monotonic() - since)

    def _follow(self, job: Job, attempt: int, seconds: float) -> None:
        if job.attempt == attempt and not job.state.final:
            return
        if job.id not in self._back:
            self._back.add(job.id)
            self.returned.append(seconds)
        if job.state is not JobState.QUEUED:
            self.resumed.append(seconds)
            self._back.discard(job.id)
            del self._lost[job.id]


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
    kills: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    returned_seconds: list[float] = field(default_factory=list)
    resumed_seconds: list[float] = field(default_factory=list)
    stop_seconds: list[float] = field(default_factory=list)
    bundles: int = 0
    disks: bool = False
    wrong: list[str] = field(default_factory=list)

    def lines(self, lease_seconds: float) -> list[str]:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        first = (
            f"jobs {self.jobs}: published {self.published}, failed as injected {self.failed_as_injected}, "
            f"lost {self.lost}, published twice {self.published_twice}; bundles verified {self.bundles}"
        )
        return [
            first,
            f"kills {self.kills}; orphans {self.orphans}; most attempts of a job {self.most_attempts}",
            f"a lost job is back in the queue: {_spread(self.returned_seconds)}, at a lease of {lease_seconds} s",
            f"and runs again, behind others: {_spread(self.resumed_seconds)}",
            f"end after SIGTERM: {_spread(self.stop_seconds)}",
            f"faults: {faults}",
            f"full disks: {'small tmpfs mounts' if self.disks else 'left out, since this user may not mount'}",
            *(f"WRONG: {what}" for what in self.wrong),
        ]


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "none measured"
    return f"median {statistics.median(seconds):.1f} s, maximum {max(seconds):.1f} s of {len(seconds)}"


class World:
    """Two schedulers, several workers, Valkey behind a line that can fail, SeaweedFS, and an index."""

    def __init__(self, directory: Path, cleanup: ExitStack, *, workers: int, lease_seconds: float) -> None:
        self.directory = directory
        self.lease_seconds = lease_seconds
        self.temporary, self.cache = directory / "tmp", directory / "cache"
        self.disks = all(
            [
                cleanup.enter_context(small_disk(self.temporary, "96m")),
                cleanup.enter_context(small_disk(self.cache, "96m")),
            ]
        )
        self.index = cleanup.enter_context(IndexServer())
        self.valkey = Valkey(directory / "valkey")
        cleanup.callback(self.valkey.stop)
        (directory / "s3").mkdir()
        self.store = Store(directory / "s3", cleanup)
        self.line: TcpProxy = cleanup.enter_context(tcp_proxy(self.valkey.port))
        self.batches: list[str] = []
        self._settings = self._own_settings()
        redis = connect(self._settings.redis)
        cleanup.callback(redis.close)
        self.status = StatusStore(redis)
        self.agents = Agents(redis, self._settings.redis.prefix)
        self._expected: dict[str, ErrorKind | None] = {}
        self._made = self._offered = 0
        self._offer_broken_packages()
        self.schedulers = [self._keep(cleanup, f"scheduler-{n}", "scheduler") for n in range(2)]
        self.workers = [self._keep(cleanup, f"worker-{n}", "worker") for n in range(workers)]
        self.recovery = cleanup.enter_context(Recovery(self))

    def _own_settings(self) -> Settings:
        return Settings(
            nickname="chaos",
            indexes=(IndexSettings(name="pypi[0]", url=self.index.url),),
            redis=RedisSettings(url=SecretStr(f"redis://127.0.0.1:{self.valkey.port}/0")),
            storage=self.store.server.storage(),
            retry=RetrySettings(max_attempts=MAX_ATTEMPTS),
        )

    def _keep(self, cleanup: ExitStack, name: str, command: str) -> Kept:
        place = self.directory / "home"
        place.mkdir(exist_ok=True)
        server = self.store.server
        variables = {
            "USEONLYCONFIGURED": "true",
            "REDIS_URL": f"redis://127.0.0.1:{self.line.port}/0",
            "STORAGE_URI": f"s3://{server.bucket}",
            "STORAGE_ENDPOINTURL": server.endpoint_url,
            "STORAGE_REGION": "us-east-1",
            "STORAGE_ACCESSKEY": server.access_key,
            "STORAGE_SECRETKEY": server.secret_key,
            "TEMPORARYDIRECTORY": str(self.temporary),
            "CACHE_DIRECTORY": str(self.cache),
            "CACHE_PAGETTL": "0s",  # packages are added all the time
            "MINFREESPACE": "0B",
            "LEASE": f"{self.lease_seconds}s",
            "RETRY_MAXATTEMPTS": str(MAX_ATTEMPTS),
            "RETRY_MINBACKOFF": "200ms",
            "RETRY_MAXBACKOFF": "2s",
            "FETCHTIMEOUT": "60s",
        }
        environment = {f"{_OURS}{name}": value for name, value in variables.items()} | {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "MODERNE_AGENT_PYPI_0_URL": self.index.url,
            "MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "2s",
        }
        kept = Kept(name, (command,), environment, self.directory)
        cleanup.callback(_make_sure, kept)
        return kept

    # Work.

    def _offer_broken_packages(self) -> None:
        self.index.add("chaos_base-1.0-py3-none-any.whl", build_wheel(self.directory / "made", "chaos-base", "1.0"))
        for number in range(_PACKAGES):
            changed = build_wheel(self.directory / "made", f"changed-{number}", "1.0", visualizations=["bars"])
            self.index.add(changed.name, changed, sha256="0" * 64)

    def give_work(self, count: int) -> None:
        """Submit a batch of ``count`` jobs, each unlike all others; every tenth cannot succeed.

        Raises ``StatusUnavailable`` when Redis does not take it: then nobody was promised anything.
        """
        requirements = [self._offer(self._made + n) for n in range(count)]
        self._made += count
        self.batches.append(submit(self.status, collect(requirements), self._settings))
        self._offered += count

    def _offer(self, number: int) -> str:
        if number % 20 == 9:
            self._expected[f"absent-{number}"] = ErrorKind.NOT_FOUND
            return f"absent-{number}"
        if number % 20 == 19:
            name = f"changed-{number // 20 % _PACKAGES}"
            self._expected[name] = ErrorKind.HASH_MISMATCH
            return name
        name, version = f"chaos-{number % _PACKAGES}", str(number // _PACKAGES + 1)
        wheel = build_wheel(
            self.directory / "made", name, version, requires=["chaos-base"], visualizations=[f"bars_{number}"]
        )
        self.index.add(wheel.name, wheel)
        self._expected[f"{name}=={version}"] = None
        return f"{name}=={version}"

    def unfinished(self) -> int:
        return sum(self.status.unfinished())

    @property
    def offered(self) -> int:
        return self._offered

    # The end.

    def heal(self) -> None:
        """Take back every fault that lasts."""
        self.line.flow()
        self.index.behave()

    def wait_until_done(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with suppress(StatusUnavailable):
                if all(self.status.batch(batch, jobs=False).finished for batch in self.batches):
                    return True
            time.sleep(0.3)
        return False

    def stop_services(self) -> None:
        for kept in [*self.workers, *self.schedulers]:
            eventually(lambda kept=kept: kept.ready, 60)  # type: ignore[misc]  # mypy does not infer the default
            kept.end()

    def judge(self, figures: Figures) -> None:
        """Look at everything that is left, once the services have ended."""
        jobs = [job for batch in self.batches for job in self.status.batch(batch).jobs]
        figures.jobs, figures.disks = len(jobs), self.disks
        for job in jobs:
            self._judge_job(job, figures)
        for batch in self.batches:
            self._judge_counts(batch, figures)
        self._judge_bundles(jobs, figures)
        self._judge_rest(figures)
        if missing := self._offered - len(jobs):
            figures.lost += missing
            figures.wrong.append(f"{missing} jobs that were accepted are gone")
        figures.returned_seconds, figures.resumed_seconds = self.recovery.returned, self.recovery.resumed
        for kept in [*self.workers, *self.schedulers]:
            figures.stop_seconds += kept.stop_seconds if kept in self.workers else []
            figures.wrong += kept.wrong

    def _judge_job(self, job: Job, figures: Figures) -> None:
        figures.most_attempts = max(figures.most_attempts, job.attempt)
        expected = self._expected[job.requirement]
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

    def _judge_counts(self, batch: str, figures: Figures) -> None:
        """Every change of state counts once: a second publication would show in the batch's counts."""
        found = self.status.batch(batch)
        for state in JobState:
            counted, there = found.counts[state], sum(job.state is state for job in found.jobs)
            if state is JobState.PUBLISHED:
                figures.published_twice += max(0, counted - there)
            if counted != there:
                figures.wrong.append(f"{batch} counts {counted} jobs as {state}, of which there are {there}")

    def _judge_bundles(self, jobs: list[Job], figures: Figures) -> None:
        store = open_store(self.store.server.storage())
        report = verify(store)
        figures.bundles = report.bundles
        figures.wrong += [f"bundle: {issue.object}: {issue.issue}" for issue in report.issues]
        ids: dict[tuple[str, ...], set[str]] = {}
        whole: dict[str, bool] = {}
        for path in map(str, store.paths("bundles/")):
            _, name, version, bundle, file = path.split("/", 4)
            ids.setdefault((name, version), set()).add(bundle)
            place = f"{name}/{version}/{bundle}"
            whole[place] = whole.get(place, False) or file == "bundle.json"
        figures.published_twice += sum(len(found) - 1 for found in ids.values())
        figures.wrong += [f"{place} has no bundle.json" for place, is_whole in whole.items() if not is_whole]
        told = {(job.bundle.name, job.bundle.version) for job in jobs if job.bundle}
        figures.wrong += [f"{missing} is published but not stored" for missing in told - set(ids)]

    def _judge_rest(self, figures: Figures) -> None:
        orphans = self._orphans()
        figures.orphans = len(orphans)
        figures.wrong += [f"orphan {orphan}" for orphan in orphans]
        figures.wrong += [f"left in the temporary directory: {path.name}" for path in self._left_over()]
        queued, running = self.status.unfinished()
        if queued or running:
            figures.wrong.append(f"{queued} jobs count as queued, {running} leases are left")
        if figures.most_attempts > 3 * MAX_ATTEMPTS:
            figures.wrong.append(f"a job had {figures.most_attempts} attempts")
        figures.wrong += [f"agent {agent.nickname} is still announced" for agent in self.agents.all()]

    def _left_over(self) -> Iterator[Path]:
        """Yield what no worker will sweep: a check that was cut short at a start is swept a minute later."""
        for path in self.temporary.iterdir():
            if not path.name.startswith("vizfetch-contract-") or time.time() - path.stat().st_mtime > _SWEPT_SECONDS:
                yield path

    def _orphans(self) -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                ours = str(self.directory).encode() in told and int(process.name) != os.getpid()
                if ours and not any(known in line for known in _NOT_OURS):
                    found.append(f"{process.name}: {line[:100]}")
        return found


def _make_sure(kept: Kept) -> None:
    """End a service and all that it started, whatever went wrong before."""
    kept._ended.set()  # noqa: SLF001 - the last resort
    for pid in kept.family():
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    with suppress(subprocess.TimeoutExpired):
        kept.process.wait(5)


@contextmanager
def world(directory: Path, *, workers: int, lease_seconds: float) -> Iterator[World]:
    """Start everything, and remove it afterwards."""
    with ExitStack() as cleanup:
        made = World(directory, cleanup, workers=workers, lease_seconds=lease_seconds)
        eventually(lambda: all(kept.ready for kept in [*made.workers, *made.schedulers]), 90)
        yield made
