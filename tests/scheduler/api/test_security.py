import asyncio
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis import Redis
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.audit import Audit
from config.problems import SettingsError
from config.settings import ApiSettings, RedisSettings, Settings
from jobs.actuator import Actuator
from jobs.store import StatusStore
from scheduler.api.limits import MAX_BODY_BYTES, Bucket, Buckets, Limits
from scheduler.api.refusals import Refusals
from scheduler.api.security import Access, BearerToken, Door, Guard
from scheduler.api.server import serving as listening
from tests.scheduler.api.service import TOKEN, Api, deployment_for, problem, serving
from tests.support.command import MARK, free_port

EVERYWHERE = "0.0.0.0"  # noqa: S104 - what must not be done without a token
HOST = "MODERNE_AGENT_VISUALIZATION_API_HOST"
PORT = "MODERNE_AGENT_VISUALIZATION_API_PORT"
BATCH = {"entries": ["acme"]}


def test_only_the_token_lets_in(closed_api: Api) -> None:
    assert closed_api.get("/batches") == {"batches": [], "next": None}
    for wrong in (f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "bearer", "Bearer \xe9", f"Basic {TOKEN}", TOKEN, ""):
        answer = closed_api.call("GET", "/api/v1/batches", headers={"Authorization": wrong})
        problem(answer, 401, "unauthorized")
        # What is for somebody else, such as a proxy, is no wrong token (RFC 6750, 3.1).
        error = ' error="invalid_token"' if wrong.lower().startswith("bearer") else ""
        assert answer.headers["WWW-Authenticate"] == f"Bearer{error}"
    nobody = Api(closed_api.url, closed_api.scheduler)
    for method, path in (("GET", "/api/v1/batches"), ("GET", "/nothing"), ("DELETE", "/api/v1/schedules/x")):
        answer = nobody.call(method, path)
        problem(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    problem(nobody.call("POST", "/api/v1/batches", json=BATCH), 401, "unauthorized")
    assert nobody.call("GET", "/api/v1/openapi.json").status_code == 200
    assert closed_api.get("/batches")["batches"] == []


def test_whoever_tries_tokens_is_slowed_down_and_whoever_has_it_is_not(
    redis_settings: RedisSettings, tmp_path: Path
) -> None:
    audit = tmp_path / "audit"
    more = {"MODERNE_AGENT_VISUALIZATION_AUDIT": str(audit)}
    with serving(deployment_for(redis_settings, tmp_path, TOKEN, **more), token=TOKEN) as api:
        guessing = Api(api.url, api.scheduler, f"{MARK}guess")
        statuses = [guessing.call("GET", "/api/v1/batches").status_code for _ in range(25)]
        assert statuses[:20] == [401] * 20
        assert statuses[-1] == 429
        # The right one is let in from the same address, which all behind a proxy have, and changes nothing for others.
        assert api.get("/batches")["next"] is None
        refused = guessing.call("GET", "/api/v1/batches")
        problem(refused, 429, "too-many-wrong-tokens")
        assert int(refused.headers["Retry-After"]) > 0
        api.scheduler.wait_for("tokens_refused", 20)
    # How many they were is said when serving ends, at the latest; nowhere what was shown.
    logged = [json.loads(line) for line in api.scheduler.log.read_text().splitlines() if "tokens_refused" in line]
    records = [json.loads(line) for line in audit.read_text().splitlines() if "authenticate" in line]
    for lines in (logged, records):
        assert sum(line["count"] for line in lines) == 26
        assert len(lines) <= 2
    assert {line["address"] for line in logged} == {"127.0.0.1"}
    assert {(line["from"], line["who"], line["by"], line["outcome"]) for line in records} == {
        ("127.0.0.1", "unknown", "api", "refused")
    }
    assert MARK not in api.scheduler.log.read_text() + audit.read_text()


def test_many_who_guess_fill_neither_the_log_nor_the_audit_record(tmp_path: Path) -> None:
    refusals = Refusals(Audit(tmp_path / "audit"))
    for number in range(1000):
        refusals.count(f"192.0.2.{number % 100}")
    refusals.close()
    told = {line["from"]: line["count"] for line in map(json.loads, (tmp_path / "audit").read_text().splitlines())}
    assert len(told) == 11
    assert (told["192.0.2.0"], told["others"]) == (10, 900)


def test_nothing_that_others_send_shuts_out_who_has_the_token() -> None:
    access = Access((BearerToken(TOKEN),), open_paths=frozenset({"/open"}))
    inner = Limits(_no_content, lambda: 0.0, Bucket(burst=2, per_second=0.5))
    app = Guard(inner, Door(access, lambda: 0.0, lambda _: None))
    right = {"authorization": f"Bearer {TOKEN}"}
    assert [status(app, "/open") for _ in range(3)] == [204, 204, 429]
    assert [status(app, "/", {"authorization": "Bearer x"}) for _ in range(21)] == [401] * 20 + [429]
    assert [status(app, "/") for _ in range(3)] == [401] * 3
    assert [status(app, "/", right) for _ in range(3)] == [204, 204, 429]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "10.0.0.1", ""]
)
def test_without_a_token_names_that_are_not_loopback_are_not_answered(api: Api, host: str) -> None:
    problem(api.call("GET", "/api/v1/batches", headers={"Host": host}), 421, "foreign-host")
    problem(api.call("POST", "/api/v1/batches", headers={"Host": host}, json=BATCH), 421, "foreign-host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1", "127.9.9.9:1", "[::1]:8080"])
