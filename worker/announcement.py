"""The agent tells all who share its Redis that it lives, what it can serve, and what it is doing."""

import os
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from types import TracebackType
from typing import Self

import structlog

from config.settings import Settings
from jobs.agents import AgentDocument, AgentIndex, Agents, fingerprint
from jobs.connection import connect
from jobs.losses import HINT, Losses
from jobs.queue import queues_of
from jobs.store import StatusUnavailable
from worker.gateway.upstream import traffic_name

_LONGEST_BEAT_SECONDS = 5.0

_log = structlog.get_logger()


class Announcement:
    """Announces the agent from a thread of the worker's main process until the block is left.

    Redis being away is waited out. ``running`` returns the ids of the jobs at work; ``stopping`` whether the agent
    takes no more. That Redis lost its data is noticed and logged.
    """

    def __init__(
        self, settings: Settings, *, running: Callable[[], Sequence[str]], stopping: Callable[[], bool]
    ) -> None:
        self._settings = settings
        self._running = running
        self._stopping = stopping
        self._beat_seconds = min(_LONGEST_BEAT_SECONDS, settings.lease_seconds / 2)
        self._redis = connect(settings.redis)
        self._agents = Agents(self._redis, settings.redis.prefix)
        self._ended = threading.Event()
        self._answered = False
        self._losses = Losses(self._redis, settings.redis.prefix)
        self._thread = threading.Thread(target=self._beat, name="announcement", daemon=True)
        self._fixed = self._describe()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._redis.close()

    def _describe(self) -> AgentDocument:
        settings, now = self._settings, datetime.now(UTC)
        return AgentDocument(
            id=secrets.token_hex(8),
            nickname=settings.nickname,
            host=socket.gethostname(),
            pid=os.getpid(),
            release=version("vizfetch"),
            target=settings.target,
            indexes=tuple(AgentIndex(name=index.name, url=index.url) for index in settings.indexes),
            traffic={index.name: traffic_name(index) for index in settings.indexes},
            fingerprint=fingerprint(settings),
            queues=queues_of(settings.target, settings.indexes),
            concurrency=settings.concurrency,
            running=(),
            free_bytes=0,
            started_at=now,
            beat_at=now,
        )

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds if self._tell() else min(1.0, self._beat_seconds)):
            pass
        try:
            self._agents.leave(self._fixed.id)
        except StatusUnavailable:
            return  # it expires by itself

    def _tell(self) -> bool:
        changes = {
            "running": tuple(self._running()),
            "free_bytes": _free_bytes(self._settings),
            "draining": self._stopping(),
            "beat_at": datetime.now(UTC),
        }
        try:
            self._agents.announce(self._fixed.model_copy(update=changes), self._beat_seconds)
            lost = self._losses.noticed()
        except StatusUnavailable as error:
            if self._answered:
                _log.warning("status_unavailable", reason=str(error))
            self._answered = False
            return False
        if lost:
            _log.error("redis_lost_data", hint=HINT)
        self._answered = True
        return True


def _free_bytes(settings: Settings) -> int:
    try:
        return shutil.disk_usage(settings.temporary_directory).free
    except OSError:
        return 0
