"""Threads for what may hang, so that the server's own are left for everything else."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from bundles.errors import StorageError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Waiting:
    """A few threads that wait for the store, each request for so long. Whoever made it closes it."""

    def __init__(self, threads: int, seconds: float) -> None:
        self._seconds = seconds
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")

    async def run(self, ask: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what ``ask`` returns, or raise what it raises.

        Raises StorageError when that takes too long, also because all threads wait for others; what was not begun by
        then is not begun any more.
        """
        answer = asyncio.wrap_future(self._pool.submit(ask, *args, **kwargs))
        try:
            return await asyncio.wait_for(answer, self._seconds)
        except TimeoutError:
            raise StorageError("answer", "", f"nothing came within {self._seconds:g} s") from None

    def close(self) -> None:
        """Begin nothing more. Waits for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)
