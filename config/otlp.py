"""Sends traces by OpenTelemetry's own SDK and protocol (OTLP over HTTP). Imported only when traces are wanted.

Nothing waits for whoever receives them but the end of a process, and that not for long. What cannot be sent is lost.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata

import requests
import structlog
from opentelemetry import context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span as ApiSpan
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes, AttributeValue

from config.secrets import Masker
from config.tracing import Span, TracingSettings, Values

FLUSH_SECONDS = 2.0
"""How long the end of a process may wait until its last spans are sent."""
_NAME = "vizfetch"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_PARENT = "traceparent"

_log = structlog.get_logger()


class Traces:
    """The traces of one process."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_NAME)
        self._carrier = TraceContextTextMapPropagator()
        self._let_go_of_celery: Callable[[], None] = lambda: None

    @contextmanager
    def span(self, name: str, values: Values) -> Iterator[Span]:
        """Trace a block."""
        with self._tracer.start_as_current_span(
            name, attributes=_told(values), record_exception=False, set_status_on_exception=False
        ) as traced:
            found = _Traced(traced)
            try:
                yield found
            except BaseException as error:
                found.fail(str(getattr(error, "kind", None) or type(error).__name__))
                raise

    def request_span(self, name: str, values: Values) -> Span:
        """Begin the span of a request."""
        return _Traced(self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=_told(values)))

    def traceparent(self) -> str:
        """Return what continues the current step elsewhere."""
        carrier: dict[str, str] = {}
        self._carrier.inject(carrier)
        return carrier.get(_PARENT, "")

    @contextmanager
    def continued(self, parent: str) -> Iterator[None]:
        """Continue a step from elsewhere."""
        token = context.attach(self._carrier.extract({_PARENT: parent}))
        try:
            yield
        finally:
            context.detach(token)

    def instrument_celery(self) -> None:
        """Trace what Celery publishes and runs in this process, once."""
        from opentelemetry.instrumentation.celery import CeleryInstrumentor  # noqa: PLC0415 - where there is Celery

        instrumentor = CeleryInstrumentor()  # type: ignore[no-untyped-call]
        instrumentor.instrument(tracer_provider=self._provider)
        self._let_go_of_celery = instrumentor.uninstrument

    def close(self) -> None:
        """Send what is left, as long as ``FLUSH_SECONDS`` allow; the SDK itself would wait for half a minute."""
        self._let_go_of_celery()
        flush = threading.Thread(target=self._provider.shutdown, name="traces-flush", daemon=True)
        flush.start()
        flush.join(FLUSH_SECONDS)


class _Traced(Span):
    def __init__(self, traced: ApiSpan) -> None:
        self._traced = traced

    def set(self, values: Values) -> None:
        self._traced.set_attributes(_told(values))

    def fail(self, kind: str) -> None:
        self._traced.set_status(StatusCode.ERROR)
        self._traced.set_attribute("error.type", kind)

    def end(self) -> None:
        self._traced.end()


def traces(settings: TracingSettings, service: str, instance: str | None, secrets: Iterable[str]) -> Traces | None:
    """Begin to send traces; None, and a word in the log, when it cannot be done as the variables ask."""
    refusal = _refusal(settings)
    if refusal is None:
        try:
            return Traces(_provider(settings, service, instance, Masker([*secrets, *settings.secrets()])))
        except Exception as error:  # noqa: BLE001 - whatever stands in the variables, jobs are done
            refusal = f"{type(error).__name__} while the OTEL_ variables were read"
    _log.warning("traces_refused", reason=refusal)
    return None


def _refusal(settings: TracingSettings) -> str | None:
    exporter = settings.value("OTEL_TRACES_EXPORTER")
    if exporter not in {"", "otlp"}:
        return f"OTEL_TRACES_EXPORTER is {exporter[:40]!r}: only otlp and none are known here"
    spoken = next(filter(None, map(settings.value, _PROTOCOLS)), _SPOKEN)
    if spoken != _SPOKEN:
        return f"OTEL_EXPORTER_OTLP_PROTOCOL is {spoken[:40]!r}: only {_SPOKEN} is spoken here"
    return None


def _provider(settings: TracingSettings, service: str, instance: str | None, masker: Masker) -> TracerProvider:
    # It would log a traceback for each batch that cannot be sent; `traces_unsent` says so once.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
    session = requests.Session()
    session.trust_env = False  # a netrc entry would replace the credentials that the variables give
    with settings.as_environment():
        provider = TracerProvider(resource=_resource(settings, service, instance), shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_Sink(OTLPSpanExporter(session=session), masker)))
    return provider


def _resource(settings: TracingSettings, service: str, instance: str | None) -> Resource:
    """Say which process this is, as far as the variables do not."""
    given = {pair.partition("=")[0].strip() for pair in settings.value("OTEL_RESOURCE_ATTRIBUTES").split(",")}
    if settings.value("OTEL_SERVICE_NAME"):
        given.add(SERVICE_NAME)
    own = {SERVICE_NAME: service, SERVICE_VERSION: metadata.version(_NAME), SERVICE_INSTANCE_ID: instance or ""}
    return Resource.create({name: value for name, value in own.items() if value and name not in given})


class _Sink(SpanExporter):
    """Masks secrets in what is sent, as a second line of defence, and says once when it cannot be sent."""

    def __init__(self, exporter: SpanExporter, masker: Masker) -> None:
        self._exporter = exporter
        self._masker = masker
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch, in a thread of the SDK's."""
        result = self._exporter.export([_masked(span, self._masker) for span in spans])
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            _log.warning("traces_unsent", spans=len(spans))
        self._failing = failing
        return result

    def shutdown(self) -> None:
        """Give up what is being sent."""
        self._exporter.shutdown()


def _masked(span: ReadableSpan, masker: Masker) -> ReadableSpan:
    events = [Event(event.name, _attributes(event.attributes, masker), event.timestamp) for event in span.events]
    return ReadableSpan(
        name=masker(span.name),
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=_attributes(span.attributes, masker),
        events=events,
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, span.status.description and masker(span.status.description)),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _attributes(attributes: Attributes, masker: Masker) -> dict[str, AttributeValue]:
    return {name: masker(value) if isinstance(value, str) else value for name, value in (attributes or {}).items()}


def _told(values: Values) -> dict[str, str | int | float | bool]:
    return {name: value for name, value in values.items() if value is not None}
