"""Calls that go on in the background, and that nobody has to wait for."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from contextvars import copy_context
from threading import Thread
from typing import TypeVar

_LOOK_EVERY_SECONDS = 0.2
_T = TypeVar("_T")


def later(call: Callable[[], _T]) -> "Future[_T]":
    """Call in a daemon thread: the exit of the process does not wait for it, as it would for a pool's threads."""
    future: Future[_T] = Future()
    context = copy_context()  # what is bound to each line of the log

    def run() -> None:
        try:
            future.set_result(context.run(call))
        except BaseException as error:  # noqa: BLE001 - whoever asks for the result gets it
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def patiently(call: Callable[[], _T], check: Callable[[], None]) -> _T:
    """Return what ``call`` returns, or raise what it raises; meanwhile ``check`` is called several times a second.

    What ``check`` raises ends the waiting and is passed on. The call then goes on without anybody: an index or a store
    that says nothing must hold up neither the next job nor the end of the process.
    """
    future = later(call)
    while not wait([future], _LOOK_EVERY_SECONDS).done:
        check()
    return future.result()


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
