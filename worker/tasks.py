"""The Celery task: as thin as it can be."""

from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery
from pydantic import ValidationError

from jobs.models import FetchMessage
from jobs.transport import TASK

_log = structlog.get_logger()


def register(app: Celery, run: Callable[[FetchMessage], None]) -> None:
    """Register the fetch task on ``app``; ``run`` is called with each message that is one of ours."""

    @app.task(name=TASK, ignore_result=True)  # type: ignore[untyped-decorator,unused-ignore]
    def fetch(**content: Any) -> None:  # noqa: ANN401 - a message may hold anything
        try:
            message = FetchMessage.model_validate(content)
        except ValidationError:
            _log.error("message_refused", reason="not a fetch message of a version that this worker knows")
            return
        run(message)
