"""What this process sends of its traces, to a real receiver on loopback."""

import time
from collections.abc import Iterator, Mapping

import pytest
from structlog.testing import capture_logs

from config.tracing import Tracing, active, continued, request_span, span, traceparent, tracing_settings
from tests.support.command import MARK, eventually, free_port
from tests.support.otlp import Receiver, otlp_receiver

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
ELSEWHERE = "http://127.0.0.1:9"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as found:
        yield found


def tracing(variables: Mapping[str, str], *secrets: str) -> Tracing:
    return Tracing(tracing_settings(variables), service="vizfetch-test", instance="one", secrets=secrets)


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "vizfetch"}, False),
        ({"OTHER_ENDPOINT": ELSEWHERE}, False),
        ({ENDPOINT: ""}, False),
        ({ENDPOINT: ELSEWHERE}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ELSEWHERE}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", ENDPOINT: ELSEWHERE}, False),
        ({"OTEL_SDK_DISABLED": "TRUE", ENDPOINT: ELSEWHERE}, False),
    ],
)
def test_when_traces_are_wanted(variables: Mapping[str, str], *, wanted: bool) -> None:
    assert tracing_settings(variables).wanted is wanted


def test_where_none_are_wanted_nothing_happens() -> None:
    with tracing({}), continued(f"00-{'1' * 32}-{'1' * 16}-01"), span("step", {"a": 1}) as step:
        step.set({"b": 2})
        step.fail("kind")
        request_span("GET", {}).end()
        assert not active()
        assert traceparent() == ""


def test_steps_stand_in_each_other_and_their_values_are_masked(receiver: Receiver) -> None:
    variables = {ENDPOINT: receiver.url, "OTEL_EXPORTER_OTLP_HEADERS": f"x-key={MARK}key", "OTEL_SERVICE_NAME": "mine"}
    with tracing(variables, f"{MARK}password"):
        with span("outer", {"told": f"https://user:{MARK}password@host/", "left out": None}):
            line = traceparent()
            request = request_span("GET", {})
            request.fail("503")
            request.end()
            with pytest.raises(KeyError), span(f"inner {MARK}key"):
                raise KeyError(f"{MARK}password")
        with continued(line), span("elsewhere"):
            pass
        with continued("not a line"), span("alone"):
            pass
    spans = {each.name: each for each in receiver.spans}
    assert set(spans) == {"outer", "inner ***", "GET", "elsewhere", "alone"}
    assert {each.service for each in spans.values()} == {"mine"}
    assert {each.instance for each in spans.values()} == {"one"}
    for name in ("inner ***", "GET", "elsewhere"):
        assert receiver.above(spans[name]) == ["outer"]
    assert spans["alone"].trace != spans["outer"].trace
    assert spans["outer"].values == {"told": "https://user:***@host/"}
    assert (spans["inner ***"].status, spans["inner ***"].values) == ("error", {"error.type": "KeyError"})
    assert not any(MARK.encode() in body for body in receiver.bodies)
    assert receiver.headers[0]["x-key"] == f"{MARK}key"


def test_a_receiver_that_is_gone_is_told_of_once() -> None:
    variables = {ENDPOINT: f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "10"}
    with capture_logs() as told, tracing(variables | {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}):
        for _ in range(3):
            with span("step"):
                pass
            time.sleep(0.05)
        eventually(lambda: told, 20)
    assert [line["event"] for line in told] == ["traces_unsent"]


def test_the_end_does_not_wait_for_a_receiver_that_is_silent(receiver: Receiver) -> None:
    receiver.silent.set()
    with tracing({ENDPOINT: receiver.url, "OTEL_EXPORTER_OTLP_TIMEOUT": "600"}):
        with span("step"):
            pass
        begin = time.monotonic()
    assert time.monotonic() - begin < 60


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        ({"OTEL_BSP_SCHEDULE_DELAY": "-1"}, "OTEL_"),
    ],
)
def test_variables_that_cannot_be_followed_are_told(
    receiver: Receiver, variables: Mapping[str, str], named: str
) -> None:
    with capture_logs() as told, tracing({ENDPOINT: receiver.url, **variables}), span("step"):
        assert not active()
    assert [line["event"] for line in told] == ["traces_refused"]
    assert named in told[0]["reason"]
    assert receiver.bodies == []
