"""``vizfetch config``: what holds, and why."""

import json
from pathlib import Path

import pytest

from config.sources import load
from tests.support.command import Deployment
from tests.support.planted import input_file

AGENT = "MODERNE_AGENT_PYPI_0_"
OURS = "MODERNE_AGENT_VISUALIZATION_"
CONNECTOR = "MODERNE_RECIPE_MARKETPLACE_REPOSITORIES_PYPI_0_"


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(
        {
            f"{AGENT}URL": "https://pypi.example.com/simple",
            f"{AGENT}USERNAME": "alice",
            f"{AGENT}PASSWORD": "planted-index-password",
            f"{OURS}USEONLYCONFIGURED": "true",
            f"{OURS}REDIS_URL": "redis://:planted-redis-password@redis.internal:6379/0",
        },
        tmp_path,
    )


def test_each_setting_says_where_it_comes_from(deployment: Deployment, tmp_path: Path) -> None:
    file = input_file(tmp_path, "vizfetch.yml", "moderne:\n  agent:\n    visualization:\n      lease: 20s\n")
    token = input_file(tmp_path, "token", "planted-token\n")
    done = deployment.run(
        *("config", "--json", "--config", str(file), "-Dmoderne.agent.pypi[0].read-timeout=PT5M"),
        *("--moderne.agent.visualization.concurrency=4", f"--moderne.agent.visualization.api.tokenFile={token}"),
    )
    assert (done.exit_code, done.errors) == (0, "")
    rows = {row["name"]: row for row in done.document["settings"]}
    prefix = "moderne.agent.visualization"
    told = {name: (row["value"], row["source"], row["written"]) for name, row in rows.items()}
    assert told["moderne.agent.pypi[0].username"] == ("alice", "environment", f"{AGENT}USERNAME")
    assert told["moderne.agent.pypi[0].password"] == ("***", "environment", f"{AGENT}PASSWORD")
    assert told["moderne.agent.pypi[0].readTimeout"] == (
        "5m",
        "system property",
        "-Dmoderne.agent.pypi[0].read-timeout",
    )
    assert told[f"{prefix}.concurrency"] == ("4", "argument", f"--{prefix}.concurrency")
    assert told[f"{prefix}.lease"] == ("20s", "vizfetch.yml", f"{prefix}.lease")
    assert rows[f"{prefix}.lease"]["line"] == 4
    assert told[f"{prefix}.redis.url"][0] == "redis://***@redis.internal:6379/0"
    assert rows[f"{prefix}.api.token"]["secretFile"] == str(token)
    assert told[f"{prefix}.retry.maxAttempts"] == ("5", "default", None)
    assert told["moderne.agent.pypi[0].bearerToken"] == (None, "default", None)


def test_people_read_a_paragraph_for_each_group(deployment: Deployment) -> None:
    done = deployment.run("config")
    assert (done.exit_code, done.errors) == (0, "")
    lines = [line.split() for line in done.output.splitlines()]
    assert ["moderne.agent.pypi[0]"] in lines
    assert ["username", "alice", "environment:", f"{AGENT}USERNAME"] in lines
    assert ["connectTimeout", "30s", "default"] in lines
    assert "more are not set" in done.output.splitlines()[-1]


def test_wrong_settings_are_told_all_at_once(deployment: Deployment) -> None:
    wrong = Deployment({**deployment.variables, f"{AGENT}BEARERTOKEN": "planted-token", f"{AGENT}URI": "x"}, Path("/"))
    told = wrong.run("config")
    assert (told.exit_code, told.output) == (78, "")
    assert told.errors.startswith("vizfetch: 2 problems in the settings:\n")
    done = wrong.run("config", "--json")
    assert (done.exit_code, done.errors) == (78, "")
    assert {problem["name"] for problem in done.document["problems"]} == {f"{AGENT}BEARERTOKEN", f"{AGENT}URI"}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_migrated_settings_read_back_to_the_same(deployment: Deployment, tmp_path: Path, form: list[str]) -> None:
    done = deployment.run("config", "--migrate", *form)
    assert done.exit_code == 0
    assert "repositories" in done.output
    secrets = [f"{CONNECTOR}PASSWORD", f"{OURS}REDIS_PASSWORD"]
    told = done.errors if form else done.output
    assert [line.strip("# ") for line in told.splitlines() if "PASSWORD" in line] == secrets
    file = input_file(tmp_path, "migrated.yml", done.output)
    values = dict(zip(secrets, ("planted-index-password", "planted-redis-password"), strict=True))
    after = load([], values | {"HOME": str(tmp_path)}, file=file)
    before = load([], deployment.environment)
    names = {"nickname": True, "indexes": {0: {"prefix"}}}
    assert after.model_dump(exclude=names) == before.model_dump(exclude=names)  # type: ignore[arg-type]
    assert after.indexes[0].prefix == "moderne.recipe.marketplace.repositories.pypi[0]"


def test_secrets_are_written_only_when_asked_for(deployment: Deployment, tmp_path: Path) -> None:
    done = deployment.run("config", "--migrate", "--show-secrets", secrets_asked_for=True)
    file = input_file(tmp_path, "migrated.yml", done.output)
    password = load([], {}, file=file).indexes[0].password
    assert password is not None
    assert password.get_secret_value() == "planted-index-password"
    assert deployment.run("config", "--show-secrets").exit_code == 2


def test_what_was_migrated_works_as_a_settings_file(deployment: Deployment, tmp_path: Path) -> None:
    done = deployment.run("config", "--migrate", "--show-secrets", secrets_asked_for=True)
    file = input_file(tmp_path, "migrated.yml", done.output)
    again = Deployment({"VIZFETCH_CONFIG": str(file)}, tmp_path).run("config", "--json")
    rows = {row["name"]: row["value"] for row in again.document["settings"]}
    assert rows["moderne.recipe.marketplace.repositories.pypi[0].uri"] == "https://pypi.example.com/simple"
    assert rows["moderne.agent.visualization.useOnlyConfigured"] == "true"
    assert json.loads(again.output) == again.document
