"""Clients that are slow on purpose, against the server with shorter times than in service."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from scheduler.api import connections, limits
from scheduler.api.limits import Envelope, Limits
from tests.scheduler.api.service import answering
from tests.support.command import eventually

WAIT = 0.5


async def _take(request: Request) -> Response:
    return Response(str(len(await request.body())))


async def _give(_request: Request) -> Response:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 2**16
            await asyncio.sleep(0)

    return StreamingResponse(endless())


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(connections, "HEADERS_WITHIN_SECONDS", WAIT)
    monkeypatch.setattr(connections, "READ_WITHIN_SECONDS", WAIT)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(limits, "BODY_WITHIN_SECONDS", WAIT)
    app = Starlette(routes=[Route("/take", _take, methods=["POST"]), Route("/give", _give)])
    with answering(Envelope(Limits(app, time.monotonic))) as port:
        yield "127.0.0.1", port


def ended_within(client: socket.socket, seconds: float) -> bytes:
    client.settimeout(seconds)
    got = b""
    try:
        while more := client.recv(65536):
            got += more
    except ConnectionResetError:
        pass
    return got


@pytest.mark.parametrize("begun", [b"", b"GET /take HTTP/1.1\r\nHost: x\r\n"])
def test_a_head_that_does_not_come_is_not_waited_for(address: tuple[str, int], begun: bytes) -> None:
    with socket.create_connection(address) as client:
        client.sendall(begun)
        assert ended_within(client, 5) == b""


def test_a_head_that_comes_by_single_bytes_is_not_waited_for(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:

        def closed() -> bool:
            try:
                client.sendall(b"x")
            except ConnectionError:
                return True
            return False

        eventually(closed, 10)


def test_a_body_that_does_not_come_is_not_waited_for(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        client.sendall(b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        answer = ended_within(client, 5)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_whoever_does_not_read_is_left(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        client.sendall(b"GET /give HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(3 * WAIT)
        got = ended_within(client, 5)
    assert got.startswith(b"HTTP/1.1 200 ")


def test_a_second_request_is_given_its_own_time(address: tuple[str, int]) -> None:
    with socket.create_connection(address) as client:
        for _ in range(4):
            client.sendall(b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nfour")
            answer = b""
            while not answer.endswith(b"\r\n\r\n4"):
                answer += client.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            time.sleep(WAIT / 2)
        client.sendall(b"POST /ta")
        assert ended_within(client, 5) == b""


def test_no_more_connections_than_may(address: tuple[str, int]) -> None:
    held = [socket.create_connection(address) for _ in range(3)]
    try:
        with socket.create_connection(address) as client:
            assert ended_within(client, 5) == b""
    finally:
        for each in held:
            each.close()

    def served() -> bool:
        with socket.create_connection(address) as client:
            client.sendall(b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return ended_within(client, 5).startswith(b"HTTP/1.1 200 ")

    eventually(served, 10)
