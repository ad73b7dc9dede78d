"""Connections to an index: nobody waits for another's handshake, and each is closed, however it ends."""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from jobs.errors import ErrorKind
from tests.support.command import eventually
from tests.support.index_server import IndexServer, Stall
from tests.worker.conftest import MakeIndex
from tests.worker.gateway.conftest import QUICK, index_settings
from worker.gateway.errors import UpstreamError
from worker.gateway.transport import Adapter, tls_context
from worker.gateway.upstream import Upstream

SECONDS = 20
"""For what takes none where it works."""


def everybody(host: str) -> None:
    """Let any address be a peer's."""


def opened(upstream: Upstream) -> ErrorKind:
    with pytest.raises(UpstreamError) as caught:
        upstream.open(upstream.page_url("demo"), {})
    return caught.value.kind


def test_a_name_that_can_be_nobodys_is_told_as_one_that_nobody_knows(make_index: MakeIndex) -> None:
    upstream = Upstream(index_settings(make_index(), url=f"http://{'x' * 70}.example/simple"), retries=QUICK)
    assert opened(upstream) is ErrorKind.CONNECTION
    upstream.close()


@pytest.mark.parametrize("skip_ssl", [True, False])
def test_handshakes_do_not_wait_for_each_other_and_end_with_the_index(make_index: MakeIndex, *, skip_ssl: bool) -> None:
    """An index behind something that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as pool:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/simple"
        options = {"url": url, "connect_timeout_seconds": 60, "skip_ssl": skip_ssl}
        upstream = Upstream(index_settings(make_index(), **options), retries=QUICK)
        asked = [pool.submit(opened, upstream) for _ in range(3)]
        peers = [silent.accept()[0] for _ in asked]
        for peer in peers:
            assert select.select([peer], [], [], SECONDS)[0], "a handshake that does not begin"
        upstream.close()
        assert {each.result(SECONDS) for each in asked} == {ErrorKind.CONNECTION}
        for peer in peers:
            peer.close()


def test_closing_ends_what_is_waited_for_and_lets_nothing_begin(make_index: MakeIndex) -> None:
    index = make_index()
    index.misbehave("/simple/demo/", Stall())
    with ThreadPoolExecutor() as pool:
        upstream = Upstream(index_settings(index, connect_timeout_seconds=60), retries=QUICK)
        asked = pool.submit(opened, upstream)
        eventually(lambda: index.seen("/simple/demo/"))
        upstream.close()
        assert asked.result(SECONDS) is ErrorKind.CONNECTION
    assert opened(upstream) is ErrorKind.CONNECTION
    assert len(index.seen()) == 1


Addresses = list[tuple[Any, ...]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Callable[[], Addresses]]:
    """What names stand for besides those of the machine."""
    known: dict[str, Callable[[], Addresses]] = {}
    ask = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> Addresses:
        return known[host]() if host in known and not more.get("flags") else ask(host, *rest, **more)

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    return known


def tcp(address: tuple[str, int]) -> tuple[Any, ...]:
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address


@pytest.fixture
def full() -> Iterator[tuple[str, int]]:
    """An address at which connections are neither taken nor refused: as many wait as may."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        address = server.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield address


def named(index: IndexServer, seconds: float) -> Upstream:
    url = index.url.replace("127.0.0.1", "many.example")
    return Upstream(index_settings(index, url=url, connect_timeout_seconds=seconds), retries=QUICK)


def test_all_addresses_of_a_host_share_the_time_to_connect(
    make_index: MakeIndex, names: dict[str, Callable[[], Addresses]], full: tuple[str, int]
) -> None:
    names["many.example"] = lambda: [tcp(full)] * 8
    upstream, started = named(make_index(), 0.5), time.monotonic()
    assert opened(upstream) is ErrorKind.CONNECT_TIMEOUT
    assert time.monotonic() - started < 3, "each had all of it"
    upstream.close()


def test_an_address_that_says_nothing_leaves_time_for_the_next(
    make_index: MakeIndex, names: dict[str, Callable[[], Addresses]], full: tuple[str, int]
) -> None:
    index = make_index()
    right = ("127.0.0.1", int(index.origin.rpartition(":")[2]))
    names["many.example"] = lambda: [tcp(full), tcp(right)]
    upstream = named(index, 2)
    upstream.open(upstream.page_url("demo"), {}).close()
    assert len(index.seen()) == 1
    upstream.close()


def test_a_name_that_nobody_tells_is_not_waited_for(
    make_index: MakeIndex, names: dict[str, Callable[[], Addresses]]
) -> None:
    end = threading.Event()
    names["many.example"] = lambda: [tcp(("127.0.0.1", 9))] if end.wait(SECONDS) else []
    upstream = named(make_index(), 0.1)
    assert opened(upstream) is ErrorKind.CONNECT_TIMEOUT
    end.set()
    upstream.close()


def test_a_name_that_is_none(make_index: MakeIndex, names: dict[str, Callable[[], Addresses]]) -> None:
    def unknown() -> Addresses:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    names["many.example"] = unknown
    upstream = named(make_index(), 5)
    with pytest.raises(UpstreamError, match="the host name is not known"):
        upstream.open(upstream.page_url("demo"), {})
    upstream.close()


def test_a_connection_that_is_reset_before_the_handshake_is_closed() -> None:
    context = tls_context(skip_ssl=True, ca_bundle=None)
    Adapter(context, 1, everybody)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        number = sock.fileno()
        peer.close()  # with a reset
        select.select([sock], [], [], SECONDS)
        # The error keeps everything alive that would be closed when it is forgotten, with a warning.
        with pytest.raises(ConnectionResetError) as kept:
            context.wrap_socket(sock, server_hostname="127.0.0.1")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        assert kept.value.errno


def test_authorities_are_those_of_the_system_also_where_openssl_knows_of_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = tls_context(skip_ssl=False, ca_bundle=None).get_ca_certs()
    assert own, "this test needs a machine with ca-certificates"
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    monkeypatch.setenv("SSL_CERT_DIR", "/nowhere")
    assert tls_context(skip_ssl=False, ca_bundle=None).get_ca_certs() == own
