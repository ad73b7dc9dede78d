import subprocess
import sys
from pathlib import Path

import pytest

from config.problems import SettingsError
from config.settings import ApiSettings, RedisSettings
from jobs.listening import listen
from tests.scheduler.api.service import deployment_for, serving
from tests.support.command import free_port


def test_commands_do_not_import_the_web_server() -> None:
    imports = "import sys, cli.main, cli.batches, scheduler.service, scheduler.submit, jobs.listing"
    program = f"{imports}; print({{'fastapi', 'uvicorn'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


def test_two_schedulers_on_two_ports_serve_the_same(redis_settings: RedisSettings, tmp_path: Path) -> None:
    with (
        serving(deployment_for(redis_settings, tmp_path)) as one,
        serving(deployment_for(redis_settings, tmp_path)) as other,
    ):
        batch = one.post("/batches", {"entries": ["acme"]})
        assert other.get(f"/batches/{batch['id']}")["total"] == 1
        assert one.scheduler.stop() == 0
        assert other.post(f"/batches/{batch['id']}/cancel", {})["jobs"]


def test_a_port_that_nobody_chose_may_be_taken() -> None:
    class Elsewhere(ApiSettings):
        """As the settings, with another default: 8080 may be anybody's on this machine."""

        port: int = free_port()

    first = listen(Elsewhere())
    assert first is not None
    with first:
        assert listen(Elsewhere()) is None
        with pytest.raises(SettingsError, match=r"api\.port"):
            listen(Elsewhere(port=first.getsockname()[1]))
