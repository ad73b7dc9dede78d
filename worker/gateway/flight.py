"""Many ask, one goes: the same work asked for at the same time is done once."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class SingleFlight(Generic[_K, _V]):
    """Runs at most one piece of work for each key at a time; all who ask meanwhile share its outcome."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._under_way: dict[_K, Future[_V]] = {}

    def do(self, key: _K, work: Callable[[], _V]) -> _V:
        """Return what ``work`` returns, or raise what it raises, run by whoever came first."""
        future, first = self._join(key)
        if first:
            try:
                run(future, work)
            finally:
                with self._lock:
                    del self._under_way[key]
        return future.result()

    def _join(self, key: _K) -> tuple[Future[_V], bool]:
        with self._lock:
            known = self._under_way.get(key)
            future = known or self._under_way.setdefault(key, Future())
            return future, known is None


def run(future: "Future[_V]", work: Callable[[], _V]) -> None:
    """Do the work and put its outcome, also an error of any kind, into the future."""
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - those who wait must learn of everything
        future.set_exception(error)
