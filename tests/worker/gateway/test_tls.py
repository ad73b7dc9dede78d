"""Whom the gateway trusts: the system, the file that the environment names, nobody for skipSsl."""

from pathlib import Path

import pytest

from jobs.errors import ErrorKind
from tests.support.index_server import Authority, IndexServer, Redirect
from tests.worker.gateway.conftest import PURE, MakeGateway, MakeIndex, download, index_settings, page, tiny_wheel
from worker.gateway.startup import ca_bundle
from worker.gateway.transport import TrustError, tls_context

WHEEL = tiny_wheel("demo", "1.0")

PATIENT = {"connect_timeout_seconds": 30}
"""What is proved here is trust, however slow the handshakes are."""


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def secured(authority: Authority, make_index: MakeIndex) -> IndexServer:
    server = make_index(tls=authority.context())
    server.add(PURE, WHEEL)
    return server


def test_unknown_authority(secured: IndexServer, make_gateway: MakeGateway) -> None:
    with make_gateway(index_settings(secured, **PATIENT)).session() as session:
        assert page(session).status_code == 502
        [incident] = session.record().incidents
    assert (incident.kind, incident.attempts) == (ErrorKind.TLS, 1)
    assert "certificate verify failed" in incident.message
    assert "moderne.agent.pypi[0].skipSsl" in incident.message
    assert secured.seen() == []


def test_wrong_host(authority: Authority, make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path) -> None:
    server = make_index(tls=authority.context("elsewhere.example"))
    bundle = authority.write(tmp_path / "ca.pem")
    with make_gateway(index_settings(server), ca_bundle=bundle).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert incident.kind is ErrorKind.TLS
    assert "127.0.0.1" in incident.message


def test_authority_named_by_the_environment(
    secured: IndexServer, authority: Authority, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    bundle = authority.write(tmp_path / "ca.pem")
    with make_gateway(index_settings(secured, **PATIENT), ca_bundle=bundle).session() as session:
        assert page(session).status_code == 200
        assert download(session).content == WHEEL


def test_skip_ssl_is_for_one_index(
    secured: IndexServer, authority: Authority, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    other = make_index(tls=authority.context())
    other.add("other-1.0-py3-none-any.whl", WHEEL)
    gateway = make_gateway(index_settings(secured, skip_ssl=True, **PATIENT), index_settings(other, 1, **PATIENT))
    with gateway.session() as session:
        assert page(session).status_code == 200
        assert download(session).content == WHEEL
        page(session, "other")
        [incident] = session.record().incidents
    assert (incident.index, incident.kind) == ("pypi[1]", ErrorKind.TLS)


def test_a_redirect_out_of_tls_is_not_followed(
    secured: IndexServer, authority: Authority, make_index: MakeIndex, make_gateway: MakeGateway, tmp_path: Path
) -> None:
    plain = make_index()
    plain.add(PURE, WHEEL)
    secured.misbehave("/simple/", Redirect(lambda path: plain.origin + path))
    bundle = authority.write(tmp_path / "ca.pem")
    with make_gateway(index_settings(secured, **PATIENT), ca_bundle=bundle).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert "without TLS" in incident.message
    assert plain.seen() == []


def test_plain_http_where_tls_is_expected(make_index: MakeIndex, make_gateway: MakeGateway) -> None:
    plain = make_index()
    url = plain.url.replace("http:", "https:")
    with make_gateway(index_settings(plain, url=url)).session() as session:
        page(session)
        [incident] = session.record().incidents
    assert incident.kind in {ErrorKind.TLS, ErrorKind.CONNECTION}


def test_which_variable_counts() -> None:
    both = {"REQUESTS_CA_BUNDLE": "/a.pem", "SSL_CERT_FILE": "/b.pem"}
    assert ca_bundle(both) == Path("/a.pem")
    assert ca_bundle({**both, "REQUESTS_CA_BUNDLE": ""}) == Path("/b.pem")
    assert ca_bundle({}) is None


def test_a_file_that_is_no_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("hello")
    with pytest.raises(TrustError, match=r"ca\.pem.*REQUESTS_CA_BUNDLE"):
        tls_context(skip_ssl=False, ca_bundle=tmp_path / "ca.pem")
    with pytest.raises(TrustError, match="missing"):
        tls_context(skip_ssl=False, ca_bundle=tmp_path / "missing.pem")
