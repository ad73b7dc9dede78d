"""What a look at an index finds: each step that can fail, at real servers."""

import threading
from pathlib import Path

import pytest
from pydantic import SecretStr

from config.settings import IndexSettings, Proxy
from jobs.errors import ErrorKind
from tests.support.command import eventually, free_port
from tests.support.index_server import (
    LOGIN_PAGE,
    Authority,
    Basic,
    Bearer,
    Body,
    Endless,
    Fault,
    IndexServer,
    Redirect,
    Reset,
    Short,
    Stall,
    Status,
    Trickle,
)
from tests.support.proxy import proxy
from tests.support.wheels import build_wheel
from tests.worker.conftest import MakeIndex
from worker.findings import Verdict
from worker.gateway.errors import UpstreamError
from worker.index_check import KNOWN_PROJECTS, PROJECT, _Failure, look_at_index, unused_proxies

PAGE = f"/simple/{PROJECT}/"
LIST = b'<!DOCTYPE html><html><body><script>x</script><a href="/simple/acme-charts/">Acme.Charts</a></body></html>'


def settings(url: str, **options: object) -> IndexSettings:
    limits = {"connect_timeout_seconds": 2, "read_timeout_seconds": 2}
    return IndexSettings.model_validate({"name": "pypi[0]", "url": url, **limits, **options})


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    return make_index()


def test_a_project_that_is_not_there_is_a_good_answer(index: IndexServer) -> None:
    finding = look_at_index(settings(index.url))
    assert finding.holds
    assert finding.found == f"{index.url} answers"
    assert {request.path for request in index.seen()} == {PAGE, "/simple/"}


@pytest.mark.parametrize("known", KNOWN_PROJECTS)
def test_an_index_without_a_root_is_known_by_a_project(index: IndexServer, tmp_path: Path, known: str) -> None:
    index.lists_projects = False
    wheel = build_wheel(tmp_path, known)
    index.add(wheel.name, wheel)
    finding = look_at_index(settings(index.url))
    assert finding.holds
    assert finding.found == f"{index.url} answers; it has no list of projects, which not every index has"
    assert {request.path for request in index.seen()} == {
        PAGE,
        "/simple/",
        *(f"/simple/{name}/" for name in KNOWN_PROJECTS),
    }


def test_a_path_where_there_is_nothing_is_no_index(index: IndexServer) -> None:
    finding = look_at_index(settings(f"{index.origin}/other/path"))
    assert (finding.verdict, finding.step) == (Verdict.UNREACHABLE, "index")
    assert "is not a package index: it has neither a list of projects nor moderne-visualizations-misc" in finding.found
    assert "moderne.agent.pypi[0].url must be the root of a simple repository" in finding.advice
    assert "moderne.agent.pypi[0].skipValidateConnectivity=true" in finding.advice


@pytest.mark.parametrize(
    ("location", "step", "said"),
    [
        ("http://nowhere.invalid/simple/", "name", "leads to http://nowhere.invalid/simple/"),
        ("http://127.0.0.1:1/simple/", "redirect", "Connection refused"),
    ],
)
def test_a_redirect_is_blamed_on_where_it_leads(index: IndexServer, location: str, step: str, said: str) -> None:
    index.misbehave("/simple/", Redirect(location))
    finding = look_at_index(settings(index.url))
    assert (finding.verdict, finding.step) == (Verdict.UNREACHABLE, step)
    assert finding.found.startswith(f"{index.url} leads to {location.rpartition('/simple')[0]}/")
    assert said in finding.found
    assert "write in moderne.agent.pypi[0].url where the index really is" in finding.advice


def test_another_host_that_asks_for_credentials_gets_none(make_index: MakeIndex, index: IndexServer) -> None:
    other = make_index(auth=Basic("ada", "planted-password"))
    index.misbehave("/simple/", Redirect(f"{other.url}/x/"))
    finding = look_at_index(settings(index.url, username="ada", password="planted-password"))
    assert (finding.verdict, finding.step) == (Verdict.WRONG, "credentials")
    assert "Credentials are sent to the host of moderne.agent.pypi[0].url only" in finding.advice
    assert "Authorization" not in other.seen()[0].headers


