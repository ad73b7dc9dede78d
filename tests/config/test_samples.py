import re
from importlib import resources

import pytest
import yaml

from config import names
from config.names import SETTINGS, match_dotted, match_variable
from config.sources import load

ALTERNATIVES = (
    "redis.host",
    "redis.port",
    "redis.username",
    "redis.password",
    "redis.ssl",
    "redis.database",
    "profile",
)
FIRST_CHOICES = ("redis.url", "storage.accessKey", "storage.secretKey")


def sample(name: str) -> str:
    return resources.files(names.__package__ or "").joinpath(name).read_text(encoding="utf-8")


def variables() -> dict[str, str]:
    """Every line of the environment file, as if nothing were commented out."""
    found = re.findall(r"^#?([A-Z0-9_]+)=(.*)$", sample("vizfetch.env"), re.MULTILINE)
    assert len(dict(found)) == len(found)
    return dict(found)


def flat(tree: object, prefix: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        pairs = [(f"{prefix}.{key}" if prefix else str(key), value) for key, value in tree.items()]
    elif isinstance(tree, list):
        pairs = [(f"{prefix}[{number}]", value) for number, value in enumerate(tree)]
    else:
        return {prefix: tree}
    return {name: value for key, item in pairs for name, value in flat(item, key).items()}


def uncommented() -> str:
    return re.sub("^#(?= )(?=.*: |.*:$|.*- )(?! [A-Za-z])", "", sample("vizfetch.yml"), flags=re.MULTILINE)


def lines() -> dict[str, object]:
    """Every setting of the YAML file, as if nothing were commented out."""
    return flat(yaml.safe_load(uncommented()))


def test_the_environment_sample_names_every_setting_and_no_other() -> None:
    named = {match.setting.name if (match := match_variable(name)) else name for name in variables()}
    assert named == {setting.name for setting in SETTINGS}


def test_the_yaml_sample_names_every_setting_and_no_other() -> None:
    named = {match.setting.name if (match := match_dotted(name)) else name for name in lines()}
    assert named == {setting.name for setting in SETTINGS}


def test_the_samples_as_they_stand_change_nothing() -> None:
    active = [line for line in sample("vizfetch.env").splitlines() if line and not line.startswith("#")]
    assert active == []
    path = resources.files(names.__package__ or "").joinpath("vizfetch.yml")
    with resources.as_file(path) as file:
        assert load([], {}, file=file).model_dump(exclude={"nickname"}) == load([], {}).model_dump(exclude={"nickname"})


@pytest.mark.parametrize("without", [ALTERNATIVES, FIRST_CHOICES])
def test_the_samples_load_and_say_the_same(without: tuple[str, ...]) -> None:
    def kept(name: str) -> bool:
        match = match_variable(name)
        return match is not None and not match.setting.name.endswith(without)

    def meant(value: object) -> object:
        return "s3://bucket" if value == "file:///var/lib/vizfetch/bundles" else value  # beside S3's own settings

    from_variables = load([], {name: str(meant(value)) for name, value in variables().items() if kept(name)})
    arguments = [f"--{name}={meant(value)}" for name, value in lines().items() if kept(name)]
    from_yaml = load([argument.replace("=True", "=true").replace("=False", "=false") for argument in arguments], {})
    assert from_variables == from_yaml
    assert len(from_variables.indexes) == 3


def test_sample_defaults_are_the_defaults() -> None:
    for name, value in variables().items():
        match = match_variable(name)
        assert match is not None
        if match.setting.default and match.setting.field != "indexes.url":
            assert value == match.setting.default


def test_the_manifest_sample_is_yaml_of_version_1() -> None:
    manifest = yaml.safe_load(sample("manifest.yml"))
    assert manifest["version"] == 1
    assert [entry["package"].partition("=")[0] for entry in manifest["visualizations"]] == [
        "moderne-visualizations-misc>",
        "acme-charts",
    ]
