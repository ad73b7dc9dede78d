"""Traces of services as a receiver of OpenTelemetry's own protocol gets them."""

import json
import urllib.request
from collections.abc import Iterator, Mapping

import pytest

from jobs.models import JobState
from jobs.store import StatusStore
from tests.integration.actuator import PORT
from tests.integration.packages import PASSWORD
from tests.integration.services import READY, submit
from tests.support.command import MARK, Deployment, eventually, free_port
from tests.support.index_server import IndexServer, Status
from tests.support.otlp import Receiver, SentSpan, otlp_receiver

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
STEPS = ("environment", "download", "check", "publish")
CALLER = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as found:
        yield found


def traced(deployment: Deployment, receiver: Receiver, **more: str) -> Deployment:
    variables = {ENDPOINT: receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "200", **more}
    return Deployment({**deployment.variables, **variables}, deployment.directory)


def only(spans: list[SentSpan]) -> SentSpan:
    assert len(spans) == 1, spans
    return spans[0]


def test_a_batch_is_one_trace_from_submission_to_the_requests_of_indexes(
    deployment: Deployment, store: StatusStore, index: IndexServer, receiver: Receiver
) -> None:
    headers = f"authorization=Bearer%20{MARK}receiver-token"
    named = {"MODERNE_AGENT_NICKNAME": "one", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=tests"}
    deployment = traced(deployment, receiver, OTEL_EXPORTER_OTLP_HEADERS=headers, **named)
    index.misbehave("/simple/acme-base", Status(503), times=1)
    with deployment.service("scheduler"), deployment.service("worker") as worker:
        worker.wait_for(READY)
        done = submit(deployment, "acme-charts==1.0", "no-such-package")
        eventually(lambda: store.batch(done).finished, explain=worker.log.read_text)
        assert store.batch(done).counts[JobState.PUBLISHED] == 1
        eventually(lambda: len(receiver.named("run/vizfetch.fetch")) == 2, 20, worker.log.read_text)
    seen = receiver.spans
    assert {span.trace for span in seen} == {only(receiver.named("submit")).trace}
    assert {span.service for span in seen} == {"vizfetch", "vizfetch-scheduler", "vizfetch-worker", "vizfetch-gateway"}
    assert {span.instance for span in seen} == {"one"}
    published = only([span for span in receiver.named("attempt") if span.values["vizfetch.outcome"] == "published"])
    assert receiver.above(published) == ["run/vizfetch.fetch", "apply_async/vizfetch.fetch", "submit"]
    assert published.values["vizfetch.batch"] == done
    assert published.values["vizfetch.requirement"] == "acme-charts==1.0"
    for step in STEPS:
        assert any(receiver.above(span)[0] == "attempt" for span in receiver.named(step))
    failed = only([span for span in receiver.named("attempt") if span.values["vizfetch.outcome"] == "failed"])
    assert (failed.status, failed.values["error.type"]) == ("error", "not_found")
    requests = receiver.named("GET")
    assert {receiver.above(span)[0] for span in requests} == {"download"}, "pages and files, whichever thread asks"
    assert {span.values["vizfetch.index"] for span in requests} == {"pypi[0]"}
    assert {span.values["http.response.status_code"] for span in requests} >= {200, 404, 503}
    assert only([span for span in requests if span.values["http.response.status_code"] == 503]).status == "error"
    wheels = [span for span in requests if str(span.values["url.full"]).endswith(".whl")]
    assert len(wheels) == 2
    assert all(span.values["http.response.body.size"] > 0 for span in wheels)
    assert all(f"Bearer {MARK}receiver-token" == each["authorization"] for each in receiver.headers)
    assert not any(MARK.encode() in body for body in receiver.bodies)
    assert PASSWORD.startswith(MARK)


def test_an_api_call_continues_its_callers_trace(
    deployment: Deployment, store: StatusStore, receiver: Receiver
) -> None:
    port = free_port()
    deployment = traced(deployment, receiver, **{PORT: str(port)})
    with deployment.service("scheduler") as scheduler, deployment.service("worker", **{PORT: "0"}) as worker:
        worker.wait_for(READY)
        scheduler.wait_for("api_listening")
        batch = _post(port, "batches", {"entries": ["no-such-package"]})["id"]
        eventually(lambda: store.batch(batch).finished, explain=worker.log.read_text)
        assert _post(port, f"batches/{batch}/retry", {})["jobs"]
        eventually(lambda: len(receiver.named("attempt")) == 2, 20, worker.log.read_text)
        eventually(lambda: receiver.named("submit") and receiver.named("retry"))
    assert {span.trace for span in receiver.spans} == {CALLER}
    first, second = receiver.named("attempt")
    assert {receiver.above(first)[-1], receiver.above(second)[-1]} == {"submit", "retry"}


def _post(port: int, path: str, body: object) -> Mapping[str, str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/{path}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "traceparent": f"00-{CALLER}-b7ad6b7169203331-01"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310 - loopback
        found: Mapping[str, str] = json.load(answer)
        return found


def test_a_receiver_that_is_silent_disturbs_no_job_and_holds_up_no_end(
    deployment: Deployment, store: StatusStore, receiver: Receiver
) -> None:
    receiver.silent.set()
    deployment = traced(deployment, receiver, OTEL_EXPORTER_OTLP_TIMEOUT="600")
    with deployment.service("scheduler") as scheduler, deployment.service("worker") as worker:
        worker.wait_for(READY)
        done = submit(deployment, "acme-charts==1.0")
        eventually(lambda: store.batch(done).finished, explain=worker.log.read_text)
        assert store.batch(done).counts[JobState.PUBLISHED] == 1
        eventually(lambda: any(b"vizfetch-worker" in body for body in receiver.bodies), explain=worker.log.read_text)
        assert (worker.stop(), scheduler.stop()) == (0, 0)  # which wait 20 s for them
    assert "Traceback" not in worker.log.read_text() + scheduler.log.read_text()


def test_without_the_variables_nothing_is_imported_in_any_process(deployment: Deployment, store: StatusStore) -> None:
    quiet = Deployment({**deployment.variables, "PYTHONPROFILEIMPORTTIME": "1"}, deployment.directory)
    with quiet.service("scheduler") as scheduler, quiet.service("worker") as worker:
        worker.wait_for(READY)
        done = quiet.run("submit", "acme-charts==1.0")
        eventually(lambda: store.batch(done.output.strip()).finished, explain=worker.log.read_text)
    told = worker.log.read_text() + scheduler.log.read_text() + done.errors
    assert told.count("config.tracing") >= 3, "the logs tell what is imported, of every process"
    for unwanted in ("config.otlp", "opentelemetry.sdk.trace", "opentelemetry.sdk.metrics.", "google.protobuf"):
        assert unwanted not in told