def test_a_list_of_projects_is_read_at_its_beginning_only(index: IndexServer) -> None:
    index.misbehave(PAGE, Status(404))
    index.misbehave("/simple/", Endless(chunk=LIST * 2000))
    finding = look_at_index(settings(index.url))
    assert (finding.verdict, finding.found) == (Verdict.HOLDS, f"{index.url} answers")


@pytest.mark.parametrize(
    "body",
    [
        Body(LIST),
        Body(b"<!DOCTYPE html><html><body></body></html>"),
        Body(b'{"meta":{"api-version":"1.0"},"projects":[]}', "application/vnd.pypi.simple.v1+json"),
        Body(b'{"meta":{"api-version":"1.0"},"projects":[]}', "application/json"),
        Body(b'<html><a href="../files/">..</a><a href="./acme%2Dcharts/">acme-charts/</a></html>'),
    ],
)
def test_forms_of_a_root(index: IndexServer, body: Body) -> None:
    index.misbehave(PAGE, Status(404))
    index.misbehave("/simple/", body)
    finding = look_at_index(settings(index.url))
    assert (finding.verdict, finding.found) == (Verdict.HOLDS, f"{index.url} answers")


@pytest.mark.parametrize("fault", [Status(403), Status(401), Status(500), Reset(), Short(3)])
def test_a_root_that_fails_is_no_harm_when_pages_work(index: IndexServer, fault: Fault) -> None:
    index.misbehave(PAGE, Status(404))
    index.misbehave("/simple/", fault)
    assert look_at_index(settings(index.url)).holds


def test_a_root_that_nobody_waits_for_is_not_asked_any_longer(index: IndexServer) -> None:
    before = set(threading.enumerate())
    index.misbehave(PAGE, Status(401))
    index.misbehave("/simple/", Stall())
    assert look_at_index(settings(index.url, connect_timeout_seconds=60)).step == "credentials"
    eventually(lambda: not any("(run)" in thread.name for thread in set(threading.enumerate()) - before), 20)


def test_a_file_store_answers_403_for_what_it_does_not_have(index: IndexServer) -> None:
    index.misbehave(PAGE, Status(403))
    index.misbehave("/simple/", Body(LIST))
    finding = look_at_index(settings(index.url))
    assert finding.holds
    assert "no index after it is asked" in finding.found


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (Body(b"<html><h1>Welcome</h1><script>x</script></html>"), "a page for people"),
        (Body(b'<html><a href="/about.html">About us</a></html>'), "a page for people"),
        (Body(b'{"hello": "world"}', "application/json"), "JSON, but not a list of projects"),
        (Body(b"hello", "text/plain"), "text/plain, neither HTML nor JSON"),
    ],
)
def test_another_web_site(index: IndexServer, body: Body, said: str) -> None:
    index.misbehave(PAGE, Status(404))
    index.misbehave("/simple/", body)
    finding = look_at_index(settings(index.url))
    assert (finding.verdict, finding.step) == (Verdict.UNREACHABLE, "index")
    assert said in finding.found
    assert "moderne.agent.pypi[0].url" in finding.advice


