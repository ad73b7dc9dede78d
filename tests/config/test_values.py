import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from config.durations import MAX_SECONDS, format_duration, parse_duration
from config.kinds import Kind
from config.names import SETTINGS
from config.redis_url import from_parts, to_parts
from config.settings import ApiSettings, IndexSettings, Proxy, RedisSettings, RetrySettings, Settings, StorageSettings
from config.sizes import MAX_BYTES, format_size, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("30S", 30),
        ("PT30S", 30),
        ("PT1M30S", 90),
        ("pt1m30s", 90),
        ("P1DT2H", 93600),
        ("P1D", 86400),
        ("PT0.25S", 0.25),
        ("PT0.000001S", 0.000001),
        ("0s", 0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "30", "s", "-30s", "1.5s", "30 s", "30x", "P", "PT", "P1DT", "T30S", "1m30s", "٣s", "366d", "9" * 5000 + "s"],
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_duration(text)


@given(st.integers(0, MAX_SECONDS * 1_000_000))
def test_durations_are_written_as_they_are_read(microseconds: int) -> None:
    assert parse_duration(format_duration(microseconds / 1_000_000)) == microseconds / 1_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1024", 1024),
        ("0", 0),
        ("2GiB", 2 * 2**30),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("1KB", 1000),
        ("1kib", 1024),
        ("3TiB", 3 * 2**40),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "-1", "1.5GiB", "1 Gi B", "1EB", "1iB", "٣", "2097152TiB", "9" * 5000])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_size(text)


@given(st.integers(0, MAX_BYTES))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize("kind", list(dict.fromkeys(setting.kind for setting in SETTINGS)), ids=lambda kind: kind.label)
@given(text=st.one_of(st.text(), st.from_regex(r"[a-z0-9:/@.\[\]%?#, _-]{0,40}", fullmatch=True)))
def test_any_text_is_a_value_or_a_value_error(kind: Kind, text: str) -> None:
    value, complaint = parsed(kind, text)
    if complaint:
        _, advice = parsed(kind, "\0 is no value of any kind")
        assert len(text) < 12 or text not in complaint or text in advice
    else:
        assert kind.parse(kind.write(value)) == value


def parsed(kind: Kind, text: str) -> tuple[object, str]:
    try:
        return kind.parse(text), ""
    except ValueError as error:
        return None, str(error)


_some = st.none() | st.text(st.characters(codec="utf-8"), min_size=1)


@given(_some, _some, st.booleans(), st.integers(0, 9999))
def test_redis_parts_make_a_url_and_come_back(
    username: str | None,
    password: str | None,
    ssl: bool,  # noqa: FBT001 - hypothesis passes it by name
    database: int,
) -> None:
    url = from_parts(host="[::1]", port=7000, username=username, password=password, ssl=ssl, database=database)
    RedisSettings(url=SecretStr(url))
    parts = to_parts(url)
    assert parts is not None
    assert (parts.host, parts.port, parts.username, parts.password) == ("[::1]", 7000, username, password)
    assert (parts.ssl, parts.database) == (ssl, database)


def test_a_redis_socket_has_no_parts() -> None:
    url = "unix:///run/valkey.sock"
    assert RedisSettings(url=SecretStr(url)).url.get_secret_value() == url
    assert to_parts(url) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: IndexSettings(name="n", url="https://u:planted@a"),
        lambda: IndexSettings(name="n", url="https://a", username="planted"),
        lambda: IndexSettings(name="n", url="https://a", password=SecretStr("planted")),
        lambda: IndexSettings(
            name="n", url="https://a", username="u", password=SecretStr("p"), bearer_token=SecretStr("planted")
        ),
        lambda: IndexSettings(name="n", url="https://a", read_timeout_seconds=0),
        lambda: IndexSettings(name="n", url="https://a", connect_timeout_seconds=float("inf")),
        lambda: Proxy(host="http://planted", port=1),
        lambda: Proxy(host="planted", port=0),
        lambda: RedisSettings(url=SecretStr("http://planted")),
        lambda: StorageSettings(uri="planted"),
        lambda: StorageSettings(access_key=SecretStr("planted")),
        lambda: StorageSettings(access_key=SecretStr("a"), secret_key=SecretStr("planted"), profile="planted"),
        lambda: RetrySettings(min_backoff_seconds=400),
        lambda: ApiSettings(port=70000),
        lambda: Settings(nickname="planted\n"),
        lambda: Settings.model_validate({"nickname": "n", "other": "planted"}),
    ],
)
def test_objects_made_by_hand_obey_the_rules_in_silence(make: object) -> None:
    assert callable(make)
    with pytest.raises(ValidationError) as caught:
        make()
    assert "planted" not in str(caught.value)
