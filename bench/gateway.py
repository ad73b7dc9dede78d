"""What the index gateway costs and saves, on real input, against the public index.

    .venv/bin/python bench/gateway.py [--package NAME==VERSION] [--jobs 10] [--index URL]

1. CPU seconds for the files of one package: by ``pip download`` against the index itself, through a gateway whose cache
   is empty, and through one whose cache is warm; for the gateway, its own share is counted too.
2. Bytes that came from the index against unique bytes, for many jobs at once on an empty cache.

Everything runs in one go on one machine, so the ratios count more than the seconds. Needs the network, the development
environment and a minute. Prints one JSON document.
"""

import argparse
import json
import os
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pypi_simple

from config.settings import IndexSettings, Target
from worker.gateway.cache import FileCache
from worker.gateway.client import GatewayAddress, GatewayClient
from worker.gateway.server import Application, Server
from worker.gateway.shelf import Shelf
from worker.gateway.startup import Retries
from worker.gateway.tasks import Tasks
from worker.gateway.upkeep import usage
from worker.gateway.upstream import Answer, Upstream
from worker.pip import PinnedPip, choose_arguments, chosen, only_wheels, pin

PACKAGE = "moderne-visualizations-misc==2.2.0"
TTL_SECONDS = 3600.0
TIMEOUT_SECONDS = 600.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", default=PACKAGE)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--index", default=pypi_simple.PYPI_SIMPLE_ENDPOINT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vizfetch-bench-") as name:
        bench = Bench(Path(name), options.package, options.index)
        print(json.dumps({**bench.one(), **bench.many(options.jobs)}, indent=2))


@dataclass(frozen=True)
class Spent:
    """What one package took."""

    pip_cpu_seconds: float
    gateway_cpu_seconds: float
    wall_seconds: float

    @property
    def cpu_seconds(self) -> float:
        """All of it."""
        return self.pip_cpu_seconds + self.gateway_cpu_seconds

    def shown(self) -> dict[str, float]:
        """Return it for people."""
        return {
            "cpuSeconds": round(self.cpu_seconds, 2),
            "ofPip": round(self.pip_cpu_seconds, 2),
            "ofGateway": round(self.gateway_cpu_seconds, 2),
            "wallSeconds": round(self.wall_seconds, 2),
        }


class Counting(Upstream):
    """Counts the bytes of bodies, as they are after decompression, in which they are compared."""

    received_bytes = 0
    requests = 0

    def open(self, url: str, headers: Mapping[str, str], quiet: Callable[[], bool] = lambda: False) -> Answer:
        """Ask as always, and have the answer counted."""
        answer = super().open(url, headers, quiet)
        type(self).requests += 1
        chunks = answer.chunks

        def counted() -> Iterator[bytes]:
            for chunk in chunks():
                type(self).received_bytes += len(chunk)
                yield chunk

        answer.chunks = counted  # type: ignore[method-assign]  # a bench may look inside
        return answer


class Bench:
    """The pinned pip of the tasks in an environment like theirs, and gateways in this very process."""

    def __init__(self, place: Path, package: str, index: str) -> None:
        self._place = place
        self._index = index
        self._package = package
        self._target = Target()
        self._pip = self._environment(pin(place / "pip"))

    def one(self) -> dict[str, object]:
        """Measure one job: direct, cold, warm."""
        direct = self._measured(self._directly, own=False)
        with self._gateway("one") as client:
            cold = self._measured(lambda: self._through(client))
            warm = self._measured(lambda: self._through(client))
        return {
            "package": self._package,
            "direct": direct.shown(),
            "cold": cold.shown(),
            "warm": warm.shown(),
            "coldToDirect": round(cold.cpu_seconds / direct.cpu_seconds, 2),
            "warmToDirect": round(warm.cpu_seconds / direct.cpu_seconds, 2),
            "pipWarmToDirect": round(warm.pip_cpu_seconds / direct.pip_cpu_seconds, 2),
        }

    def many(self, jobs: int) -> dict[str, object]:
        """Measure many jobs at once on an empty cache."""
        Counting.received_bytes = Counting.requests = 0
        with self._gateway("many") as client, ThreadPoolExecutor(jobs) as pool:
            for done in [pool.submit(self._through, client) for _ in range(jobs)]:
                done.result()
        held = usage(self._place / "many")
        heads = sum(len(path.open("rb").readline()) for path in (self._place / "many" / "pages").glob("??/*"))
        unique = held.files.size_bytes + held.pages.size_bytes - heads
        return {
            "jobsAtOnce": jobs,
            "upstreamRequests": Counting.requests,
            "uniqueFilesAndPages": held.files.count + held.pages.count,
            "upstreamBytes": Counting.received_bytes,
            "uniqueBytes": unique,
            "upstreamToUnique": round(Counting.received_bytes / unique, 4),
        }

    def _environment(self, pip: PinnedPip) -> Path:
        venv.EnvBuilder(symlinks=True).create(self._place / "venv")
        packages = next((self._place / "venv" / "lib").glob("python3*")) / "site-packages"
        (packages / "pip.pth").write_text(f"{pip.directory}\n")
        return self._place / "venv" / "bin" / "python"

    @contextmanager
    def _gateway(self, name: str) -> Iterator[GatewayClient]:
        index = IndexSettings(name="public", url=self._index)
        upstream = Counting(index, retries=Retries())
        cache = FileCache(self._place / name, 10 * 2**30, TTL_SECONDS)
        tasks = Tasks((upstream,), Shelf(TTL_SECONDS, cache.pages), cache, TTL_SECONDS)
        token = secrets.token_urlsafe(16)
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        server = Server(listener, Application(tasks, token), threads=40)
        server.prepare()
        threading.Thread(target=server.serve, daemon=True).start()
        try:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield GatewayClient(GatewayAddress(url=url, control_token=token))
        finally:
            server.stop()
            upstream.close()

    def _through(self, client: GatewayClient) -> None:
        with client.session(self._target) as session, self._task(session.index_url) as task:
            requirements, report = task / "requirements.txt", task / "report.json"
            self._run(task, choose_arguments(self._target, requirements, report, silence_seconds=TIMEOUT_SECONDS))
            (task / "wheels").mkdir()
            files = chosen(report, session.index_url)
            while not session.collect(files, task / "wheels").done:
                pass
            incidents = session.record().incidents
        if incidents:
            sys.exit(incidents[0].message)

    def _directly(self) -> None:
        with self._task(self._index) as task:
            where = ["--requirement", str(task / "requirements.txt"), "--dest", str(task / "wheels")]
            self._run(task, ["download", *where, *only_wheels(self._target), "--no-cache-dir"])

    @contextmanager
    def _task(self, index_url: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(dir=self._place) as name:
            (Path(name) / "requirements.txt").write_text(f"--index-url {index_url}\n{self._package}\n")
            yield Path(name)

    def _run(self, task: Path, arguments: list[str]) -> None:
        place = str(task)
        environment = {"PATH": os.environ["PATH"], "HOME": place, "TMPDIR": place, "PIP_CONFIG_FILE": os.devnull}
        command = [str(self._pip), "-I", "-m", "pip", *arguments]
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True, timeout=TIMEOUT_SECONDS)

    def _measured(self, work: Callable[[], None], *, own: bool = True) -> Spent:
        children, ours, began = _children_seconds(), time.process_time(), time.monotonic()
        work()
        wall, gateway = time.monotonic() - began, time.process_time() - ours
        return Spent(_children_seconds() - children, gateway if own else 0.0, wall)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
