import base64
import json
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from config.secrets import MASK, Masker, mask_url, secret_values
from config.settings import ApiSettings, IndexSettings, RedisSettings, Settings, StorageSettings

AWKWARD = 'pl/"nt\\d é s%cret+'


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("https://a/simple", "https://a/simple"),
        ("https://user:planted@a/simple", "https://***@a/simple"),
        ("https://planted@a:8080/simple", "https://***@a:8080/simple"),
        ("https://u:pl@nted@a/simple", "https://***@a/simple"),
        ("redis://:planted@h/0?password=planted&x=1", "redis://***@h/0?password=***&x=1"),
        (
            "https://a/s?X-Amz-Signature=planted&access_token=planted#f",
            "https://a/s?X-Amz-Signature=***&access_token=***#f",
        ),
        ("cannot reach https://u:planted@a/ or b", "cannot reach https://***@a/ or b"),
        ("not a url", "not a url"),
    ],
)
def test_mask_url(url: str, masked: str) -> None:
    assert mask_url(url) == masked
    assert mask_url(masked) == masked


def test_secret_values_finds_them_all() -> None:
    settings = Settings(
        nickname="n",
        indexes=(
            IndexSettings(name="pypi[0]", url="https://a", username="user", password=SecretStr("one")),
            IndexSettings(name="pypi[1]", url="https://b", bearer_token=SecretStr("two")),
        ),
        redis=RedisSettings(url=SecretStr("sentinel://u:thr%2Fee@h/s?sentinelPassword=four")),
        storage=StorageSettings(uri="s3://bucket", access_key=SecretStr("five"), secret_key=SecretStr("six")),
        api=ApiSettings(token=SecretStr("seven")),
    )
    url = "sentinel://u:thr%2Fee@h/s?sentinelPassword=four"
    assert secret_values(settings) == {"one", "two", "thr%2Fee", "thr/ee", "four", "five", "six", "seven", url}


def test_a_url_without_credentials_is_no_secret() -> None:
    assert secret_values(Settings(nickname="n")) == frozenset()


@pytest.mark.parametrize("secret", ["planted-secret", AWKWARD, "日本語-geheim"])
@pytest.mark.parametrize("user", ["", "u", "us", "use"])
def test_masker_knows_the_usual_forms(secret: str, user: str) -> None:
    mask = Masker([secret])
    basic = base64.b64encode(f"{user}:{secret}".encode()).decode()
    forms = [
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        quote(secret, safe="").lower() if secret.islower() and secret.isascii() else secret,
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        basic,
        basic.replace("+", "-").replace("/", "_"),
    ]
    for form in forms:
        assert mask(f"before {form} after") == f"before {MASK} after"


def test_masker_masks_the_longer_of_two_secrets_whole() -> None:
    assert Masker(["planted", "planted-secret"])("a planted-secret b planted c") == "a *** b *** c"


def test_masker_leaves_short_secrets_and_other_text() -> None:
    assert Masker(["abc", ""])("abc and the alphabet") == "abc and the alphabet"
    assert Masker([])("abc") == "abc"
    assert Masker(["planted"])("cGxhbnQ is short") == "cGxhbnQ is short"


def test_masker_stays_quick_on_long_words() -> None:
    began = time.perf_counter()
    Masker(["planted-secret"])("a" * 200_000)
    assert time.perf_counter() - began < 2


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=4),
    st.text(st.characters(codec="utf-8")),
    st.text(st.characters(codec="utf-8")),
)
def test_masker_never_lets_a_secret_through(secret: str, before: str, after: str) -> None:
    assert secret not in Masker([secret])(before + secret + after)
