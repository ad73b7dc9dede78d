"""Logs: one line for each event on standard error, readable on a terminal, JSON elsewhere, never with a secret.

Events have fixed names and keyword fields: ``structlog.get_logger().info("job_published", job=…)``. What is bound with
``structlog.contextvars`` stands in every line. The standard library's loggers (Celery, kombu) take the same way out.
Celery must be kept from setting up logging itself: call :func:`configure_logging` in its ``setup_logging`` signal.
"""

import logging
import sys
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING

from config.secrets import Masker

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

HANDLER_NAME = "vizfetch"


def configure_logging(
    *,
    json: bool | None = None,
    secrets: Iterable[str] = (),
    level: str = "INFO",
    agent: str | None = None,
    late: bool = False,
) -> None:
    """Set up logging for this process and those it forks.

    ``json`` decides the form; by default it is JSON unless standard error is a terminal. ``secrets`` are masked by
    value in whatever is logged, by whomever: see :class:`config.secrets.Masker`. ``agent`` is this instance's name, for
    every line. May be repeated, as when the settings have been read: the last call holds. Other handlers of the root
    logger are left alone. ``late`` is for a process that has hardly ever something to log; what of ours
    does so asks for ``logger``.
    """
    make = partial(_formatter, json, Masker(secrets), level, agent)
    _install(_Late(make) if late else make(), level)


def logger() -> "FilteringBoundLogger":
    """Return structlog's logger for a process that may have set up logging ``late``; it then is set up for good."""
    import structlog  # noqa: PLC0415 - as below

    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Late):
            handler.formatter.make()
    found: FilteringBoundLogger = structlog.get_logger()
    return found


class _Late(logging.Formatter):
    """The formatter that is made with the first line there is."""

    def __init__(self, make: Callable[[], logging.Formatter]) -> None:
        super().__init__()
        self.make = cache(make)

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        return self.make().format(record)


def _formatter(json: bool | None, masker: Masker, level: str, agent: str | None) -> logging.Formatter:  # noqa: FBT001 - private
    import structlog  # noqa: PLC0415 - costs 0.1 s that commands without logs need not pay

    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        *([] if agent is None else [_named(agent)]),
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_finish(as_json, masker))


def cheroot_error_log(msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:  # noqa: FBT001, FBT002 - cheroot's signature
    """Log what a cheroot server has to say: let it be the ``error_log`` of a subclass.

    The server's own prints to standard error by itself.
    """
    logging.getLogger("cheroot").log(level, msg, exc_info=traceback)


def _named(agent: str) -> "Processor":
    def name(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
        event.setdefault("agent", agent)
        return event

    return name


def _finish(as_json: bool, masker: Masker) -> "list[Processor]":  # noqa: FBT001 - private, named at its call
    import structlog  # noqa: PLC0415 - as above

    def mask_values(_logger: "WrappedLogger", _method: str, event: "EventDict") -> "EventDict":
        return {masker(name): masker.values(value) for name, value in event.items()}

    def mask_line(_logger: "WrappedLogger", _method: str, line: "EventDict | str") -> str:
        return masker(str(line))

    finish: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        # Before rendering: a mask in the middle of what JSON escapes would leave a line that is no JSON.
        return [*finish, structlog.processors.format_exc_info, mask_values, structlog.processors.JSONRenderer()]
    # The default formatter of exceptions would print local variables.
    plain = structlog.dev.plain_traceback
    return [*finish, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain), mask_line]


def _install(formatter: logging.Formatter, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.name = HANDLER_NAME
    handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.name == HANDLER_NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)
