"""Which queue a job's message goes to, and what is said of a job that no agent can take."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog
from celery import Celery
from redis import Redis

from config.settings import RedisSettings
from config.tracing import active, continued
from jobs.agents import Agents
from jobs.models import FetchMessage, JobSpec, Priority
from jobs.queue import lengths, publish, queue_for
from jobs.store import Order, StatusStore, UnreadableJob, translated
from scheduler.loop import WINDOW

_LOOK_EVERY_SECONDS = 1.0
_REMIND_EVERY_SECONDS = 60.0
_GRACE_SECONDS = 10.0
_AGAIN_FULL_SECONDS = 0.25
_AGAIN_UNSERVED_SECONDS = 1.0

_log = structlog.get_logger()


@dataclass
class Routes:
    """The way to the agents. What cannot be delivered now comes up again soon.

    A queue that nobody serves gets no message, so that none waits there for ever, and a queue that is full holds up
    no other. Both methods raise ``StatusUnavailable``.
    """

    redis: Redis
    app: Celery
    settings: RedisSettings
    store: StatusStore
    clock: Callable[[], float] = time.monotonic
    _lengths: dict[str, int] = field(default_factory=dict)
    _looked: float = float("-inf")
    _looked_everywhere: dict[Priority, float] = field(default_factory=dict)
    _used: set[str] = field(default_factory=set)
    _room: int = WINDOW
    _served: frozenset[str] = frozenset()
    _alone_since: float | None = None
    _reminded: dict[str, float] = field(default_factory=dict)

    def waiting(self, priority: Priority) -> int:
        """Return how many messages of a priority wait in the emptiest queue that is in use.

        Once a second, of all that somebody serves: a job for a queue that was idle is then found behind those for one
        that is full.
        """
        if not self._served or self.clock() - self._looked > _LOOK_EVERY_SECONDS:
            agents = Agents(self.redis, self.settings.prefix).all()
            self._served = frozenset(queue for agent in agents if not agent.draining for queue in agent.queues)
            self._looked = self.clock()
        if self._may_come():
            return sys.maxsize
        self._lengths = dict(self._ask_lengths(priority))
        self._room = max(WINDOW, self.store.unfinished()[1])
        lengths = [self._lengths[queue] for queue in self._in_question(priority)]
        return min(lengths, default=0)

    def _may_come(self) -> bool:
        """Tell whether there has been no agent for a moment only: one may just be starting, so nothing is taken yet."""
        if self._served:
            self._alone_since = None
            return False
        if self._alone_since is None:
            self._alone_since = self.clock()
        return self.clock() - self._alone_since < _GRACE_SECONDS

    def _in_question(self, priority: Priority) -> frozenset[str]:
        used = self._served & self._used
        now = self.clock()
        if used and now - self._looked_everywhere.get(priority, float("-inf")) <= _LOOK_EVERY_SECONDS:
            return used
        self._looked_everywhere[priority] = now
        return self._served

    def publish(self, messages: Sequence[FetchMessage], priority: Priority) -> bool:
        """Publish each message into the queue of its job, if somebody serves it and it has room; tells whether any was.

        Called for what was taken after ``waiting`` was asked for the same priority.
        """
        orders = self.store.orders([message.job for message in messages])
        there = [(message, orders[message.job]) for message in messages if message.job in orders]
        published = [self._publish(message, order, priority) for message, order in there]
        return any(published)

    def _publish(self, message: FetchMessage, order: Order, priority: Priority) -> bool:
        try:
            spec = order.spec
        except UnreadableJob as error:
            self._hold(message, str(error))
            if self._worth_a_word("unreadable"):
                _log.error("job_unreadable", job=message.job, reason=str(error))
            return False
        queue = queue_for(spec)
        if queue not in self._served:
            reason = _unserved(spec)
            self._hold(message, reason)
            if self._worth_a_word(queue):
                _log.warning("queue_unserved", queue=queue, job=message.job, reason=reason)
            return False
        self._used.add(queue)
        if self._lengths[queue] >= self._room:
            self.store.defer(message.job, message.attempt, _AGAIN_FULL_SECONDS)
            return False
        if order.waiting:
            self.store.note(message.job, "")
        with continued(order.traceparent if active() else None):
            publish(self.app, message, queue, priority)
        self._lengths[queue] += 1
        return True

    def _ask_lengths(self, priority: Priority) -> Mapping[str, int]:
        with translated():
            return lengths(self.redis, self.settings.prefix, self._served, priority)

    def _hold(self, message: FetchMessage, reason: str) -> None:
        """Say why a job is not published now, and have it come up again."""
        self.store.note(message.job, reason)
        self.store.defer(message.job, message.attempt, _AGAIN_UNSERVED_SECONDS)

    def _worth_a_word(self, about: str) -> bool:
        """Tell whether it is a while since there was a word about it in the log."""
        if self.clock() - self._reminded.get(about, float("-inf")) <= _REMIND_EVERY_SECONDS:
            return False
        self._reminded[about] = self.clock()
        return True


def _unserved(spec: JobSpec) -> str:
    target = f"Python {spec.target.python} on {spec.target.architecture}"
    if spec.index is None:
        return f"Waits for an agent for {target}: none is running."
    place = f"{spec.index} ({spec.index_url})" if spec.index_url else spec.index
    return f"Waits for an agent for {target} that has the index {place}: none is running."
