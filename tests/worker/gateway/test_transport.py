"""Connections to an index: nobody waits for another's handshake, and each is closed, however it ends."""

import os
import select
import socket
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.errors import ErrorKind
from tests.support.command import eventually
from tests.support.index_server import Stall
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
