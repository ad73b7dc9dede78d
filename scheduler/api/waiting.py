"""Threads for what may hang, so that the server's own are left for everything else."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import ParamSpec, TypeVar

from bundles.errors import StorageError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Work = Callable[[], None]


def _nothing() -> None:
    pass


class Threads:
    """A few threads for which the end of the process does not wait, as it would for a ``ThreadPoolExecutor``'s.

    Whoever made it closes it.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._name = name
        self._threads = threads
        self._lock = Lock()
        self._unstarted = threads
        self._closed = False
        self._work: SimpleQueue[_Work] = SimpleQueue()

    def submit(self, ask: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Have ``ask`` called when a thread is free; never, once this is closed."""
        future: Future[_T] = Future()
        work = partial(self._answer, future, partial(ask, *args, **kwargs))
        with self._lock:  # so that nothing is put behind what is given up at the end
            closed = self._closed
            if not closed:
                self._work.put(work)
            starts = not closed and self._unstarted > 0
            self._unstarted -= starts
        if closed:
            work()  # which is only given up now
        elif starts:
            Thread(target=self._serve, name=self._name, daemon=True).start()
        return future

    def close(self) -> None:
        """Begin nothing more. Waits for nothing."""
        with self._lock:
            self._closed = True
        with suppress(Empty):
            while True:
                self._work.get_nowait()()
        for _ in range(self._threads):
            self._work.put(_nothing)  # wakes one that is idle, and it ends

    def _serve(self) -> None:
        while not self._closed:
            self._work.get()()

    def _answer(self, future: "Future[_T]", ask: Callable[[], _T]) -> None:
        if self._closed:
            future.cancel()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)


class Waiting:
    """A few threads that wait for the store, each request for so long. Whoever made it closes it."""

    def __init__(self, threads: int, seconds: float) -> None:
        self._seconds = seconds
        self._threads = Threads(threads, "store")

    async def run(self, ask: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what ``ask`` returns, or raise what it raises.

        Raises StorageError when that takes too long, also because all threads wait for others; what was not begun by
        then is not begun any more.
        """
        answer = asyncio.wrap_future(self._threads.submit(ask, *args, **kwargs))
        try:
            return await asyncio.wait_for(answer, self._seconds)
        except TimeoutError:
            raise StorageError("answer", "", f"nothing came within {self._seconds:g} s") from None

    def close(self) -> None:
        """Begin nothing more. Waits for nothing."""
        self._threads.close()
