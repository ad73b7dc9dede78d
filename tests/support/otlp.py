"""A receiver of OpenTelemetry's protocol over HTTP on loopback, which keeps what it is sent."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

_CODES = {0: "unset", 1: "ok", 2: "error"}


@dataclass(frozen=True)
class SentSpan:
    """A span as it was received."""

    name: str
    trace: str
    id: str
    parent: str
    service: str
    instance: str
    values: dict[str, Any]
    status: str


@dataclass
class Receiver:
    """What was received so far."""

    url: str = ""
    bodies: list[bytes] = field(default_factory=list)
    """Decompressed."""
    headers: list[dict[str, str]] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    """While it is not set, requests are answered."""

    @property
    def spans(self) -> list[SentSpan]:
        return [span for body in list(self.bodies) for span in _spans(body)]

    def named(self, name: str) -> list[SentSpan]:
        return [span for span in self.spans if span.name == name]

    def above(self, span: SentSpan) -> list[str]:
        """Return the names of the spans that a span stands in, the nearest first."""
        by_id = {each.id: each for each in self.spans}
        names, parent = [], by_id.get(span.parent)
        while parent is not None:
            names.append(parent.name)
            parent = by_id.get(parent.parent)
        return names


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Receive until the block is left."""
    receiver, ended = Receiver(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            packed = self.headers.get("Content-Encoding") == "gzip"
            receiver.headers.append({name.lower(): value for name, value in self.headers.items()})
            receiver.bodies.append(gzip.decompress(body) if packed else body)
            if receiver.silent.is_set():
                ended.wait()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        receiver.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            ended.set()
            server.shutdown()


def _spans(body: bytes) -> Iterator[SentSpan]:
    for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
        about = _values(resource.resource.attributes)
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield SentSpan(
                    name=span.name,
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    service=str(about.get("service.name")),
                    instance=str(about.get("service.instance.id")),
                    values=_values(span.attributes),
                    status=_CODES[span.status.code],
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
