"""An index that is down: left alone by all gateways together, asked again in time, and never mistaken for empty."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import SecretStr
from redis import Redis

from config.settings import RedisSettings
from jobs.errors import ErrorKind
from jobs.traffic import Patience
from tests.support.index_server import Exchange, IndexServer, Status
from tests.worker.gateway.conftest import (
    PURE,
    LocalGateway,
    MakeGateway,
    MakeIndex,
    download,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway.record import Incident

WHEEL = tiny_wheel("demo", "1.0")
PATIENCE = Patience(failures=3, first_pause_seconds=0.6, longest_pause_seconds=1)


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index()
    server.add(PURE, WHEEL)
    return server


@pytest.fixture
def patience() -> Patience:
    return PATIENCE


@pytest.fixture
def gateways(
    index: IndexServer,
    make_gateway: MakeGateway,
    redis: Redis,
    redis_settings: RedisSettings,
    tmp_path: Path,
    patience: Patience,
) -> tuple[LocalGateway, LocalGateway]:
    """Two gateways as on two machines: another cache each, one Redis."""
    assert redis.dbsize() == 0
    options = {"redis": redis_settings, "patience": patience, "page_ttl_seconds": 0}
    settings = index_settings(index, connect_timeout_seconds=30)
    first, second = (make_gateway(settings, directory=tmp_path / name, **options) for name in ("one", "two"))
    return first, second


def incident_of(gateway: LocalGateway) -> Incident:
    with gateway.session() as session:
        assert page(session).status_code in {502, 504}
        [incident] = session.record().incidents
    return incident


@pytest.mark.parametrize("patience", [Patience(failures=3, first_pause_seconds=300, longest_pause_seconds=300)])
def test_what_one_finds_down_no_other_asks(gateways: tuple[LocalGateway, LocalGateway], index: IndexServer) -> None:
    one, other = gateways
    index.misbehave("/simple/", Status(503))
    assert incident_of(one).attempts == 2
    shared = incident_of(other)  # the third failure in a row is seen by another gateway
    assert (shared.attempts, shared.kind, shared.status) == (1, ErrorKind.SERVER_ERROR, 503)
    asked = len(index.seen())
    assert asked == 3
    with ThreadPoolExecutor(8) as pool:
        left_alone = list(pool.map(incident_of, [one, other] * 20))
    assert len(index.seen()) == asked, "forty tasks do not hammer an index that is down"
    for incident in left_alone:
        assert (incident.kind, incident.index, incident.attempts) == (ErrorKind.SERVER_ERROR, "pypi[0]", 0)
        assert incident.again_in_seconds is not None
        assert 0 < incident.again_in_seconds <= 300
        assert "503" in incident.message
        assert "was not asked" in incident.message


def test_it_goes_on_when_the_index_answers(gateways: tuple[LocalGateway, LocalGateway], index: IndexServer) -> None:
    one, other = gateways
    index.misbehave("/simple/", Status(503))
    incident_of(one)
    incident_of(other)
    index.behave()
    assert incident_of(one).attempts == 0
    time.sleep(0.65)
    for gateway in (other, one):
        with gateway.session() as session:
            assert page(session).status_code == 200
            assert download(session).content == WHEEL
            assert session.record().incidents == ()


def test_one_broken_project_does_not_close_an_index(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/simple/broken/", Status(500))
    gateway = make_gateway(index_settings(index), patience=PATIENCE, page_ttl_seconds=0)
    for _ in range(4):
        with gateway.session() as session:
            page(session, "broken")
            assert page(session).status_code == 200


def test_retry_after_is_obeyed_by_all(gateways: tuple[LocalGateway, LocalGateway], index: IndexServer) -> None:
    index.misbehave("/simple/", Status(429, {"Retry-After": "120"}), times=1)
    asked = incident_of(gateways[0])
    assert (asked.kind, asked.attempts, asked.again_in_seconds) == (ErrorKind.RATE_LIMITED, 1, 120)
    left_alone = incident_of(gateways[1])
    assert (left_alone.kind, left_alone.attempts) == (ErrorKind.RATE_LIMITED, 0)
    assert left_alone.again_in_seconds == pytest.approx(120, abs=5)
    assert len(index.seen()) == 1


def test_a_refusal_is_not_being_down(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.misbehave("/simple/", Status(401))
    gateway = make_gateway(index_settings(index), patience=PATIENCE, page_ttl_seconds=0)
    assert [incident_of(gateway).attempts for _ in range(6)] == [1] * 6


def test_redis_being_away_stops_nothing(index: IndexServer, make_gateway: MakeGateway, tmp_path: Path) -> None:
    away = RedisSettings(url=SecretStr(f"unix://{tmp_path}/nowhere.sock"))
    gateway = make_gateway(index_settings(index, max_connections=1), redis=away, patience=PATIENCE, page_ttl_seconds=0)
    with gateway.session() as session:
        assert page(session).status_code == 200
        assert download(session).content == WHEEL
    index.misbehave("/simple/", Status(503))
    incident_of(gateway)
    incident_of(gateway)
    assert incident_of(gateway).attempts == 0, "each gateway still leaves an index alone that it saw going down"


class Counted:
    """Answers rightly after a while, and knows how many requests it had at once."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    def play(self, exchange: Exchange) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        exchange.wait(0.1)
        self.now -= 1
        exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)


@pytest.mark.parametrize(("limit", "most"), [(2, 2), (None, 6)])
def test_no_more_connections_than_the_index_may_have(
    limit: int | None,
    most: int,
    index: IndexServer,
    make_gateway: MakeGateway,
    redis: Redis,
    redis_settings: RedisSettings,
    tmp_path: Path,
) -> None:
    redis.flushall()
    counted = Counted()
    index.misbehave("/", counted)
    settings = index_settings(index, max_connections=limit, connect_timeout_seconds=5)
    gateways = [make_gateway(settings, redis=redis_settings, directory=tmp_path / name) for name in ("one", "two")]

    def ask(number: int) -> None:
        with gateways[number % 2].session() as session:
            assert page(session, f"absent-{number}").status_code in {200, 404}

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(12)))
    assert counted.most == limit if limit else counted.most >= most
    assert len(index.seen()) == 12
    assert redis.keys("*:slots") == []
