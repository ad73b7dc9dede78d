"""Everything that runs under chaos, with work for it, and what must hold in the end."""

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from bundles.store import open_store
from config.settings import IndexSettings, RedisSettings, RetrySettings, Settings
from jobs.connection import connect
from jobs.errors import ErrorKind
from jobs.models import Job, JobState
from jobs.store import StatusStore, StatusUnavailable, UnknownJob
from scheduler.manifest import collect
from scheduler.submit import submit
from tests.chaos.judge import Evidence, Figures, judge
from tests.chaos.processes import Kept, Store, Valkey, small_disk
from tests.support.command import PROGRAMS, children, eventually
from tests.support.index_server import IndexServer
from tests.support.tcp_proxy import TcpProxy, tcp_proxy
from tests.support.wheels import build_wheel

MAX_ATTEMPTS = 30
_OURS = "MODERNE_AGENT_VISUALIZATION_"
_PACKAGES = 40
_PR_SET_CHILD_SUBREAPER = 36


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


class World:
    """Two schedulers, several workers, Valkey, SeaweedFS and an index, each behind a line that can fail."""

    def __init__(self, directory: Path, cleanup: ExitStack, *, workers: int, lease_seconds: float) -> None:
        self.directory = directory
        self.lease_seconds = lease_seconds
        self._audit = directory / "audit.jsonl"
        self._known = frozenset(children(os.getpid()))
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
        ports = self.valkey.port, _port(self.store.server.endpoint_url), _port(self.index.url)
        self.lines: list[TcpProxy] = [cleanup.enter_context(tcp_proxy(port)) for port in ports]
        redis_line, store_line, index_line = self.lines
        self._redis_url = f"redis://127.0.0.1:{redis_line.port}/0"
        self._store = replace(self.store.server, endpoint_url=f"http://127.0.0.1:{store_line.port}")
        self._index_url = f"http://127.0.0.1:{index_line.port}/simple"
        self.batches: list[str] = []
        self._settings = self._own_settings()
        redis = connect(self._settings.redis)
        cleanup.callback(redis.close)
        self.status = StatusStore(redis)
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
        (self.directory / "tmpdir").mkdir(exist_ok=True)
        server = self._store
        variables = {
            "USEONLYCONFIGURED": "true",
            "REDIS_URL": self._redis_url,
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
            "AUDIT": str(self._audit),
            "API_PORT": "0",
        }
        environment = {f"{_OURS}{name}": value for name, value in variables.items()} | {
            "PATH": PROGRAMS,
            "HOME": str(place),
            "TMPDIR": str(self.directory / "tmpdir"),
            "MODERNE_AGENT_PYPI_0_URL": self._index_url,
            "MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "2s",
            "MODERNE_AGENT_PYPI_0_READTIMEOUT": "4s",
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
        for line in self.lines:
            line.flow()
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
        figures.disks = self.disks
        with self.valkey.client() as redis:
            evidence = Evidence(
                redis=redis,
                store=open_store(self.store.server.storage()),
                batches=self.batches,
                expected=self._expected,
                offered=self._offered,
                max_attempts=MAX_ATTEMPTS,
                temporary=[self.temporary, self.directory / "tmpdir", self.cache / "part"],
                audit=self._audit,
                known=lambda: self._known | {self.valkey.pid, self.store.pid},
            )
            judge(evidence, figures)
        figures.returned_seconds, figures.resumed_seconds = self.recovery.returned, self.recovery.resumed
        for kept in [*self.workers, *self.schedulers]:
            figures.stop_seconds += kept.stop_seconds if kept in self.workers else []
            figures.wrong += kept.wrong


def _make_sure(kept: Kept) -> None:
    """End a service and all that it started, whatever went wrong before."""
    kept._ended.set()  # noqa: SLF001 - the last resort
    for pid in kept.family():
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    with suppress(subprocess.TimeoutExpired):
        kept.process.wait(5)


def _port(url: str) -> int:
    port = urlsplit(url).port
    if port is None:
        raise ValueError(f"{url} names no port")
    return port


@contextmanager
def _adopting() -> Iterator[None]:
    """Have the kernel make this process the parent of all descendants that lose theirs, so that none gets lost."""
    libc = ctypes.CDLL(None)
    known = frozenset(children(os.getpid()))
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)
        for pid in set(children(os.getpid())) - known:
            with suppress(ChildProcessError, ProcessLookupError):
                os.kill(pid, 9)
                os.waitpid(pid, 0)


@contextmanager
def world(directory: Path, *, workers: int, lease_seconds: float) -> Iterator[World]:
    """Start everything, and remove it afterwards."""
    with _adopting(), ExitStack() as cleanup:
        made = World(directory, cleanup, workers=workers, lease_seconds=lease_seconds)
        eventually(lambda: all(kept.ready for kept in [*made.workers, *made.schedulers]), 90)
        yield made
