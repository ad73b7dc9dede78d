import pytest

from config.problems import SettingsError
from config.redis_url import Sentinels
from config.secrets import mask_url, secret_values
from config.settings import RedisSettings
from config.sources import load

NAME = "--moderne.agent.visualization.redis"
URL = "sentinel://user:planted%2Fword@one.example.com:26380,[::1],two:1/orders/3?sentinelPassword=planted-own"


def test_a_sentinel_url_says_where_the_sentinels_are_and_what_they_watch() -> None:
    found = Sentinels.of(load([f"{NAME}.url={URL}"], {}).redis.url.get_secret_value())
    assert found
    assert found.hosts == (("one.example.com", 26380), ("::1", 26379), ("two", 1))
    assert (found.service, found.database, found.ssl) == ("orders", 3, False)
    assert (found.username, found.password, found.own_password) == ("user", "planted/word", "planted-own")
    assert Sentinels.of("redis://h/0") is None


def test_a_sentinel_urls_secrets_are_known_as_such() -> None:
    assert "planted" not in mask_url(URL)
    assert {"planted/word", "planted-own"} <= secret_values(load([f"{NAME}.url={URL}"], {}))


@pytest.mark.parametrize("rest", ["", "h", "h/", "h:x/s", "/s", "h/s/x", "h,/s", "h/s#f", "h/s t"])
def test_a_broken_sentinel_url_is_refused(rest: str) -> None:
    with pytest.raises(SettingsError, match=r"redis\.url"):
        load([f"{NAME}.url=sentinel://{rest}"], {})


@pytest.mark.parametrize("prefix", ["a*", "a b", "a:b", "-a", "ä", "a" * 65])
def test_a_key_prefix_is_plain(prefix: str) -> None:
    with pytest.raises(SettingsError, match=r"redis\.prefix"):
        load([f"{NAME}.prefix={prefix}"], {})


def test_redis_trusts_whom_the_indexes_trust() -> None:
    assert RedisSettings().ca_bundle is None
    found = load([], {"REQUESTS_CA_BUNDLE": "/one.pem", "SSL_CERT_FILE": "/other.pem"}).redis.ca_bundle
    assert str(found) == "/one.pem"
