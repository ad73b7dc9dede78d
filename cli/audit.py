"""Commands that change something, in the audit record."""

from __future__ import annotations  # models are imported when a command runs: the others start faster

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from config.settings import Settings


@contextmanager
def recorded(settings: Settings, action: str, **what: object) -> Iterator[dict[str, object]]:
    """Record that whoever runs the command begins ``action``, and whether it was done.

    As ``config.audit.Audit.recorded``.
    """
    from config.audit import audit_of, user

    with audit_of(settings, command=True).recorded(user(), action, **what) as also:
        yield also
