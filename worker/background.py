"""Calls that go on in the background, and that nobody has to wait for."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

_T = TypeVar("_T")


def later(call: Callable[[], _T]) -> "Future[_T]":
    """Call in a daemon thread: the exit of the process does not wait for it, as it would for a pool's threads."""
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def caused_by(error: BaseException, *kinds: type[BaseException]) -> bool:
    """Tell whether one of these kinds stands anywhere behind an error: as cause, context, reason or argument."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        item = waiting.pop()
        if isinstance(item, kinds):
            return True
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            waiting += [item.__cause__, item.__context__, getattr(item, "reason", None), *item.args]
    return False
