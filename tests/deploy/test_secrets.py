import json
import re
import runpy
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, NoPermissionError

from config.settings import RedisSettings
from tests.deploy.files import ROOT
from tests.support.valkey import valkey

FOLDERS = ("redis", "flower", "api", "grafana", "s3", "valkey", "storage")
MADE = (
    "redis/password",
    "flower/redis-password",
    "flower/password",
    "api/token",
    "grafana/password",
    "s3/access-key",
    "s3/secret-key",
)


def make(root: Path) -> dict[str, str]:
    for folder in FOLDERS:
        (root / folder).mkdir(exist_ok=True)
    runpy.run_path(str(ROOT / "deploy" / "compose" / "make_secrets.py"))["main"](root)
    return {str(path.relative_to(root)): path.read_text() for path in root.rglob("*") if path.is_file()}


def give(redis: RedisSettings, users: str) -> tuple[str, int]:
    """Have a Valkey know these users, and return its address."""
    with Redis.from_url(redis.url.get_secret_value()) as administrator:
        # Who asks is the user `default`, who may do nothing more once it is given.
        for line in sorted(users.splitlines(), key=lambda line: line.startswith("user default ")):
            _, name, *rules = line.split()
            administrator.execute_command("ACL", "SETUSER", name, *rules)
        connected = administrator.connection_pool.connection_kwargs
        return connected["host"], connected["port"]


def test_secrets_are_random_and_stay(tmp_path: Path) -> None:
    first = make(tmp_path)
    assert len({first[name] for name in MADE}) == len(MADE)
    assert all(len(first[name]) >= 40 for name in MADE)
    assert make(tmp_path) == first


def test_servers_get_what_they_need_and_no_password(tmp_path: Path) -> None:
    made = make(tmp_path)
    assert set(made) == {*MADE, "valkey/users.acl", "storage/s3.json"}
    assert made["redis/password"] not in made["valkey/users.acl"]
    (identity,) = json.loads(made["storage/s3.json"])["identities"]
    assert identity["credentials"] == [{"accessKey": made["s3/access-key"], "secretKey": made["s3/secret-key"]}]


def test_the_users_of_redis_may_do_their_work_and_no_more(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "secrets"
    data.mkdir()
    root.mkdir()
    made = make(root)
    with valkey(data) as settings:
        host, port = give(settings, made["valkey/users.acl"])
        with Redis(host, port) as anybody:
            assert anybody.ping()
            with pytest.raises(NoPermissionError):
                anybody.get("vizfetch:epoch")
        with Redis(host, port, username="vizfetch", password=made["redis/password"]) as ours:
            assert ours.set("vizfetch:a", "1")
            assert ours.publish("vizfetch:celery:/0.celeryev/worker.heartbeat", "") == 0
            with pytest.raises(NoPermissionError):
                ours.set("others", "1")
            with pytest.raises(NoPermissionError):
                ours.flushall()
        with Redis(host, port, username="flower", password=made["flower/redis-password"]) as flower:
            assert flower.llen("vizfetch:celery:fetch:3.11:x86_64") == 0
            with pytest.raises(NoPermissionError):
                flower.get("vizfetch:a")
        wrong = made["flower/redis-password"]
        with Redis(host, port, username="vizfetch", password=wrong) as other, pytest.raises(AuthenticationError):
            other.ping()


def test_the_documents_say_what_a_user_needs(tmp_path: Path) -> None:
    documented = re.search(
        r"^ACL SETUSER vizfetch on >PASSWORD (.*)$",
        (ROOT / "docs" / "operations.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    given = re.search(r"^user vizfetch on #\w+ (.*)$", make(tmp_path)["valkey/users.acl"], re.MULTILINE)
    assert documented
    assert given
    assert documented[1].split() == given[1].split()
