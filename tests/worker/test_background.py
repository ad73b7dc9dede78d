import threading
from contextvars import ContextVar

import pytest

from tests.support.command import eventually
from worker.background import later, patiently

_BOUND = ContextVar("_BOUND", default="nothing")


class _Ended(Exception):
    pass


def test_the_result_or_the_error_is_passed_on() -> None:
    assert patiently(lambda: 5, lambda: None) == 5
    with pytest.raises(ZeroDivisionError):
        patiently(lambda: 1 // 0, lambda: None)


def test_an_error_of_the_call_itself_that_looks_like_a_timeout_is_passed_on() -> None:
    def call() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        patiently(call, lambda: None)


def test_whoever_has_to_end_does_not_wait() -> None:
    silent, ended = threading.Event(), threading.Event()

    def call() -> None:
        silent.wait()
        ended.set()

    def check() -> None:
        raise _Ended

    with pytest.raises(_Ended):
        patiently(call, check)
    assert not ended.is_set()
    silent.set()
    eventually(ended.is_set)


def test_what_is_bound_to_lines_of_the_log_goes_along() -> None:
    token = _BOUND.set("job")
    try:
        assert later(_BOUND.get).result() == "job"
    finally:
        _BOUND.reset(token)
