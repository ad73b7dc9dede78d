"""What is measured, and where it is kept: one table of metrics, and counters that outlive the processes that count.

A process adds to a ``Meter`` in its memory, which costs a lock and an addition. A thread brings what has gathered to
Redis every few seconds and at the end of a job, in one round trip that nobody waits for. There the processes of an
agent (its children, one after the other, and its gateway) add up, and the agent's main process shows the sums. When
Redis is away, what was counted is kept and brought later. What a process that is killed has not brought yet is lost: a
few seconds of counting, and nothing else.

Labels hold names from closed sets and names of indexes, never an address, a package or a job.
"""

import json
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, Protocol, cast

import structlog
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from config.settings import RedisSettings
from jobs.connection import connect
from jobs.scripts import Scripts
from jobs.store import translated

KEPT_SECONDS = 7 * 24 * 3600
"""How long the counters of an agent are kept that counts no more."""

_BRING_EVERY_SECONDS = 3.0
_ANSWER_SECONDS = 1.0
_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 10.0
_STEP_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)
_ANSWER_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_log = structlog.get_logger()


@dataclass(frozen=True)
class Metric:
    """One row of the table."""

    name: str
    """As it is shown, without ``_total`` at a counter's end."""
    kind: Literal["counter", "gauge", "histogram"]
    shown_by: Literal["agent", "scheduler", "both"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without the infinite one."""

    @property
    def series(self) -> tuple[str, ...]:
        """The names under which Prometheus knows it."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (f"{self.name}_total",) if self.kind == "counter" else (self.name,)


def _table(*metrics: Metric) -> Mapping[str, Metric]:
    return MappingProxyType({metric.name: metric for metric in metrics})


METRICS = _table(
    # Of an agent, which every agent shows for itself: add them up.
    Metric(
        "vizfetch_attempts",
        "counter",
        "agent",
        "Attempts that ended here: outcome is published, unchanged, failed, retried, postponed, released, fenced or "
        "unrecorded; kind is that of the error.",
        ("outcome", "kind"),
    ),
    Metric(
        "vizfetch_step_duration_seconds",
        "histogram",
        "agent",
        "How long the steps of attempts took; queued is the time before the claim.",
        ("step",),
        _STEP_BUCKETS,
    ),
    Metric("vizfetch_uploaded_bytes", "counter", "agent", "Sent to the store for published bundles."),
    Metric(
        "vizfetch_reused_bytes", "counter", "agent", "Of published bundles, what the store had already: not sent again."
    ),
    Metric(
        "vizfetch_index_requests",
        "counter",
        "agent",
        "HTTP requests to indexes; status is the answer's, or the kind of failure where there was no answer.",
        ("index", "status"),
    ),
    Metric(
        "vizfetch_index_answer_seconds",
        "histogram",
        "agent",
        "Time until an index's answer began.",
        ("index",),
        _ANSWER_BUCKETS,
    ),
    Metric("vizfetch_index_downloaded_bytes", "counter", "agent", "Received from indexes, as it came.", ("index",)),
    Metric(
        "vizfetch_cache_requests",
        "counter",
        "agent",
        "What was asked of the gateway's cache: what is page or file, result is hit or miss.",
        ("what", "result"),
    ),
    Metric("vizfetch_cache_saved_bytes", "counter", "agent", "Files taken from the cache, not from an index."),
    Metric("vizfetch_gateway_restarts", "counter", "agent", "How often the index gateway ended and was started again."),
    Metric(
        "vizfetch_index_breaker",
        "gauge",
        "agent",
        "1 for the state that an index is in: closed (asked), open (down: not asked), half_open (somebody finds out).",
        ("index", "state"),
    ),
    Metric("vizfetch_free_bytes", "gauge", "agent", "Free space where place is temporary or cache.", ("place",)),
    Metric("vizfetch_min_free_bytes", "gauge", "agent", "What an agent wants free before it starts (minFreeSpace)."),
    Metric("vizfetch_running_jobs", "gauge", "agent", "Jobs that the agent is working on."),
    Metric("vizfetch_concurrency", "gauge", "agent", "How many jobs the agent works on at once."),
    Metric(
        "vizfetch_agent_info",
        "gauge",
        "agent",
        "1, with what the agent is called and its version.",
        ("nickname", "version"),
    ),
    # Of the whole deployment, which every scheduler shows alike: take the maximum.
    Metric("vizfetch_jobs", "gauge", "scheduler", "Jobs that have not ended; state is queued or running.", ("state",)),
    Metric(
        "vizfetch_jobs_ended",
        "counter",
        "scheduler",
        "Jobs by the state in which they ended (published, failed, cancelled) and the kind of their error.",
        ("state", "kind"),
    ),
    Metric(
        "vizfetch_jobs_unchanged",
        "counter",
        "scheduler",
        "Published jobs that were answered from memory, since nothing had changed.",
    ),
    Metric(
        "vizfetch_retries", "counter", "scheduler", "Further attempts, by the kind of error before them.", ("kind",)
    ),
    Metric(
        "vizfetch_postponements",
        "counter",
        "scheduler",
        "Attempts put off because an index was down, by what was seen of it; they are not counted as retries.",
        ("kind",),
    ),
    Metric("vizfetch_lease_losses", "counter", "scheduler", "Leases that ran out: an agent died, froze or lost Redis."),
    Metric("vizfetch_queue_due_jobs", "gauge", "scheduler", "Queued jobs whose time has come.", ("priority",)),
    Metric("vizfetch_queue_later_jobs", "gauge", "scheduler", "Queued jobs that wait before a retry.", ("priority",)),
    Metric(
        "vizfetch_queue_age_seconds",
        "gauge",
        "scheduler",
        "For how long the oldest queued job whose time has come has been waiting; 0 when there is none.",
        ("priority",),
    ),
    Metric(
        "vizfetch_queue_messages",
        "gauge",
        "scheduler",
        "Messages that wait for agents, in each queue that an agent serves.",
        ("queue", "priority"),
    ),
    Metric("vizfetch_agents", "gauge", "scheduler", "Agents that live; state is working or draining.", ("state",)),
    Metric("vizfetch_agents_concurrency", "gauge", "scheduler", "How many jobs all working agents do at once."),
    Metric("vizfetch_agents_running_jobs", "gauge", "scheduler", "Jobs that agents say they are working on."),
    Metric("vizfetch_agent_disagreements", "gauge", "scheduler", "What does not fit together: see vizfetch agents."),
    Metric("vizfetch_loop_turn_age_seconds", "gauge", "scheduler", "Since when the loop has not taken a turn."),
    # Of the process itself.
    Metric(
        "vizfetch_redis_up", "gauge", "both", "Whether Redis answered just now. If not, counters are the last known."
    ),
)
"""Everything that vizfetch shows, but for what the process's own collector adds (``process_…``)."""


class Sink(Protocol):
    """Where a meter brings what was counted."""

    def add(self, number: int, deltas: Mapping[str, float]) -> None:
        """Add a report; one that was added before under its number changes nothing. Raises ``RedisError``."""
        ...


class Totals:
    """The counters of one agent on Redis, for one process. The caller closes the client."""

    def __init__(self, redis: Redis, agent: str, *, prefix: str) -> None:
        self._redis = redis
        self._agent = agent
        self._key = f"{prefix}:metrics:{agent}"
        self._process = secrets.token_hex(6)
        self._run = Scripts(redis, prefix, "metrics.lua")

    def add(self, number: int, deltas: Mapping[str, float]) -> None:
        """See ``Sink``."""
        flat = [item for field, value in deltas.items() for item in (field, repr(value))]
        self._run("add", self._agent, self._process, number, KEPT_SECONDS * 1000, json.dumps(flat))

    def all(self) -> Mapping[str, float]:
        """Return the sums, and keep them for longer. Raises ``StatusUnavailable``."""
        with translated(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._key)
            pipe.expire(self._key, KEPT_SECONDS)
            found = cast("dict[str, str]", pipe.execute()[0])
        return {field: float(value) for field, value in found.items()}


class Meter:
    """Counts for one process, in any number of threads. Raises for nothing but what is not in the table.

    Without a sink it only gathers. ``start`` makes the thread, so make a meter after the fork, and ``close`` it.
    """

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._gathered: dict[str, float] = {}
        self._report: tuple[int, Mapping[str, float]] = (0, {})
        """The one that is on its way, until it is known to have arrived."""
        self._news = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._bring_all, name="meter", daemon=True)

    def start(self) -> None:
        """Begin to bring what is counted."""
        if self._sink is not None:
            self._thread.start()

    def close(self, patience_seconds: float = _ANSWER_SECONDS) -> None:
        """Bring the rest, for as long as that may take. Harmless to repeat."""
        self._ended.set()
        self._news.set()
        if self._thread.is_alive():
            self._thread.join(patience_seconds)

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._gather({key_of(METRICS[name], labels): value})

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        metric = METRICS[name]
        bucket = next((str(bound) for bound in metric.buckets if value <= bound), "+Inf")
        self._gather({key_of(metric, labels, bucket): 1, key_of(metric, labels, "sum"): value})

    def hurry(self) -> None:
        """Have it brought now, without waiting for that."""
        self._news.set()

    def gathered(self) -> Mapping[str, float]:
        """Return what has not been brought yet."""
        with self._lock:
            return dict(self._gathered)

    def _gather(self, deltas: Mapping[str, float]) -> None:
        with self._lock:
            for field, value in deltas.items():
                self._gathered[field] = self._gathered.get(field, 0) + value

    def _bring_all(self) -> None:
        pause = _PAUSE_SECONDS
        while not self._ended.is_set():
            self._news.wait(_BRING_EVERY_SECONDS)
            self._news.clear()
            pause = _PAUSE_SECONDS if self._bring() else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            # Many jobs that end at once are one report, and the end of a job is no reason to ask a Redis that is away.
            self._ended.wait(pause)
        self._bring()

    def _bring(self) -> bool:
        if self._sink is None:
            return True
        while True:
            number, deltas = self._report
            if not deltas:
                with self._lock:
                    deltas, self._gathered = self._gathered, {}
                if not deltas:
                    return True
                number += 1
                self._report = number, deltas
            try:
                self._sink.add(number, deltas)
            except RedisError as error:
                _log.debug("metrics_kept", reason=str(error))
                return False
            self._report = number, {}


