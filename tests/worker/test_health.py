import json
import threading
import time
from pathlib import Path

import pytest

from config.settings import CacheSettings, IndexSettings, RedisSettings, Settings
from jobs.actuator import Actuator
from worker.gateway.process import GatewayProcess
from worker.health import AgentHealth, ConsumerWatch

LIVE = "/actuator/health/liveness"


@pytest.fixture
def settings(tmp_path: Path, redis_settings: RedisSettings) -> Settings:
    return Settings(
        nickname="one",
        indexes=(
            IndexSettings(name="pypi[0]", url="https://pypi.example.com/simple"),
            IndexSettings(name="pypi[1]", url="https://pypi.example.org/simple", skip_validate_connectivity=True),
        ),
        redis=redis_settings,
        temporary_directory=tmp_path,
        cache=CacheSettings(directory=tmp_path),
        min_free_space_bytes=1,
    )


def shown(settings: Settings, consumer: ConsumerWatch, stopping: threading.Event | None = None) -> Actuator:
    gateway = GatewayProcess(settings.indexes, settings.cache)  # not started
    ends = stopping or threading.Event()
    return AgentHealth(
        settings, gateway=gateway, consumer=consumer, running=lambda: ["j-1"], stopping=ends.is_set
    ).actuator()


def test_a_loop_that_is_stuck_while_redis_answers_is_not_live(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.health._LIVE_WITHIN_SECONDS", 0.3)
    consumer, stopping = ConsumerWatch(), threading.Event()
    actuator = shown(settings, consumer, stopping)
    actuator.answer("GET", "/actuator/health")  # so that it is known that Redis answers
    assert actuator.answer("GET", LIVE).status == 200
    time.sleep(0.4)
    assert actuator.answer("GET", LIVE).status == 503
    consumer.beat()
    assert actuator.answer("GET", LIVE).status == 200
    time.sleep(0.4)
    assert actuator.answer("GET", LIVE).status == 503
    stopping.set()
    assert actuator.answer("GET", LIVE).status == 200


def test_a_loop_that_waits_for_redis_is_live(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.health._LIVE_WITHIN_SECONDS", 0.3)
    away = settings.redis.model_copy(update={"url": type(settings.redis.url)("redis://127.0.0.1:1/0")})
    actuator = shown(settings.model_copy(update={"redis": away}), ConsumerWatch())
    time.sleep(0.4)
    assert actuator.answer("GET", LIVE).status == 200


def test_each_part_says_what_is_wrong(settings: Settings) -> None:
    full = settings.model_copy(update={"min_free_space_bytes": 2**62})
    told = json.loads(shown(full, ConsumerWatch()).answer("GET", "/actuator/health").body)["components"]
    assert {name: part["status"] for name, part in told.items()} == {
        "redis": "UP",
        "indexes": "UP",
        "consumer": "OUT_OF_SERVICE",
        "gateway": "DOWN",
        "diskSpace": "DOWN",
    }
    assert told["indexes"]["details"] == {"validated": ["pypi[0]"], "notValidated": ["pypi[1]"], "down": []}
    assert "example" not in json.dumps(told)
