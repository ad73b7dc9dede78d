"""What belongs to no agent: how many jobs there are, how long they wait, how they ended, and who works on them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from redis import Redis

from jobs.agents import AgentDocument, Agents, disagreements
from jobs.metrics import METRICS, key_of
from jobs.metrics_text import Reading
from jobs.models import JobState, Priority
from jobs.queue import lengths
from jobs.store import StatusStore, translated

_ENDS = frozenset({JobState.PUBLISHED, JobState.FAILED, JobState.CANCELLED})
_WITH_KIND = {"retry": "vizfetch_retries", "postponed": "vizfetch_postponements"}
_PLAIN = {"lease": "vizfetch_lease_losses", "unchanged": "vizfetch_jobs_unchanged"}


@dataclass(frozen=True)
class Line:
    """The queued jobs of a priority."""

    due: int
    later: int
    age_seconds: float
    """Of the oldest that is due."""


@dataclass(frozen=True)
class Census:
    """A deployment at one moment."""

    queued: int
    running: int
    lines: Mapping[Priority, Line]
    totals: Mapping[str, int]
    """What ``scripts.lua`` counts."""
    agents: tuple[AgentDocument, ...]
    messages: Mapping[tuple[str, Priority], int]

    def sums(self) -> Mapping[str, float]:
        """Return the counters under the names that ``jobs.metrics`` gives them."""
        return dict(self._counted())

    def readings(self) -> Iterator[Reading]:
        """Yield the gauges."""
        yield Reading("vizfetch_jobs", self.queued, (JobState.QUEUED,))
        yield Reading("vizfetch_jobs", self.running, (JobState.RUNNING,))
        for priority, line in self.lines.items():
            yield Reading("vizfetch_queue_due_jobs", line.due, (priority,))
            yield Reading("vizfetch_queue_later_jobs", line.later, (priority,))
            yield Reading("vizfetch_queue_age_seconds", line.age_seconds, (priority,))
        for (queue, priority), count in self.messages.items():
            yield Reading("vizfetch_queue_messages", count, (queue, priority))
        draining = sum(agent.draining for agent in self.agents)
        yield Reading("vizfetch_agents", len(self.agents) - draining, ("working",))
        yield Reading("vizfetch_agents", draining, ("draining",))
        working = [agent for agent in self.agents if not agent.draining]
        yield Reading("vizfetch_agents_concurrency", sum(agent.concurrency for agent in working))
        yield Reading("vizfetch_agents_running_jobs", sum(len(agent.running) for agent in self.agents))
        yield Reading("vizfetch_agent_disagreements", len(disagreements(self.agents)))

    def _counted(self) -> Iterator[tuple[str, float]]:
        for what, value in self.totals.items():
            word, _, kind = what.partition(" ")
            if word in _ENDS:
                yield key_of(METRICS["vizfetch_jobs_ended"], {"state": word, "kind": kind}), value
            elif word in _WITH_KIND:
                yield key_of(METRICS[_WITH_KIND[word]], {"kind": kind}), value
            elif word in _PLAIN:
                yield key_of(METRICS[_PLAIN[word]], {}), value


def census(redis: Redis, prefix: str) -> Census:
    """Count. Costs a few round trips, however many jobs there are. Raises ``StatusUnavailable``."""
    queued, running = StatusStore(redis, prefix=prefix).unfinished()
    with translated():
        seconds, micros = redis.time()
        lines, totals = _lines(redis, prefix, seconds * 1000 + micros // 1000)
    agents = Agents(redis, prefix).all()
    queues = sorted({queue for agent in agents for queue in agent.queues})
    with translated():
        messages = {
            (queue, priority): count
            for priority in Priority
            for queue, count in lengths(redis, prefix, queues, priority).items()
        }
    return Census(queued, running, lines, totals, agents, messages)


def _lines(redis: Redis, prefix: str, now_ms: int) -> tuple[Mapping[Priority, Line], Mapping[str, int]]:
    with redis.pipeline(transaction=False) as pipe:
        for priority in Priority:
            key = f"{prefix}:waiting:{priority}"
            pipe.zcount(key, "-inf", now_ms)
            pipe.zcount(key, f"({now_ms}", "+inf")
            pipe.zrange(key, 0, 0, withscores=True)
        pipe.hgetall(f"{prefix}:totals")
        *found, totals = pipe.execute()
    lines = {
        priority: Line(due, later, max(0.0, (now_ms - first[0][1]) / 1000) if first else 0.0)
        for priority, due, later, first in zip(Priority, found[::3], found[1::3], found[2::3], strict=True)
    }
    return lines, {what: int(count) for what, count in totals.items()}
