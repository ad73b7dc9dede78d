"""What probes and Prometheus ask a service, and what it answers."""

import json
import posixpath
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.support.command import free_port

PORT = "MODERNE_AGENT_VISUALIZATION_API_PORT"


@dataclass(frozen=True)
class Told:
    """An answer, and how long it took."""

    status: int
    body: str
    seconds: float

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Probe:
    """Asks one service."""

    port: int

    def ask(self, path: str, method: str = "GET") -> Told:
        begin = time.monotonic()
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, posixpath.normpath(f"/actuator/{path}"))
            answer = connection.getresponse()
            return Told(answer.status, answer.read().decode(), time.monotonic() - begin)
        finally:
            connection.close()

    def is_ready(self) -> bool:
        try:
            return self.ask("health/readiness").status == HTTPStatus.OK
        except OSError:
            return False

    def is_live(self) -> bool:
        return self.ask("health/liveness").status == HTTPStatus.OK

    def metrics(self) -> "Metrics":
        told = self.ask("prometheus")
        assert told.status == HTTPStatus.OK, told.body
        families = text_string_to_metric_families(told.body)
        return Metrics([sample for family in families for sample in family.samples])

    def value(self, name: str, **labels: str) -> float:
        return self.metrics().value(name, **labels)


@dataclass(frozen=True)
class Metrics:
    """A page of metrics, as Prometheus's own client reads it."""

    samples: Sequence[Sample]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with these labels among theirs."""
        wanted = labels.items()
        return sum(each.value for each in self.samples if each.name == name and wanted <= each.labels.items())

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}


def on_port(variables: Mapping[str, str] | None = None) -> tuple[Probe, dict[str, str]]:
    """Choose a free port: the probe of a service there, and the variables that put it there."""
    port = free_port()
    return Probe(port), {PORT: str(port), **(variables or {})}
