"""A whole installation on this machine: a Valkey, a SeaweedFS S3 server, a scheduler and workers, all on loopback."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import settle
from config.settings import StorageSettings
from tests.support.command import Deployment, free_port
from tests.support.seaweed import seaweed
from tests.support.valkey import valkey

PREFIX = "MODERNE_AGENT_VISUALIZATION_"


@dataclass(frozen=True)
class Stack:
    """What runs, and how to reach it."""

    deployment: Deployment
    storage: StorageSettings
    pids: Mapping[str, int] = field(default_factory=dict)
    """The main process of each service by its name; workers by their nicknames."""


@contextmanager
def stack(place: Path, workers: Sequence[str], **variables: str) -> Iterator[Stack]:
    """Run it in ``place`` with a worker for each nickname, and ``variables`` for all of it, until the block is left.

    What processes do at their start, such as importing pip, is done when the block begins.
    Bundles go to the S3 server unless ``variables`` name another store.
    """
    for folder in ("seaweed", "tasks"):
        (place / folder).mkdir()
    with ExitStack() as running:
        before = direct_children()
        redis = running.enter_context(valkey(place / "valkey"))
        pids = {"valkey": (direct_children() - before).pop()}
        s3 = running.enter_context(seaweed(place / "seaweed"))
        pids["seaweed"] = (direct_children() - before - {pids["valkey"]}).pop()
        storage = s3.storage("bench")
        settings = {
            f"{PREFIX}REDIS_URL": redis.url.get_secret_value(),
            # On one file system, between whose directories wheels are linked and not copied.
            f"{PREFIX}CACHE_DIRECTORY": str(place / "cache"),
            f"{PREFIX}TEMPORARYDIRECTORY": str(place / "tasks"),
            f"{PREFIX}CONCURRENCY": "1",
            f"{PREFIX}API_PORT": "0",  # several workers on one machine, of which nobody asks anything
        }
        if f"{PREFIX}STORAGE_URI" not in variables:
            settings |= {
                f"{PREFIX}STORAGE_URI": storage.uri,
                f"{PREFIX}STORAGE_ENDPOINTURL": s3.endpoint_url,
                f"{PREFIX}STORAGE_REGION": "us-east-1",
                f"{PREFIX}STORAGE_ACCESSKEY": s3.access_key,
                f"{PREFIX}STORAGE_SECRETKEY": s3.secret_key,
            }
        deployment = Deployment(settings | variables, place)
        pids["scheduler"] = running.enter_context(
            deployment.service("scheduler", **{f"{PREFIX}API_PORT": str(free_port())})
        ).process.pid
        started = [
            running.enter_context(deployment.service("worker", MODERNE_AGENT_NICKNAME=nickname)) for nickname in workers
        ]
        for nickname, worker in zip(workers, started, strict=True):
            worker.wait_for("ready.")
            pids[nickname] = worker.process.pid
        settle(pids.values())
        yield Stack(deployment, storage, pids)


def direct_children() -> set[int]:
    """Return the pids of the processes that this one started and that live."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
