import asyncio
import threading
import time
from http import HTTPStatus
from typing import Any

from jobs.actuator import Actuator, Component, Components, Remembered, Status, asgi, down, up
from tests.support.command import eventually


def actuator(health: Components | None = None) -> Actuator:
    return Actuator(
        health=lambda: health or {"redis": up()},
        liveness=dict,
        readiness=lambda: {"redis": down("away")},
        metrics=lambda: b"vizfetch_jobs 1\n",
    )


def test_the_whole_is_as_its_worst_part() -> None:
    for parts, status, code in (
        ({}, "UP", 200),
        ({"a": up()}, "UP", 200),
        ({"a": up(), "b": Component(Status.UNKNOWN)}, "UNKNOWN", 200),
        ({"a": Component(Status.OUT_OF_SERVICE), "b": up()}, "OUT_OF_SERVICE", 503),
        ({"a": down("why"), "b": Component(Status.OUT_OF_SERVICE)}, "DOWN", 503),
    ):
        answer = Actuator(lambda parts=parts: parts, dict, dict, bytes).answer("GET", "/actuator/health")  # type: ignore[misc]
        assert answer.status == code
        assert f'"status": "{status}"'.encode() in answer.body


def test_a_part_that_breaks_is_an_answer_too() -> None:
    def broken() -> Components:
        raise ZeroDivisionError

    told = Actuator(broken, broken, broken, bytes).answer("GET", "/actuator/health")
    assert told.status is HTTPStatus.INTERNAL_SERVER_ERROR
    assert b"Zero" not in told.body


def test_asgi_gives_the_same_answers_wherever_it_is_mounted() -> None:
    for root, path in (("", "/actuator/health"), ("/actuator", "/actuator/health"), ("", "/deep/actuator/health")):
        sent = _call(root, path)
        assert sent[0]["status"] == HTTPStatus.OK
        assert sent[1]["body"].startswith(b'{"status": "UP"')
    assert _call("", "/actuator/health", "HEAD")[1]["body"] == b""
    assert _call("", "/actuator/health/readiness")[0]["status"] == HTTPStatus.SERVICE_UNAVAILABLE
    assert _call("", "/actuator/x")[0]["status"] == HTTPStatus.NOT_FOUND


def _call(root: str, path: str, method: str = "GET") -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {}

    scope: dict[str, Any] = {"type": "http", "method": method, "path": path, "root_path": root}

    async def call() -> None:
        await asgi(actuator())(scope, receive, send)

    asyncio.run(call())
    return sent


def test_what_was_found_out_is_kept_for_a_second_and_asked_by_one_at_a_time() -> None:
    asked: list[float] = []
    let_go = threading.Event()

    def ask() -> int:
        asked.append(time.monotonic())
        let_go.wait(5)
        return len(asked)

    remembered = Remembered(ask)
    begin = time.monotonic()
    assert remembered.now() is None
    assert time.monotonic() - begin < 1.1
    assert remembered.now() is None
    assert len(asked) == 1
    let_go.set()
    eventually(lambda: remembered.now() == 1, 3)
    assert remembered.now() == remembered.last() == 1
    assert len(asked) == 1
    time.sleep(1.05)
    assert remembered.now() == 2


def test_an_error_is_no_answer_and_leaves_the_last() -> None:
    answers = iter([7])
    remembered = Remembered(lambda: next(answers))
    assert remembered.now() == 7
    time.sleep(1.05)
    assert remembered.now() is None
    assert remembered.last() == 7
