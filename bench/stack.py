"""A whole installation on this machine: a Valkey, a SeaweedFS S3 server, a scheduler and workers, all on loopback."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from config.settings import StorageSettings
from tests.support.command import Deployment
from tests.support.seaweed import seaweed
from tests.support.valkey import valkey

PREFIX = "MODERNE_AGENT_VISUALIZATION_"


@dataclass(frozen=True)
class Stack:
    """What runs, and how to reach it."""

    deployment: Deployment
    storage: StorageSettings


@contextmanager
def stack(place: Path, workers: Sequence[str], **variables: str) -> Iterator[Stack]:
    """Run it in ``place`` with a worker for each nickname, and ``variables`` for all of it, until the block is left."""
    (place / "seaweed").mkdir()
    with ExitStack() as running:
        redis = running.enter_context(valkey(place / "valkey"))
        s3 = running.enter_context(seaweed(place / "seaweed"))
        storage = s3.storage("bench")
        settings = {
            f"{PREFIX}REDIS_URL": redis.url.get_secret_value(),
            f"{PREFIX}CACHE_DIRECTORY": str(place / "cache"),
            f"{PREFIX}STORAGE_URI": storage.uri,
            f"{PREFIX}STORAGE_ENDPOINTURL": s3.endpoint_url,
            f"{PREFIX}STORAGE_REGION": "us-east-1",
            f"{PREFIX}STORAGE_ACCESSKEY": s3.access_key,
            f"{PREFIX}STORAGE_SECRETKEY": s3.secret_key,
            f"{PREFIX}CONCURRENCY": "1",
        }
        deployment = Deployment(settings | variables, place)
        running.enter_context(deployment.service("scheduler"))
        started = [
            running.enter_context(deployment.service("worker", MODERNE_AGENT_NICKNAME=nickname)) for nickname in workers
        ]
        for worker in started:
            worker.wait_for("ready.")
        yield Stack(deployment, storage)
