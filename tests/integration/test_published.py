"""The commands over what is published: list, pull, verify, rebuild and collect, as their users run them."""

import json
import zipfile
from pathlib import Path

import pytest
from redis import Redis

from bundles.layout import bundle_folder, stored_wheel
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import ObjectStore, open_store
from config.settings import RedisSettings, StorageSettings
from jobs.catalog import Catalog
from tests.bundles.factory import charts
from tests.support.command import Deployment


@pytest.fixture
def commands(tmp_path: Path, redis: Redis, redis_settings: RedisSettings) -> Deployment:
    """Settings of a local store and an empty Redis."""
    assert redis.dbsize() == 0
    variables = {
        "MODERNE_AGENT_VISUALIZATION_REDIS_URL": redis_settings.url.get_secret_value(),
        "MODERNE_AGENT_VISUALIZATION_STORAGE_URI": (tmp_path / "store").as_uri(),
    }
    return Deployment(variables, tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> ObjectStore:
    return open_store(StorageSettings(uri=(tmp_path / "store").as_uri()))


@pytest.fixture
def published(place: ObjectStore, tmp_path: Path) -> list[Bundle]:
    """Two versions of one package, the newer one first."""
    made = []
    for version in ("2.0", "1.0"):
        folder = tmp_path / f"made-{version}"
        made.append(publish(place, charts(folder, version=version), folder).bundle)
    return made


def _change(place: ObjectStore, path: str) -> None:
    content = bytearray(place.read(path))
    content[-9] ^= 1
    place.put_bytes(path, bytes(content))


def test_list_tells_what_is_published(commands: Deployment, published: list[Bundle], place: ObjectStore) -> None:
    for_people = commands.run("list")
    assert for_people.exit_code == 0, for_people.errors
    for text in ("acme-charts", "2.0", "Python 3.11, glibc 2.35, x86_64"):
        assert text in for_people.output
    documents = commands.run("list", "--json").document
    assert [each["version"] for each in documents] == ["2.0", "1.0"]
    assert documents[0]["uri"] == place.uri(bundle_folder(published[0]))
    assert documents[0]["sizeBytes"] == published[0].size_bytes
    assert documents[1]["uploadedBytes"] == published[1].package.size_bytes
    assert len(documents[0]["visualizations"]) == 2


def test_list_shows_the_sound_ones_beside_a_broken_one(
    commands: Deployment, published: list[Bundle], place: ObjectStore
) -> None:
    place.put_bytes(f"{bundle_folder(published[0])}/bundle.json", b"{}")
    done = commands.run("list", "--json")
    assert (done.exit_code, [each["version"] for each in done.document]) == (1, ["1.0"])
    assert f"{bundle_folder(published[0])}/bundle.json" in done.errors


@pytest.mark.usefixtures("published")
def test_pull_leaves_a_folder_or_one_file(commands: Deployment, tmp_path: Path) -> None:
    done = commands.run("pull", "acme-charts==1.0", str(tmp_path / "out"))
    assert done.exit_code == 0, done.errors
    assert "pip install --no-index" in done.output
    assert json.loads((tmp_path / "out" / "bundle.json").read_text())["version"] == "1.0"
    [archive] = commands.run("pull", "acme-charts", str(tmp_path / "zip"), "--zip", "--json").document["files"]
    with zipfile.ZipFile(archive) as packed:
        assert {"bundle.json", "pylock.toml", "sbom.cdx.json"} <= set(packed.namelist())
    missing = commands.run("pull", "acme-charts==9.9", str(tmp_path / "none"))
    assert (missing.exit_code, "not published" in missing.errors) == (1, True)


def test_verify_names_every_object_that_was_changed_and_so_does_pull(
    commands: Deployment, published: list[Bundle], place: ObjectStore, tmp_path: Path
) -> None:
    done = commands.run("verify", "--all")
    assert (done.exit_code, "everything is as it was published" in done.output) == (0, True)
    folder = bundle_folder(published[0])
    changed = [
        stored_wheel(published[0].wheels[1]),
        f"{folder}/sbom.cdx.json",
        f"{folder}/images/acme_charts/pie.30.png",
    ]
    for path in changed:
        _change(place, path)
    for arguments in (["--all"], ["acme-charts"], ["acme-charts==2.0"]):
        report = commands.run("verify", *arguments, "--json")
        assert report.exit_code == 1
        assert {each["object"] for each in report.document["issues"]} == set(changed)
    for_people = commands.run("verify", "acme-charts")
    assert [line.split(":")[0] for line in for_people.output.splitlines()[:-1]] == sorted(changed)
    pulled = commands.run("pull", "acme-charts==2.0", str(tmp_path / "out"))
    assert pulled.exit_code == 1
    assert any(path in pulled.errors for path in changed)


def test_verify_wants_to_know_what(commands: Deployment) -> None:
    for arguments in ([], ["acme-charts", "--all"]):
        done = commands.run("verify", *arguments)
        assert (done.exit_code, "--all" in done.errors) == (2, True)


@pytest.mark.parametrize(
    "command",
    [["list"], ["pull", "acme-charts", "out"], ["verify", "--all"], ["verify", "x"], ["rebuild"], ["collect"]],
)
def test_a_store_that_is_not_there_is_said_to_be_missing_and_not_made(commands: Deployment, command: list[str]) -> None:
    done = commands.run(*command)
    assert done.exit_code == 69
    assert f"there is no folder {commands.directory / 'store'}; is" in done.errors
    assert not (commands.directory / "store").exists()


def test_an_empty_store_is_said_to_be_empty(commands: Deployment) -> None:
    (commands.directory / "store").mkdir()
    assert "nothing is published in file://" in commands.run("list").output
    assert commands.run("list", "--json").document == []
    done = commands.run("verify", "acme-charts")
    assert (done.exit_code, "nothing at all is, in file://" in done.errors) == (1, True)


def test_rebuild_makes_the_catalogue_from_the_store_alone(
    commands: Deployment, published: list[Bundle], place: ObjectStore, redis: Redis
) -> None:
    redis.hset("vizfetch:catalog", "gone/1.0/x", "{}")
    done = commands.run("rebuild", "--json")
    assert (done.exit_code, done.document) == (0, {"bundles": 2, "broken": []})
    entries = Catalog(redis).entries()
    assert [(each.name, each.version, each.id) for each in entries] == [
        (each.name, each.version, each.id) for each in reversed(published)
    ]
    assert entries[1].created_at == published[0].created_at
    assert entries[1].uri == place.uri(bundle_folder(published[0]))
    _change(place, f"{bundle_folder(published[1])}/bundle.json")
    again = commands.run("rebuild")
    assert (again.exit_code, "1 bundle in" in again.output) == (1, True)
    assert f"{bundle_folder(published[1])}/bundle.json" in again.errors


def test_collect_removes_by_rule_and_forgets_what_it_removed(
    commands: Deployment, published: list[Bundle], place: ObjectStore, redis: Redis
) -> None:
    commands.run("rebuild")
    planned = commands.run("collect", "--keep", "1", "--dry-run", "--json").document
    assert (planned["dryRun"], [each["version"] for each in planned["bundles"]]) == (True, ["1.0"])
    assert len(Catalog(redis).entries()) == 2
    assert "0 bundles" in commands.run("collect", "--older-than", "90d").output
    done = commands.run("collect", "--keep", "1", "--json")
    assert (done.exit_code, {**done.document, "dryRun": True}) == (0, planned)
    assert [each.version for each in Catalog(redis).entries()] == ["2.0"]
    assert stored_wheel(published[1].package) not in set(place.paths("wheels"))
    assert commands.run("verify", "--all").exit_code == 0


@pytest.mark.usefixtures("published")
def test_collect_does_without_redis_and_says_what_to_do(commands: Deployment) -> None:
    alone = Deployment(
        {**commands.variables, "MODERNE_AGENT_VISUALIZATION_REDIS_URL": "redis://127.0.0.1:1/0"}, commands.directory
    )
    done = alone.run("collect", "--keep", "1")
    assert (done.exit_code, "vizfetch rebuild" in done.errors) == (0, True)
    assert "1 bundle and" in done.output
    assert alone.run("rebuild").exit_code == 69


def test_times_that_cannot_be_understood_are_refused(commands: Deployment) -> None:
    for option in ("--older-than", "--grace"):
        done = commands.run("collect", option, "90")
        assert (done.exit_code, "needs a unit" in done.errors.replace("\n", " ")) == (2, True)
    assert commands.run("collect", "--keep", "0").exit_code == 2


@pytest.mark.parametrize("command", ["list", "pull", "verify", "rebuild", "collect"])
def test_every_command_says_what_it_is_for(commands: Deployment, command: str) -> None:
    done = commands.run(command, "--help")
    assert done.exit_code == 0
    assert "--json" in done.output