def meter_for(settings: RedisSettings, agent: str) -> Meter:
    """Return a meter that has been started, for this process of an agent."""
    redis = connect(settings, timeout_seconds=_ANSWER_SECONDS)
    redis.set_retry(Retry(NoBackoff(), 1))
    meter = Meter(Totals(redis, agent, prefix=settings.prefix))
    meter.start()
    return meter


@dataclass(frozen=True)
class Series:
    """The counters of one metric with one set of labels, as they are shown."""

    labels: tuple[str, ...]
    value: float = 0
    """Of a counter; of a histogram, the sum of all values."""
    buckets: tuple[tuple[str, float], ...] = ()
    """Of a histogram: each upper bound with how many values are not above it."""


def series(metric: Metric, sums: Mapping[str, float]) -> Iterator[Series]:
    """Yield what ``sums`` holds of a counter or a histogram, by labels."""
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for labels, part, value in _parts(metric, sums):
        found.setdefault(labels, {})[part] = value
    if not metric.labels:
        found.setdefault((), {})  # what has no labels is shown from the start, so that its first increase is seen
    for labels, parts in sorted(found.items()):
        if metric.kind == "counter":
            yield Series(labels, parts.get("", 0))
        else:
            bounds = [*map(str, metric.buckets), "+Inf"]
            yield Series(
                labels, parts.get("sum", 0), tuple(_cumulated((bound, parts.get(bound, 0)) for bound in bounds))
            )


def _cumulated(counts: Iterable[tuple[str, float]]) -> Iterator[tuple[str, float]]:
    total = 0.0
    for bound, count in counts:
        total += count
        yield bound, total


def key_of(metric: Metric, labels: Mapping[str, str], part: str = "") -> str:
    """Return the name of a number among the sums: the metric, which part of a histogram it is, and its labels.

    Raises ``ValueError`` for other labels than the table's.
    """
    if labels.keys() != set(metric.labels):
        raise ValueError(f"{metric.name} has the labels {metric.labels}, not {tuple(labels)}")
    return json.dumps([metric.name, part, *(str(labels[label]) for label in metric.labels)])


def _parts(metric: Metric, sums: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], str, float]]:
    for field, value in sums.items():
        try:
            name, part, *labels = json.loads(field)
        except ValueError:
            continue
        # Another version of this program may have written other labels.
        if name == metric.name and len(labels) == len(metric.labels):
            yield tuple(labels), part, value
