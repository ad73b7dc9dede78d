"""Traces by OpenTelemetry, when its standard variables ask for them; without them nothing of it is imported.

A span is a step of something, with a name, a time and a few values. Spans that belong together are a trace. What a
trace is continued by in another process is one line, its ``traceparent`` (W3C Trace Context).
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote

from pydantic import SecretStr

from config.entries import is_tracing
from config.secrets import secret_values
from config.settings import Model, Settings

if TYPE_CHECKING:
    from config.otlp import Traces

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")

Values = Mapping[str, str | int | float | bool | None]
"""Of a span; what is None is left out."""


class TracingSettings(Model):
    """The standard variables, as far as they are set. They may hold the credentials of a receiver."""

    variables: Mapping[str, SecretStr] = {}

    @property
    def wanted(self) -> bool:
        """Whether they ask for traces (OpenTelemetry's specification of the SDK's environment variables)."""
        if self.value("OTEL_SDK_DISABLED").lower() == "true":
            return False
        exporter = self.value("OTEL_TRACES_EXPORTER")
        return exporter != "none" if exporter else any(map(self.value, _ENDPOINTS))

    def value(self, name: str) -> str:
        """Return a variable's value; the empty text when it is not set, which means the same."""
        found = self.variables.get(name)
        return found.get_secret_value().strip() if found else ""

    def secrets(self) -> Iterator[str]:
        """Yield what must not be told of them: the values of headers, and what follows a scheme such as Bearer."""
        for pair in ",".join(map(self.value, _HEADERS)).split(","):
            value = unquote(pair.partition("=")[2]).strip()
            yield from (value, value.rpartition(" ")[2])

    @contextmanager
    def as_environment(self) -> Iterator[None]:
        """Have them in the environment for the length of the block: the SDK reads them nowhere else.

        For a process that has one thread only.
        """
        os.environ.update({name: value.get_secret_value() for name, value in self.variables.items()})
        try:
            yield
        finally:
            for name in self.variables:
                del os.environ[name]


def tracing_settings(environment: Mapping[str, str]) -> TracingSettings:
    """Return what ``environment`` says of traces."""
    found = {name: SecretStr(value) for name, value in environment.items() if is_tracing(name)}
    return TracingSettings(variables=found)


class Span:
    """A step that is traced; this one stands for all of them where there are no traces."""

    def set(self, values: Values) -> None:
        """Add values."""

    def fail(self, kind: str) -> None:
        """Mark the step as failed, by a word. Not with a message: those may quote what came from outside."""

    def end(self) -> None:
        """End it, if it was begun and not entered."""


_NOTHING = Span()
_traces: "Traces | None" = None
"""Those of this process."""


def active() -> bool:
    """Whether this process sends traces."""
    return _traces is not None


def instrument_celery() -> None:
    """Have Celery's own instrumentation trace what it publishes and runs, if this process sends traces."""
    if _traces is not None:
        _traces.instrument_celery()


@contextmanager
def span(name: str, values: Values | None = None) -> Iterator[Span]:
    """Trace a block, within the step that is current; an exception marks it as failed, by its kind or class."""
    if _traces is None:
        yield _NOTHING
        return
    with _traces.span(name, values or {}) as found:
        yield found


def request_span(name: str, values: Values) -> Span:
    """Begin the span of a request to somebody else, within the step that is current. Whoever begins it ends it."""
    return _NOTHING if _traces is None else _traces.request_span(name, values)


def traceparent() -> str:
    """Return the line by which another process continues the current step; empty when there is none."""
    return "" if _traces is None else _traces.traceparent()


@contextmanager
def continued(parent: str | None) -> Iterator[None]:
    """Have what is traced in the block belong to the step that ``parent`` names; what names none is ignored."""
    if _traces is None or not parent:
        yield
        return
    with _traces.continued(parent):
        yield


class Tracing(AbstractContextManager["Tracing"]):
    """Sends the traces of this process for the length of the block, if the variables ask for it.

    What was traced and not yet sent is sent at the end, which waits ``otlp.FLUSH_SECONDS`` at most. Entered after
    forks, in a process that has one thread.
    """

    def __init__(
        self, settings: TracingSettings, *, service: str, instance: str | None, secrets: Iterable[str] = ()
    ) -> None:
        """``service`` is what kind of process this is; ``secrets`` are masked by value in whatever is sent."""
        self._settings = settings
        self._service = service
        self._instance = instance
        self._secrets = secrets

    def __enter__(self) -> Self:
        """Begin. A mistake in the variables is logged, and leaves everything else as it is."""
        global _traces  # noqa: PLW0603 - as with logging, there are those of the process
        if self._settings.wanted:
            from config.otlp import traces  # noqa: PLC0415 - imported only when it is wanted

            _traces = traces(self._settings, self._service, self._instance, self._secrets)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what is left."""
        self.close()

    def close(self) -> None:
        """End, as the block does. Harmless to repeat."""
        global _traces
        ended, _traces = _traces, None
        if ended is not None:
            ended.close()


def tracing_of(settings: Settings, environment: Mapping[str, str], service: str) -> Tracing:
    """Return what sends the traces of a process with these settings."""
    asked = tracing_settings(environment)
    return Tracing(asked, service=service, instance=settings.nickname, secrets=secret_values(settings))


def prepare(settings: TracingSettings) -> None:
    """Import now, if traces are wanted, what forked processes will need: they share its memory then."""
    if settings.wanted:
        import config.otlp  # noqa: F401, PLC0415 - imported only when it is wanted
