"""The search for planted secrets itself: it would find one."""

import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from tests.support.command import MARK, Deployment, eventually
from tests.support.planted import ProcessWatch, _is_command, files_with_secrets, input_file, keys_with_secrets


def test_in_files_but_not_in_those_given(tmp_path: Path) -> None:
    input_file(tmp_path, "settings.yml", f"{MARK}password")
    (tmp_path / "empty").touch()
    (tmp_path / "log").write_text("nothing here\n" * 1000)
    assert files_with_secrets(tmp_path) == []
    leak = tmp_path / "deep" / "log"
    leak.parent.mkdir()
    leak.write_bytes(b"\x00" * 10_000 + f"x{MARK}password".encode())
    assert files_with_secrets(tmp_path) == [leak]
    leak.unlink()  # or the search of the whole run finds it, too


def test_in_redis(redis: Redis) -> None:
    redis.set("text", "a")
    redis.hset("hash", "field", f"{MARK}password")
    redis.rpush("list", "a", f"{MARK}password")
    redis.zadd("zset", {f"{MARK}password": 1})
    redis.sadd("set", f"{MARK}password")
    redis.set(f"{MARK}key", "a")
    assert sorted(keys_with_secrets(redis)) == sorted(["hash", "list", "zset", "set", f"{MARK}key"])
    redis.flushall()


@pytest.mark.parametrize("place", ["arguments", "environment"])
def test_in_processes(place: str) -> None:
    sown = "sown-secret"  # the watch over the whole run looks for another mark
    arguments = [sown] if place == "arguments" else []
    environment = {"SECRET": sown} if place == "environment" else {}
    with ProcessWatch("sown-") as watch:
        command = [sys.executable, "-c", "import time; time.sleep(60)", *arguments]
        process = subprocess.Popen(command, env=environment)
        try:
            eventually(lambda: watch.found)
        finally:
            process.kill()
            process.wait()
    assert [found.startswith(f"the {place} of ") for found in watch.found] == [True]


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        ("python /venv/bin/vizfetch worker", True),
        ("/venv/bin/vizfetch worker", True),
        ("setpriv --bounding-set -all /venv/bin/vizfetch worker", True),
        ("setpriv --bounding-set -all /bin/sh", False),
        ("sh -c x /venv/bin/vizfetch", False),
    ],
)
def test_only_what_is_a_command_of_ours_or_becomes_one_may_hold_them(command: str, *, ours: bool) -> None:
    assert _is_command(command.encode().split()) is ours


def test_in_what_commands_print(tmp_path: Path) -> None:
    told = Deployment({"MODERNE_AGENT_NICKNAME": f"{MARK}nickname"}, tmp_path)
    with pytest.raises(AssertionError, match="printed a secret"):
        told.run("config")