def test_without_a_token_the_names_of_loopback_are_answered(api: Api, host: str) -> None:
    assert api.get("/batches", headers={"Host": host}) == {"batches": [], "next": None}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1"},
    ],
)
def test_pages_of_other_sites_change_nothing(api: Api, store: StatusStore, headers: Mapping[str, str]) -> None:
    problem(api.call("POST", "/api/v1/batches", headers=headers, json=BATCH), 403, "foreign-origin")
    problem(api.call("DELETE", "/api/v1/schedules/x", headers=headers), 403, "foreign-origin")
    assert store.batches() == []
    readable = api.call("GET", "/api/v1/batches", headers=headers)
    assert not [name for name in readable.headers if name.lower().startswith("access-control")]
    assert readable.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_pages_of_this_site_do(api: Api) -> None:
    own = {"Origin": api.url}
    assert api.call("POST", "/api/v1/batches", headers=own, json=BATCH).status_code == 201
    told = {"Origin": "https://vizfetch.example", "Sec-Fetch-Site": "same-origin"}  # behind a proxy
    assert api.call("POST", "/api/v1/batches", headers=told, json=BATCH).status_code == 201


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_forms_can_send_changes_nothing(api: Api, store: StatusStore, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = api.call("POST", "/api/v1/batches", headers=headers, data=b'{"entries": ["acme"]}')
    problem(answer, 415, "unsupported-media-type")
    assert store.batches() == []


def test_every_answer_has_the_headers_that_protect_browsers(closed_api: Api) -> None:
    nobody = Api(closed_api.url, closed_api.scheduler)
    answers = [
        closed_api.call("GET", "/api/v1/batches"),
        closed_api.call("GET", "/api/v1/openapi.json"),
        closed_api.call("GET", "/nothing"),
        closed_api.call("PATCH", "/api/v1/batches"),
        closed_api.call("POST", "/api/v1/batches", json={}),
        nobody.call("GET", "/api/v1/batches"),
    ]
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "Server" not in answer.headers


def test_a_body_has_its_limit_announced_or_not(api: Api) -> None:
    large = b'{"requirements": "' + b"#" * MAX_BODY_BYTES + b'"}'

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(large), 2**16):
            yield large[start : start + 2**16]

    headers = {"Content-Type": "application/json"}
    problem(api.call("POST", "/api/v1/batches", data=chunks(), headers=headers), 413, "body-too-large")
    target = urlsplit(api.url)
    connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=10)
    announced = {**headers, "Content-Length": str(10**12)}
    connection.request("POST", "/api/v1/batches", headers=announced)
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type")) == (413, "application/problem+json")
    connection.close()
    just = b'{"requirements": "acme\\n#' + b"#" * (MAX_BODY_BYTES - 100) + b'"}'
    assert api.call("POST", "/api/v1/batches", data=just, headers=headers).status_code == 201


def test_what_is_no_http_is_told_so(api: Api) -> None:
    target = urlsplit(api.url)
    for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000):
        with socket.create_connection((target.hostname, target.port), timeout=10) as client:
            client.sendall(sent)
            answer = b""
            while more := client.recv(65536):
                answer += more
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b"application/problem+json" in answer
        assert b"nosniff" in answer


async def _no_content(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})


