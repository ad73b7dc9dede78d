"""What the agents tell of themselves, and which queues somebody serves.

Redis keys (P is the prefix):

  P:agent:ID   string  an ``AgentDocument`` (JSON), written by itself, gone ``KEPT_BEATS`` beats after the last
  P:agents     set     ids of agents; one whose document is gone is removed by whoever finds it missing
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast

from pydantic import ConfigDict, Field, ValidationError
from redis import Redis
from redis.client import Pipeline

from config.settings import Settings, Target
from jobs.models import Document
from jobs.store import translated

KEPT_BEATS = 3

# What may differ between agents that work together, or must never be told.
_OWN = frozenset({"nickname", "temporary_directory", "min_free_space_bytes", "cache", "concurrency", "redis", "api"})
_SECRETS = frozenset(
    {"username", "password", "bearer_token", "access_key", "secret_key", "profile", "prefix", "ca_bundle"}
)


class AgentIndex(Document):
    """An index as an agent knows it; its URL never holds credentials."""

    name: str
    url: str


class AgentDocument(Document):
    """What an agent tells of itself with every beat."""

    # Agents of a later release may tell more while others still run an earlier one; of that nothing is known here.
    model_config = ConfigDict(extra="ignore")

    version: Literal[1] = 1
    id: str
    """Made anew at each start."""
    nickname: str
    host: str
    pid: int
    release: str
    """The version of vizfetch."""
    target: Target
    indexes: tuple[AgentIndex, ...]
    traffic: Mapping[str, str] = Field(default_factory=dict)
    """Under which name ``jobs.traffic`` knows each index; of an agent of an earlier release, nothing."""
    fingerprint: str
    """Equal where the settings that decide about results are equal."""
    queues: tuple[str, ...]
    concurrency: int
    running: tuple[str, ...]
    """Ids of the jobs that it is working on."""
    free_bytes: int
    """In its temporary directory."""
    draining: bool = False
    """It finishes what it has and takes nothing more."""
    started_at: datetime
    beat_at: datetime
    """By the agent's own clock."""


def fingerprint(settings: Settings) -> str:
    """Return a digest of the settings that decide what an agent makes of a job, without its secrets."""
    kept = settings.model_dump(mode="json", exclude=set(_OWN))
    return hashlib.sha256(json.dumps(_without_secrets(kept), sort_keys=True).encode()).hexdigest()[:12]


def _without_secrets(value: object) -> object:
    if isinstance(value, dict):
        return {name: _without_secrets(item) for name, item in value.items() if name not in _SECRETS}
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    return value


class Agents:
    """The agents that share one Redis. Thread-safe; not to be carried over a fork.

    Every method raises ``StatusUnavailable`` when Redis does not answer, and may be repeated.
    """

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix

    def announce(self, document: AgentDocument, beat_seconds: float) -> None:
        """Show an agent until ``KEPT_BEATS`` beats have gone by."""
        with self._pipe() as pipe:
            pipe.set(self._key(document.id), document.as_json(), px=int(KEPT_BEATS * beat_seconds * 1000))
            pipe.sadd(f"{self._prefix}:agents", document.id)
            self._execute(pipe)

    def leave(self, agent: str) -> None:
        """Forget an agent that stops."""
        with self._pipe() as pipe:
            pipe.delete(self._key(agent))
            pipe.srem(f"{self._prefix}:agents", agent)
            self._execute(pipe)

    def all(self) -> tuple[AgentDocument, ...]:
        """Return those that live, by their nicknames; one whose document has another version is left out."""
        with translated():
            ids = sorted(cast("set[str]", self._redis.smembers(f"{self._prefix}:agents")))
            texts = self._redis.mget([self._key(agent) for agent in ids]) if ids else []
            gone = [agent for agent, text in zip(ids, texts, strict=True) if text is None]
            if gone:
                self._redis.srem(f"{self._prefix}:agents", *gone)
        found = [agent for text in texts if text is not None and (agent := _readable(str(text)))]
        return tuple(sorted(found, key=lambda agent: (agent.nickname, agent.id)))

    def _key(self, agent: str) -> str:
        return f"{self._prefix}:agent:{agent}"

    def _pipe(self) -> Pipeline:
        return self._redis.pipeline(transaction=False)

    @staticmethod
    def _execute(pipe: Pipeline) -> list[Any]:
        with translated():
            return pipe.execute()


def _readable(text: str) -> AgentDocument | None:
    try:
        return AgentDocument.model_validate_json(text)
    except ValidationError:
        return None


def disagreements(agents: Sequence[AgentDocument]) -> list[str]:
    """Return what does not fit together, each as a sentence for people."""
    found = []
    for name in sorted({agent.nickname for agent in agents}):
        count = sum(agent.nickname == name for agent in agents)
        if count > 1:
            found.append(f"{count} agents are called {name}: give each its own moderne.agent.nickname.")
    targets = sorted({_target(agent.target) for agent in agents})
    if len(targets) > 1:
        found.append(f"The agents serve different target environments ({'; '.join(targets)}): each takes only its own.")
    releases = sorted({agent.release for agent in agents})
    if len(releases) > 1:
        found.append(f"The agents run different versions of vizfetch: {', '.join(releases)}.")
    prints = {agent.fingerprint for agent in agents}
    if len(prints) > 1 and len(targets) == 1:
        found.append(
            "The agents' settings differ (see the fingerprints): the same job may end differently on each. "
            "Compare them with `vizfetch config`."
        )
    return found


def _target(target: Target) -> str:
    return f"Python {target.python}, glibc {target.glibc}, {target.architecture}"
