"""What is known of indexes: one suite for the version in one process and for the one that all workers share."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from jobs.traffic import LocalTraffic, Outcome, Patience, SharedTraffic, Traffic, TrafficUnavailable

PATIENCE = Patience(failures=3, first_pause_seconds=0.2, longest_pause_seconds=0.5, longest_wish_seconds=1)

Make = Callable[[], Traffic]


@pytest.fixture(params=["local", "shared"])
def make(request: pytest.FixtureRequest, redis: Redis) -> Make:
    """Return what gives each worker its view: of one process all the same, of Redis one each."""
    local = LocalTraffic(PATIENCE)
    return (lambda: local) if request.param == "local" else (lambda: SharedTraffic(redis, PATIENCE, prefix="t"))


def ask(traffic: Traffic, slot: str = "s", *, index: str = "i", limit: int | None = None, lease: float = 5) -> str:
    return traffic.enter(index, slot, limit=limit, lease_seconds=lease).state


def fail(traffic: Traffic, times: int = 1, *, wish: float | None = None) -> None:
    for number in range(times):
        traffic.enter("i", f"f{number}", limit=None, lease_seconds=5)
        traffic.leave("i", f"f{number}", Outcome.FAILED, what="server_error answered 503", wish_seconds=wish)


def test_failures_in_a_row_close_an_index_for_all(make: Make) -> None:
    one, other = make(), make()
    fail(one, 2)
    assert ask(other) == "go"
    fail(other)
    permit = one.enter("i", "s", limit=None, lease_seconds=5)
    assert (permit.state, permit.what) == ("down", "server_error answered 503")
    assert 0.1 < permit.wait_seconds <= 0.2
    assert ask(one, index="another") == "go"


def test_an_answer_between_two_failures_starts_anew(make: Make) -> None:
    traffic = make()
    fail(traffic, 2)
    traffic.leave("i", "s", Outcome.ANSWERED)
    fail(traffic, 2)
    assert ask(traffic) == "go"
    traffic.leave("i", "s", Outcome.UNKNOWN)
    fail(traffic)
    assert ask(traffic) == "down"


def test_one_goes_and_finds_out(make: Make) -> None:
    traffic, other = make(), make()
    fail(traffic, 3)
    time.sleep(0.25)
    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(lambda number: ask(other, f"p{number}"), range(8)))
    assert sorted(states) == ["down"] * 7 + ["go"]
    traffic.leave("i", "p", Outcome.ANSWERED)
    assert ask(other) == "go"


def test_who_may_not_find_out_waits_for_one_that_may(make: Make) -> None:
    traffic = make()

    def ask_quietly() -> str:
        return traffic.enter("i", "quiet", limit=None, lease_seconds=60, may_probe=False).state

    assert ask_quietly() == "go"
    fail(traffic, 3)
    time.sleep(0.25)
    assert ask_quietly() == "down"
    assert ask(traffic, "probe", lease=60) == "go", "it did not take the place of one that may"
    assert ask_quietly() == "down"
    traffic.leave("i", "probe", Outcome.ANSWERED)
    assert ask_quietly() == "go"


def test_the_pause_grows_to_a_bound(make: Make) -> None:
    traffic = make()
    fail(traffic, 3)
    waits = []
    for _ in range(3):
        permit = traffic.enter("i", "s", limit=None, lease_seconds=5)
        waits.append(permit.wait_seconds)
        time.sleep(permit.wait_seconds + 0.05)
        fail(traffic)
    assert waits == [pytest.approx(0.2, abs=0.1), pytest.approx(0.4, abs=0.1), pytest.approx(0.5, abs=0.1)]


def test_late_news_of_the_same_failure_change_nothing(make: Make) -> None:
    traffic = make()
    for number in range(20):
        traffic.enter("i", f"s{number}", limit=None, lease_seconds=5)
    for number in range(20):
        traffic.leave("i", f"s{number}", Outcome.FAILED, what="x y")
    assert traffic.enter("i", "s", limit=None, lease_seconds=5).wait_seconds <= 0.2


def test_a_probe_that_never_comes_back_is_followed_by_another(make: Make) -> None:
    traffic = make()
    fail(traffic, 3)
    time.sleep(0.25)
    assert ask(traffic, "lost", lease=0.3) == "go"
    assert ask(traffic) == "down"
    time.sleep(0.35)
    assert ask(traffic) == "go"


def test_a_probe_that_found_nothing_out_is_followed_at_once_by_another(make: Make) -> None:
    traffic = make()
    fail(traffic, 3)
    time.sleep(0.25)
    assert ask(traffic, "probe", lease=60) == "go"
    assert ask(traffic, "second") == "down"
    traffic.leave("i", "second", Outcome.UNKNOWN)
    assert ask(traffic, "second") == "down", "who did not probe says nothing"
    traffic.leave("i", "probe", Outcome.UNKNOWN)
    assert ask(traffic, "second", lease=60) == "go"
    assert ask(traffic, "third") == "down"


def test_a_short_wish_closes_nothing_by_itself_and_counts_when_failures_do(make: Make) -> None:
    traffic = make()

    def told() -> None:
        traffic.leave("i", "s", Outcome.FAILED, what="rate_limited answered 429", wish_seconds=0.9, at_once=False)

    for _ in range(2):
        told()
        assert ask(traffic) == "go"
    told()
    permit = traffic.enter("i", "s", limit=None, lease_seconds=5)
    assert permit.state == "down"
    assert 0.5 < permit.wait_seconds <= 0.9, "longer than the longest pause"


def test_an_index_that_wishes_to_be_left_alone_is(make: Make) -> None:
    traffic = make()
    fail(traffic, wish=0.6)
    permit = traffic.enter("i", "s", limit=None, lease_seconds=5)
    assert permit.state == "down"
    assert permit.wait_seconds == pytest.approx(0.6, abs=0.1)


def test_a_wish_has_a_bound(make: Make) -> None:
    traffic = make()
    fail(traffic, wish=10_000)
    assert traffic.enter("i", "s", limit=None, lease_seconds=5).wait_seconds <= 1


def test_no_more_at_once_than_the_limit(make: Make) -> None:
    one, other = make(), make()
    assert [ask(one, "a", limit=2), ask(other, "b", limit=2), ask(one, "c", limit=2)] == ["go", "go", "full"]
    one.leave("i", "a", Outcome.ANSWERED)
    assert [ask(other, "c", limit=2), ask(one, "d", limit=2)] == ["go", "full"]


def test_the_places_of_a_dead_worker_come_back(make: Make) -> None:
    assert ask(make(), "dead", limit=1, lease=0.2) == "go"
    assert ask(make(), limit=1) == "full"
    time.sleep(0.25)
    assert ask(make(), limit=1) == "go"


def test_redis_away_is_said(tmp_path: object) -> None:
    with Redis(unix_socket_path=f"{tmp_path}/nowhere", decode_responses=True) as nowhere:
        traffic = SharedTraffic(nowhere, PATIENCE)
        with pytest.raises(TrafficUnavailable):
            ask(traffic)
        with pytest.raises(TrafficUnavailable):
            traffic.leave("i", "s", Outcome.ANSWERED)


def test_nothing_stays_in_redis(redis: Redis) -> None:
    traffic = SharedTraffic(redis, PATIENCE, prefix="t")
    ask(traffic, limit=1)
    fail(traffic, 3)
    assert sorted(redis.keys()) == ["t:index:i", "t:index:i:slots"]
    assert all(0 < redis.pttl(key) <= 6000 for key in redis.scan_iter())
