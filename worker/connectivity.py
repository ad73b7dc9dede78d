"""Whether everything that a worker talks to can be used: each index, Redis and the store, all asked at once."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from contextlib import contextmanager
from dataclasses import dataclass, replace

from config.settings import IndexSettings, Settings
from worker.background import later
from worker.errors import UnfitServices
from worker.findings import Finding, unreachable
from worker.gateway.startup import ca_bundle
from worker.index_check import look_at_index, unused_proxies
from worker.redis_check import LIMIT_SECONDS as REDIS_SECONDS
from worker.redis_check import look_at_redis
from worker.store_check import store_look

_MARGIN_SECONDS = 0.2
"""For an index's own timeouts to be noticed first: they say what was waited for."""
_OURS = "moderne.agent.visualization"


def require_services(settings: Settings, environment: Mapping[str, str]) -> None:
    """Raise ``UnfitServices`` with everything that keeps a worker from using what it needs.

    Indexes with ``skipValidateConnectivity`` are not asked for anything. Forks, so threads that were started before may
    only be waiting.
    """
    problems = tuple(finding for finding in survey(settings, environment) if not finding.holds)
    if problems:
        raise UnfitServices(problems)


def survey(settings: Settings, environment: Mapping[str, str], *, everything: bool = False) -> tuple[Finding, ...]:
    """Return what ``asking`` yields."""
    with asking(settings, environment, everything=everything) as answers:
        return answers()


@contextmanager
def asking(
    settings: Settings, environment: Mapping[str, str], *, everything: bool = False
) -> Iterator[Callable[[], tuple[Finding, ...]]]:
    """Ask each index, Redis and the store at once, and yield what waits for the findings, in this order.

    With ``everything`` also the indexes with ``skipValidateConnectivity``, whose findings are then not required.
    Nothing is waited for longer than the longest of its own timeouts, so that all take as long as the slowest.
    """
    with store_look(settings.storage) as store:
        asked = [index for index in settings.indexes if everything or not index.skip_validate_connectivity]
        looks = [*(_index_look(index, environment) for index in asked), _redis_look(settings)]
        yield lambda: (*[look.result() for look in looks], store())


@dataclass(frozen=True)
class _Look:
    """A look in a thread of its own, which is left alone when it takes too long."""

    future: "Future[Finding]"
    until: float
    late: Finding
    required: bool = True

    def result(self) -> Finding:
        try:
            found = self.future.result(max(0.0, self.until - time.monotonic()))
        except NotYet:
            found = self.late
        return replace(found, required=self.required)


def _index_look(index: IndexSettings, environment: Mapping[str, str]) -> _Look:
    trusted, proxies = ca_bundle(environment), unused_proxies(environment)
    limit_seconds = max(index.connect_timeout_seconds, index.read_timeout_seconds) + _MARGIN_SECONDS
    subject = f"index {index.name}"
    advice = f"Check {index.setting('url')}, and that the index can be reached from here."
    late = unreachable(subject, f"no answer within {limit_seconds:g} s", advice, step="answer")
    future = later(lambda: look_at_index(index, ca_bundle=trusted, unused_proxies=proxies))
    return _Look(future, time.monotonic() + limit_seconds, late, required=not index.skip_validate_connectivity)


def _redis_look(settings: Settings) -> _Look:
    advice = f"Check {_OURS}.redis.url, and that Redis can be reached from here."
    late = unreachable("Redis", f"no answer within {REDIS_SECONDS:g} s", advice, step="answer")
    return _Look(later(lambda: look_at_redis(settings.redis)), time.monotonic() + REDIS_SECONDS, late)
