"""The one place that everything passes which changes something: who did it, from where, what, and how it ended."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from config.audit import Actor, Audit
from config.tracing import continued
from scheduler.api.security import Caller

_log = structlog.get_logger()


@contextmanager
def recorded(audit: Audit, caller: Caller, action: str, **what: object) -> Iterator[None]:
    """Record that ``caller`` begins ``action``, and whether it was done: in the audit record and in the log.

    What is traced meanwhile belongs to the caller's trace.
    """
    line = _log.bind(action=action, caller=caller.name, address=caller.address, **what)
    line.info("change_begun")
    try:
        with continued(caller.traceparent), audit.recorded(Actor(caller.name, caller.address, "api"), action, **what):
            yield
    except BaseException as error:
        line.warning("change_failed", reason=type(error).__name__)
        raise
    line.info("change_done")