def ask(app: ASGIApp, path: str, headers: Mapping[str, str], address: str) -> Message:
    """Return the head of the answer."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "GET", "path": path, "headers": raw, "client": (address, 1)}

    async def run() -> None:
        await app(scope, receive, send)

    asyncio.run(run())
    return sent[0]


def status(app: ASGIApp, path: str, headers: Mapping[str, str] | None = None, address: str = "192.0.2.1") -> int:
    return int(ask(app, path, headers or {}, address)["status"])


def test_one_address_has_so_many_requests_and_another_its_own() -> None:
    limited = Limits(_no_content, lambda: 0.0, Bucket(burst=2, per_second=0.5))
    assert [status(limited, "/") for _ in range(3)] == [204, 204, 429]
    assert status(limited, "/", address="192.0.2.2") == 204
    assert (b"retry-after", b"2") in ask(limited, "/", {}, "192.0.2.1")["headers"]


def test_a_bucket_fills_again() -> None:
    now = 0.0
    buckets = Buckets(Bucket(burst=2, per_second=0.5), lambda: now)
    for client in ("one", "other"):
        assert buckets.wait_seconds(client) == 0
        buckets.take(client)
        buckets.take(client)
        assert buckets.wait_seconds(client) == 2
    now = 2.0
    assert buckets.wait_seconds("one") == 0
    buckets.take("one")
    assert buckets.wait_seconds("one") == 2
    now = 1000.0
    buckets.take("one")
    assert buckets.wait_seconds("one") == 0


def test_another_address_than_loopback_needs_a_token(redis_settings: RedisSettings, tmp_path: Path) -> None:
    done = deployment_for(redis_settings, tmp_path, **{HOST: EVERYWHERE}).run("scheduler")
    assert done.exit_code == 78
    assert "moderne.agent.visualization.api.host" in done.errors
    assert "api.token" in done.errors
    assert "Traceback" not in done.errors
    with serving(deployment_for(redis_settings, tmp_path, TOKEN, **{HOST: EVERYWHERE}), token=TOKEN) as api:
        # Whoever shows the token may use any name.
        assert api.get("/batches", headers={"Host": "vizfetch.example"})["next"] is None
    unknown = deployment_for(redis_settings, tmp_path, TOKEN, **{HOST: "192.0.2.1"}).run("scheduler")
    assert (unknown.exit_code, "192.0.2.1" in unknown.errors) == (78, True)


@pytest.mark.parametrize("host", [EVERYWHERE, "127.0.0.1"])
def test_a_token_is_one_that_nobody_guesses(host: str) -> None:
    short = ApiSettings(host=host, port=free_port(), token=SecretStr(TOKEN[:15]))
    well = Actuator(dict, dict, dict, bytes)
    with (
        pytest.raises(SettingsError, match=r"api\.token: has less than 16 characters"),
        listening(Settings(nickname="one", api=short), well),
    ):
        pass


def test_a_port_that_is_taken_is_said(redis_settings: RedisSettings, redis: Redis, tmp_path: Path) -> None:
    assert redis.ping()
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = str(taken.getsockname()[1])
        done = deployment_for(redis_settings, tmp_path, **{PORT: port}).run("scheduler")
    assert done.exit_code == 78
    assert f"127.0.0.1:{port}" in done.errors
    assert "Traceback" not in done.errors


def test_with_port_0_nothing_listens(redis_settings: RedisSettings, tmp_path: Path) -> None:
    with deployment_for(redis_settings, tmp_path, **{PORT: "0"}).service("scheduler") as scheduler:
        scheduler.wait_for("scheduler_started")
        assert "api_listening" not in scheduler.log.read_text()
        inodes = {link.readlink().name for link in Path(f"/proc/{scheduler.process.pid}/fd").iterdir()}
        listening = [
            line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"
        ]
        assert not inodes & {f"socket:[{inode}]" for inode in listening}


def test_what_is_changed_is_recorded_without_secrets(closed_api: Api) -> None:
    batch = closed_api.post("/batches", BATCH)["id"]
    closed_api.post(f"/batches/{batch}/cancel", {})
    log = closed_api.scheduler.log.read_text()
    for action in ("batch_submit", "batch_cancel"):
        lines = [line for line in log.splitlines() if action in line and batch in line]
        assert ["change_begun" in lines[0], "change_done" in lines[1]] == [True, True]
        assert all('"caller": "token"' in line and '"address": "127.0.0.1"' in line for line in lines)
    assert TOKEN not in log
