import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, SecretStr

from config.names import SETTINGS, Setting, Style, match_dotted, match_variable, nearest
from config.reference import BEGIN, END, main, markdown, summary, updated
from config.rules import REDIS_PARTS
from config.settings import IndexSettings, Settings


def field_paths(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every field of the models, down to plain values."""
    found = set()
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *get_args(field.annotation)) if is_model(kind)]
        found |= field_paths(inner[0], f"{prefix}{name}.") if inner else {f"{prefix}{name}"}
    return found


def is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_the_table_and_the_models_have_the_same_fields() -> None:
    table = {setting.field for setting in SETTINGS} - {f"redis.{part}" for part in REDIS_PARTS}
    assert table | {"indexes.name", "indexes.prefix", "redis.ca_bundle", "storage.ca_bundle"} == field_paths(Settings)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_shown_defaults_are_the_models_defaults(setting: Setting) -> None:
    if (
        setting.field in {"nickname", "cache.directory", "indexes.url", *(f"redis.{part}" for part in REDIS_PARTS)}
        or ".proxy." in setting.field
    ):
        return
    owner: object = IndexSettings(name="n", url="https://a") if setting.indexed else Settings(nickname="n")
    for name in setting.field.removeprefix("indexes.").split("."):
        owner = getattr(owner, name)
    default = setting.kind.parse(setting.default) if setting.default else None
    assert (owner.get_secret_value() if isinstance(owner, SecretStr) else owner) == default


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_secrets_are_those_of_the_models(setting: Setting) -> None:
    if setting.field == "redis.password":
        return
    kind: object = Settings
    for name in setting.field.split("."):
        field = kind.model_fields.get(name) if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if field is None:
            return  # a part of redis.url
        candidates = [field.annotation, *get_args(field.annotation)]
        kind = next((one for one in candidates if is_model(one)), field.annotation)
        is_secret = SecretStr in candidates
    assert is_secret == setting.secret


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("style", list(Style))
def test_every_name_leads_back_to_its_setting(setting: Setting, style: Style) -> None:
    index = 3 if setting.indexed else None
    name = setting.spelled(style, index).removeprefix(style.prefix)
    match = match_variable(name) if style is Style.ENVIRONMENT else match_dotted(name)
    assert match is not None
    assert (match.setting, match.index) == (setting, index)
    if setting.name != "moderne.agent.nickname":
        assert nearest(name + ("X" if style is Style.ENVIRONMENT else "x"), style) == setting.spelled(style, index)


def test_markdown_has_a_row_for_each_setting() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)`(\\?\*?) \| [^|]+ \| [^|]* \| [^|]+ \|$", markdown(), re.MULTILINE)
    assert [name for name, _, _ in rows] == [setting.name for setting in SETTINGS]
    assert {name for name, _, star in rows if star} == {setting.name for setting in SETTINGS if setting.secret}
    assert ("moderne.agent.pypi[{index}].url", "MODERNE_AGENT_PYPI_{index}_URL", "") in rows


def test_the_summary_has_what_users_of_the_agent_have_today() -> None:
    documented = {setting for setting in SETTINGS if setting.indexed or setting.field == "use_only_configured"}
    documented = {setting for setting in documented if setting.field != "indexes.max_connections"}
    assert len(documented) == 11
    assert all(setting.meaning in summary() for setting in documented)
    assert len(summary().splitlines()) == 2 + len(documented)


def test_documents_are_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    documents = [tmp_path / "README.md", tmp_path / "docs" / "settings.md"]
    for document in documents:
        document.write_text(f"before\n{BEGIN}\nan old table\n{END}\nafter\n")
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert main([]) == 0
    assert main(["--check"]) == 0
    for document, content in zip(documents, (summary(), markdown()), strict=True):
        assert document.read_text() == f"before\n{BEGIN}\n\n{content}\n{END}\nafter\n"


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the lines"):
        updated("no marks", "a table")
