"""The API is as its own description says, whatever is sent: Schemathesis tries."""

import subprocess
import sys
from pathlib import Path

from redis import Redis

from config.settings import RedisSettings
from tests.scheduler.api.service import deployment_for, serving

SECONDS = 20
TOKEN = "token-that-may-stand-among-arguments"
CONFIGURATION = """
[checks]
# What is sent may be as described and yet mean nothing: a text that is no requirement, a cursor of another listing.
positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "422"]

[[operations]]
# A batch that is there is not enough for an answer: what is sent may name jobs that are not.
include-path-regex = "/(cancel|retry)$"
checks.ensure_resource_availability.enabled = false
"""


def test_whatever_is_sent_the_api_answers_as_it_is_described(
    redis_settings: RedisSettings, redis: Redis, tmp_path: Path
) -> None:
    assert redis.ping()
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with serving(deployment_for(redis_settings, tmp_path, TOKEN), token=TOKEN) as api:
        done = subprocess.run(
            [
                Path(sys.executable).with_name("schemathesis"),
                "--config-file=schemathesis.toml",
                "run",
                f"{api.url}/api/v1/openapi.json",
                f"--header=Authorization: Bearer {TOKEN}",
                # A listener listens until the batch is done: tests of its own.
                "--exclude-path-regex=/events$",
                f"--max-time={SECONDS}",
                "--rate-limit=90/s",
                "--generation-database=:memory:",
                "--continue-on-failure",
                "--no-color",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SECONDS + 60,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
        assert api.get("/batches", params={"limit": 1})["batches"], "nothing was submitted"
        log = api.scheduler.log.read_text()
    assert "api_defect" not in log
    assert "Traceback" not in log
