import threading
import time
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from redis.exceptions import ConnectionError as Away

from config.settings import RedisSettings
from jobs.metrics import METRICS, Meter, Totals, key_of, meter_for, series
from jobs.metrics_text import Reading, render
from tests.support.command import eventually

DOWN = key_of(METRICS["vizfetch_index_downloaded_bytes"], {"index": "pypi[0]"})


class Line:
    """The way to Redis, which can be away, or lose an answer."""

    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self.away = False
        self.loses_answers = False
        self.reports = 0

    def add(self, number: int, deltas: Mapping[str, float]) -> None:
        if self.away:
            raise Away("away")
        self.reports += 1
        self._totals.add(number, deltas)
        if self.loses_answers:
            self.loses_answers = False
            raise Away("the answer was lost")


@pytest.fixture
def line(redis: Redis) -> Line:
    return Line(Totals(redis, "one", prefix="vizfetch"))


@pytest.fixture
def meter(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    monkeypatch.setattr("jobs.metrics._PAUSE_SECONDS", 0.01)
    made = Meter(line)
    made.start()
    yield made
    made.close()


def sums(redis: Redis, agent: str = "one") -> Mapping[str, float]:
    return Totals(redis, agent, prefix="vizfetch").all()


def test_processes_of_an_agent_add_up_and_agents_are_apart(redis: Redis, redis_settings: RedisSettings) -> None:
    for agent in ("one", "one", "two"):
        meter = meter_for(redis_settings, agent)
        meter.add("vizfetch_index_downloaded_bytes", 100, index="pypi[0]")
        meter.add("vizfetch_index_downloaded_bytes", 0.5, index="pypi[0]")
        meter.close()
    assert sums(redis)[DOWN] == 201
    assert sums(redis, "two")[DOWN] == 100.5
    assert sums(redis, "three") == {}


def test_a_report_whose_answer_was_lost_counts_once(redis: Redis, line: Line, meter: Meter) -> None:
    line.loses_answers = True
    meter.add("vizfetch_index_downloaded_bytes", 7, index="pypi[0]")
    meter.hurry()
    eventually(lambda: line.reports == 2)
    meter.add("vizfetch_index_downloaded_bytes", 1, index="pypi[0]")
    meter.close()
    assert sums(redis)[DOWN] == 8


def test_what_is_counted_while_redis_is_away_is_brought_later(redis: Redis, line: Line, meter: Meter) -> None:
    line.away = True
    for _ in range(50):
        meter.add("vizfetch_index_downloaded_bytes", 1, index="pypi[0]")
        meter.hurry()
    assert sums(redis) == {}
    line.away = False
    meter.hurry()
    eventually(lambda: sums(redis).get(DOWN) == 50)


def test_many_ends_of_jobs_are_few_reports(redis: Redis, line: Line) -> None:
    meter = Meter(line)
    meter.start()
    for _ in range(500):
        meter.add("vizfetch_index_downloaded_bytes", 1, index="pypi[0]")
        meter.hurry()
    meter.close()
    assert sums(redis)[DOWN] == 500
    assert line.reports <= 2


def test_any_number_of_threads_count_at_once(redis: Redis, meter: Meter) -> None:
    def count() -> None:
        for _ in range(1000):
            meter.add("vizfetch_index_downloaded_bytes", 1, index="pypi[0]")

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    meter.close()
    assert sums(redis)[DOWN] == 8000


def test_without_redis_an_end_is_not_held_up(redis_settings: RedisSettings) -> None:
    nowhere = redis_settings.model_copy(update={"url": type(redis_settings.url)("redis://127.0.0.1:1/0")})
    meter = meter_for(nowhere, "one")
    meter.add("vizfetch_gateway_restarts")
    begin = time.monotonic()
    meter.close()
    assert time.monotonic() - begin < 2


def test_what_is_not_in_the_table_is_refused() -> None:
    meter = Meter()
    with pytest.raises(KeyError):
        meter.add("vizfetch_unheard_of")
    with pytest.raises(ValueError, match="has the labels"):
        meter.add("vizfetch_index_downloaded_bytes", 1, project="acme")


def test_everything_expires_some_time_after_the_last_word(redis: Redis, redis_settings: RedisSettings) -> None:
    meter = meter_for(redis_settings, "one")
    meter.add("vizfetch_gateway_restarts")
    meter.close()
    week = 7 * 24 * 3600
    assert all(week - 60 < redis.ttl(key) <= week for key in redis.keys("vizfetch:metrics:*"))
    redis.expire("vizfetch:metrics:one", 60)
    assert sums(redis)
    assert redis.ttl("vizfetch:metrics:one") > 60


def test_a_histogram_is_shown_with_cumulated_buckets() -> None:
    meter = Meter()
    for seconds in (0.05, 0.2, 2000, 0.2):
        meter.observe("vizfetch_step_duration_seconds", seconds, step="check")
    (found,) = series(METRICS["vizfetch_step_duration_seconds"], meter.gathered())
    assert found.labels == ("check",)
    assert found.value == pytest.approx(2000.45)
    counts = dict(found.buckets)
    assert (counts["0.05"], counts["0.1"], counts["0.25"], counts["900.0"], counts["+Inf"]) == (1, 1, 3, 3, 4)


def test_the_page_is_read_by_prometheus_own_parser() -> None:
    meter = Meter()
    strange = 'an "index"\\ with\nlines'
    meter.add("vizfetch_index_requests", index=strange, status="200")
    readings = [Reading("vizfetch_redis_up", 1), Reading("vizfetch_index_breaker", 1, ("pypi[0]", "open"))]
    page = render({**meter.gathered(), "no json": 3, '["vizfetch_attempts", "", "older"]': 1}, readings, "agent")
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    (sample,) = families["vizfetch_index_requests"].samples
    assert (sample.name, sample.labels, sample.value) == (
        "vizfetch_index_requests_total",
        {"index": strange, "status": "200"},
        1,
    )
    assert families["vizfetch_uploaded_bytes"].samples[0].value == 0
    assert families["vizfetch_attempts"].samples == []
    for name, metric in METRICS.items():
        assert (name in families) == (metric.shown_by != "scheduler")
        if name in families:
            assert (families[name].type, families[name].documentation) == (metric.kind, metric.help)
