from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from config import kinds
from config.migration import as_json, migrate
from config.names import SETTINGS, Generation, Style
from config.settings import IndexSettings, RedisSettings, Settings
from config.sources import load, read
from tests.support.planted import input_file

ENV = "MODERNE_AGENT_PYPI_0_"
OURS = "MODERNE_AGENT_VISUALIZATION_"
EVERYTHING = {
    "MODERNE_AGENT_NICKNAME": "agent-1",
    f"{ENV}URL": "https://a/simple",
    f"{ENV}USERNAME": "null",
    f"{ENV}PASSWORD": "planted: 'é\" #",
    f"{ENV}SKIPSSL": "true",
    f"{ENV}PROXY_HOST": "proxy",
    f"{ENV}PROXY_PORT": "3128",
    f"{ENV}CONNECTTIMEOUT": "PT0.010250S",
    "MODERNE_AGENT_PYPI_1_URL": "https://b/simple",
    "MODERNE_AGENT_PYPI_1_BEARERTOKEN": "0123planted",
    f"{OURS}REDIS_URL": "rediss://u:planted%2F@redis:7000/3",
    f"{OURS}STORAGE_URI": "s3://bucket/prefix",
    f"{OURS}STORAGE_ACCESSKEY": "planted-ak",
    f"{OURS}STORAGE_SECRETKEY": "planted-sk",
    f"{OURS}TARGET_PYTHON": "3.10",
    f"{OURS}SDISTS": "umap-learn,pynndescent",
    f"{OURS}REQUIRESPECS": "no",
    f"{OURS}TEMPORARYDIRECTORY": "/scratch",
    f"{OURS}MINFREESPACE": "500MB",
    f"{OURS}CACHE_PAGETTL": "0s",
    f"{OURS}RETRY_MAXBACKOFF": "1h",
    f"{OURS}CONCURRENCY": "7",
    f"{OURS}API_TOKEN": "planted-token",
}


def is_accepted(text: str) -> bool:
    """Whether a setting may have this value."""
    try:
        return bool(kinds.line(text).strip())
    except ValueError:
        return False


def same(one: Settings, other: Settings) -> bool:
    """Whether two settings mean the same: the public index may have become a configured one."""

    def essence(value: Settings) -> Settings:
        named = tuple(index.model_copy(update={"name": "", "prefix": ""}) for index in value.indexes)
        return value.model_copy(update={"indexes": named, "use_only_configured": True})

    return essence(one) == essence(other)


def back(tmp_path: Path, text: str, environment: Mapping[str, str] | None = None) -> Settings:
    path = input_file(tmp_path, "migrated.yml", text)
    return load([], environment or {}, file=path)


@pytest.mark.parametrize("only", ["true", "false"])
def test_everything_reads_back(tmp_path: Path, only: str) -> None:
    before = load([], EVERYTHING | {f"{OURS}USEONLYCONFIGURED": only})
    after = back(tmp_path, migrate(before, show_secrets=True))
    assert same(after, before)
    assert len(after.indexes) == (2 if only == "true" else 3)


def test_under_the_connectors_names() -> None:
    text = migrate(load([], EVERYTHING), show_secrets=True)
    assert "repositories:\n        pypi:\n        - uri: https://a/simple\n" in text
    assert "\n  agent:\n    nickname: agent-1\n" in text
    assert "useOnlyConfigured" not in text


def test_secrets_are_not_shown_unless_asked(tmp_path: Path) -> None:
    before = load([], EVERYTHING)
    text = migrate(before)
    assert "planted" not in text
    new_names = {
        "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_PASSWORD": "planted: 'é\" #",
        "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_1_BEARERTOKEN": "0123planted",
        f"{OURS}REDIS_PASSWORD": "planted/",
        f"{OURS}STORAGE_ACCESSKEY": "planted-ak",
        f"{OURS}STORAGE_SECRETKEY": "planted-sk",
        f"{OURS}API_TOKEN": "planted-token",
    }
    head = [line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")]
    assert sorted(head) == sorted(new_names)
    assert same(back(tmp_path, text, new_names), before)


@pytest.mark.parametrize("names", [(f"{ENV}PASSWORD", f"{OURS}REDIS_PASSWORD"), (f"{OURS}REDIS_URL",)])
def test_secrets_from_files_stay_in_their_files(tmp_path: Path, names: Sequence[str]) -> None:
    secret = tmp_path / "secret"
    secret.write_text("redis://:planted@h:1/0\n")
    environment = {f"{ENV}URL": "https://a/simple", f"{ENV}USERNAME": "u", f"{ENV}PASSWORD": "planted"}
    if len(names) > 1:
        del environment[f"{ENV}PASSWORD"]
        environment[f"{OURS}REDIS_HOST"] = "redis"
    reading = read([], environment | {f"{name}_FILE": str(secret) for name in names})
    text = migrate(reading.settings, reading.effective, show_secrets=True)
    assert text.count(str(secret)) == len(names)
    assert text.count("planted") == (0 if len(names) > 1 else 1)
    assert same(back(tmp_path, text), reading.settings.model_copy(update={"nickname": back(tmp_path, text).nickname}))


def test_what_is_only_of_this_process_is_left_out_with_a_trace() -> None:
    reading = read([], {"TMPDIR": "/scratch"})
    text = migrate(reading.settings, reading.effective)
    assert "nickname" not in text
    assert "scratch" not in text
    assert "nickname" in migrate(reading.settings)


def test_redis_with_parameters_is_hidden_whole() -> None:
    redis = RedisSettings(url=SecretStr("rediss://:planted@h/0?ssl_cert_reqs=none"))
    text = migrate(Settings(nickname="n", redis=redis))
    assert f"#   {OURS}REDIS_URL\n" in text
    assert "planted" not in text


def test_a_plain_redis_url_is_shown() -> None:
    text = migrate(Settings(nickname="n", redis=RedisSettings(url=SecretStr("redis://h:1/2"))))
    assert "url: redis://h:1/2" in text


_BREAKS = "\x85\u2028\u2029\ufeff\u00a0\x80\U0010ffff"
_texts = st.text(st.characters(codec="utf-8") | st.sampled_from(_BREAKS), min_size=1).filter(is_accepted)
_nicknames = _texts.map(str.strip).filter(is_accepted)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=_texts, nickname=_nicknames, seconds=st.integers(10_000, 10**12), size=st.integers(0, 2**60))
@example(password="a\x85b", nickname="n\x85m", seconds=10**6, size=0)
@example(password="a\u2028 b", nickname="n", seconds=10**6, size=0)
def test_any_values_read_back(tmp_path: Path, password: str, nickname: str, seconds: int, size: int) -> None:
    index = IndexSettings(name="pypi[0]", url="https://a", username="u", password=SecretStr(password))
    before = Settings(
        nickname=nickname,
        indexes=(index.model_copy(update={"read_timeout_seconds": seconds / 1_000_000}),),
        use_only_configured=True,
        min_free_space_bytes=size,
    )
    text = migrate(before, show_secrets=True)
    assert same(back(tmp_path, text), before)
    assert same(back(tmp_path, as_json(yaml.safe_load(text))), before)


def test_every_indexed_setting_has_a_connector_name() -> None:
    names = {setting.spelled(Style.ENVIRONMENT, 0, Generation.CONNECTOR) for setting in SETTINGS if setting.indexed}
    assert "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_URI" in names
    assert all(name.startswith("MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_") for name in names)