@pytest.mark.parametrize(
    ("fault", "step", "verdict", "found", "advice"),
    [
        (Status(401), "credentials", Verdict.WRONG, "answered 401 Unauthorized", "pypi[0].bearerToken"),
        (Status(403), "credentials", Verdict.WRONG, "answered 403 Forbidden", "pypi[0].bearerToken"),
        (Body(LOGIN_PAGE), "credentials", Verdict.WRONG, "it is a login form", "pypi[0].bearerToken"),
        (Status(503), "answer", Verdict.UNREACHABLE, "answered 503 Service Unavailable", "pypi[0].url"),
        (Status(429), "answer", Verdict.UNREACHABLE, "answered 429 Too Many Requests", "pypi[0].url"),
        (Body(b"%PDF", "application/pdf"), "index", Verdict.UNREACHABLE, "it is application/pdf", "root of a simple"),
        (Redirect("/simple/"), "answer", Verdict.UNREACHABLE, "redirected more than 5 times", "pypi[0].url"),
        (Reset(), "connection", Verdict.UNREACHABLE, "reset by peer", "pypi[0].proxy.host"),
        (Stall(), "answer", Verdict.UNREACHABLE, "first byte in time", "pypi[0].connectTimeout is the limit"),
        (Trickle(headers=True), "answer", Verdict.UNREACHABLE, "in time", "pypi[0].connectTimeout is the limit"),
    ],
)
def test_what_an_index_may_answer(
    index: IndexServer, fault: Fault, step: str, verdict: Verdict, found: str, advice: str
) -> None:
    index.misbehave("/simple/", fault)
    finding = look_at_index(settings(index.url, connect_timeout_seconds=0.7))
    assert (finding.step, finding.verdict) == (step, verdict)
    assert found in finding.found
    assert advice in finding.advice


def test_a_body_that_stops(index: IndexServer) -> None:
    index.add("vizfetch-connectivity-check-1.0.tar.gz".replace("-", "_", 2), b"x")
    index.misbehave(PAGE, Stall(after_bytes=5))
    finding = look_at_index(settings(index.url, read_timeout_seconds=0.5))
    assert (finding.step, finding.advice) == (
        "answer",
        "moderne.agent.pypi[0].readTimeout is the limit for one answer.",
    )


def test_what_passes_in_a_moment_is_asked_for_once_more(index: IndexServer) -> None:
    index.misbehave("/simple/", Status(503), times=2)
    assert look_at_index(settings(index.url)).holds
    assert len(index.seen(PAGE)) == 2


@pytest.mark.parametrize(
    ("auth", "options"),
    [
        (Basic("ada", "planted-password"), {"username": "ada", "password": "planted-password"}),
        (Bearer("planted-token"), {"bearer_token": "planted-token"}),
    ],
)
def test_credentials_are_sent_and_blamed(make_index: MakeIndex, auth: Basic | Bearer, options: dict[str, str]) -> None:
    index = make_index(auth=auth)
    right = settings(index.url, **options)
    assert look_at_index(right).holds
    assert {request.headers["Authorization"] for request in index.seen()} == {auth.header}
    update = {name: SecretStr("planted-wrong") for name in options if name != "username"}
    finding = look_at_index(right.model_copy(update=update))
    assert (finding.step, finding.verdict) == ("credentials", Verdict.WRONG)
    named = "bearerToken" if "bearer_token" in options else "password"
    assert f"moderne.agent.pypi[0].{named}" in finding.advice
    assert "planted" not in str(finding)


def test_the_names_are_those_of_the_generation_that_the_user_wrote(make_index: MakeIndex) -> None:
    index = make_index(auth=Bearer("planted-token"))
    prefix = "moderne.recipe.marketplace.repositories.pypi[0]"
    finding = look_at_index(settings(index.url, prefix=prefix, bearer_token="planted-wrong"))
    assert f"{prefix}.bearerToken" in finding.advice
    away = look_at_index(settings("http://127.0.0.1:1/simple", prefix=prefix))
    assert f"{prefix}.uri" in away.advice


# ---- TLS


def test_tls(make_index: MakeIndex, tmp_path: Path) -> None:
    authority = Authority()
    index, elsewhere = make_index(tls=authority.context()), make_index(tls=authority.context("elsewhere.example"))
    bundle = authority.write(tmp_path / "ca.pem")
    unknown = look_at_index(settings(index.url))
    assert (unknown.step, unknown.verdict) == ("TLS", Verdict.UNREACHABLE)
    assert "moderne.agent.pypi[0].skipSsl=true" in unknown.advice
    assert "REQUESTS_CA_BUNDLE" in unknown.advice
    assert look_at_index(settings(index.url), ca_bundle=bundle).holds
    assert look_at_index(settings(index.url, skip_ssl=True)).holds
    misnamed = look_at_index(settings(elsewhere.url), ca_bundle=bundle)
    assert (misnamed.step, "the name that the certificate is for" in misnamed.advice) == ("TLS", True)


def test_a_server_without_tls(index: IndexServer) -> None:
    finding = look_at_index(settings(index.url.replace("http:", "https:")))
    assert (finding.step, "http://" in finding.advice) == ("TLS", True)


def test_a_file_of_authorities_that_is_none(index: IndexServer, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    finding = look_at_index(settings(index.url), ca_bundle=tmp_path / "ca.pem")
    assert (finding.step, finding.verdict) == ("TLS", Verdict.WRONG)
    assert "REQUESTS_CA_BUNDLE" in finding.advice


# ---- the way there


def test_nobody_listens() -> None:
    finding = look_at_index(settings(f"http://127.0.0.1:{free_port()}/simple"))
    assert (finding.step, finding.verdict) == ("connection", Verdict.UNREACHABLE)
    assert finding.found.endswith("the connection failed: Connection refused")


def test_a_name_that_nobody_knows() -> None:
    finding = look_at_index(settings("http://nowhere.invalid/simple"))
    assert (finding.step, finding.verdict) == ("name", Verdict.UNREACHABLE)
    assert finding.found == "http://nowhere.invalid/simple: the host name is not known"


def test_variables_that_name_a_proxy_are_pointed_at() -> None:
    names = unused_proxies({"https_proxy": "http://proxy:3128", "ALL_PROXY": "x", "NO_PROXY": "x", "HTTP_PROXY": ""})
    assert names == ("ALL_PROXY", "https_proxy")
    finding = look_at_index(settings("http://nowhere.invalid/simple"), unused_proxies=names)
    assert (
        "ALL_PROXY and https_proxy are not used here: a proxy is named by moderne.agent.pypi[0].proxy.host and "
        "moderne.agent.pypi[0].proxy.port." in finding.advice
    )


def test_through_a_proxy(index: IndexServer, tmp_path: Path) -> None:
    with proxy(tmp_path) as way:
        finding = look_at_index(settings(index.url, proxy=Proxy(host="127.0.0.1", port=way.port)))
        assert finding.holds
        assert f"through the proxy 127.0.0.1:{way.port}" in finding.found
        beyond = look_at_index(
            settings(f"http://127.0.0.1:{free_port()}/simple", proxy=Proxy(host="127.0.0.1", port=way.port))
        )
        assert beyond.verdict is Verdict.UNREACHABLE
        assert f"127.0.0.1:{way.port}" in beyond.advice or "proxy.host" in beyond.advice


def test_a_proxy_that_is_not_there_or_asks_for_a_login(index: IndexServer, tmp_path: Path) -> None:
    away = look_at_index(settings(index.url, proxy=Proxy(host="127.0.0.1", port=free_port())))
    assert (away.step, "moderne.agent.pypi[0].proxy.host" in away.advice) == ("proxy", True)
    with proxy(tmp_path, "--basic-auth", "user:password") as way:
        closed = look_at_index(settings(index.url, proxy=Proxy(host="127.0.0.1", port=way.port)))
    assert (closed.step, "asks for a login" in closed.advice) == ("proxy", True)


def test_the_public_index_has_advice_of_its_own() -> None:
    finding = look_at_index(settings("http://nowhere.invalid/simple", name="public"))
    assert "useOnlyConfigured" in finding.advice
    assert "agent.public" not in str(finding)


def test_a_real_page_for_the_name_is_good_as_well(index: IndexServer, tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, PROJECT)
    index.add(wheel.name, wheel)
    assert look_at_index(settings(index.url)).holds


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_every_kind_of_error_has_a_step_and_advice(kind: ErrorKind) -> None:
    error = UpstreamError(kind, "went wrong", url="http://a/simple/")
    finding = _Failure(settings("http://a/simple"), ()).because(error)
    assert finding.step
    assert finding.advice
    assert not finding.holds
