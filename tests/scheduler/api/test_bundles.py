import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from bundles.layout import bundle_folder, stored_wheel
from bundles.models import Bundle
from bundles.publish import publish
from bundles.store import ObjectStore, open_store
from config.settings import RedisSettings, StorageSettings
from jobs.catalog import Catalog, catalog_entry
from tests.bundles.factory import charts
from tests.scheduler.api.service import Api, deployment_for, problem, serving

VERSIONS = ("2.0", "10.0", "1.0")


@pytest.fixture
def place(tmp_path: Path) -> ObjectStore:
    return open_store(StorageSettings(uri=(tmp_path / "store").as_uri()))


@pytest.fixture
def published(place: ObjectStore, tmp_path: Path, redis: Redis) -> dict[str, Bundle]:
    """Three versions of one package, in the store and in the catalogue."""
    made = {}
    for version in VERSIONS:
        folder = tmp_path / f"made-{version}"
        made[version] = publish(place, charts(folder, version=version), folder).bundle
    entries = (catalog_entry(bundle, place.uri(bundle_folder(bundle))) for bundle in made.values())
    Catalog(redis).replace(frozenset(), entries)
    return made


@pytest.fixture
def shop(redis_settings: RedisSettings, tmp_path: Path) -> Iterator[Api]:
    with serving(deployment_for(redis_settings, tmp_path)) as api:
        yield api


def test_what_is_published_can_be_listed_and_every_file_of_it_read(
    shop: Api, published: dict[str, Bundle], place: ObjectStore
) -> None:
    page = shop.get("/bundles", params={"limit": 2})
    assert [each["version"] for each in page["bundles"]] == ["10.0", "2.0"]
    page = shop.get("/bundles", params={"limit": 2, "cursor": page["next"]})
    assert ([each["version"] for each in page["bundles"]], page["next"]) == (["1.0"], None)
    assert shop.get("/bundles", params={"name": "Acme_Cha"})["bundles"][2] == page["bundles"][0]
    assert shop.get("/bundles", params={"name": "maps"})["bundles"] == []

    bundle = published["1.0"]
    detail = shop.call("GET", page["bundles"][0]["href"]).json()
    assert detail["bundle"] == bundle.model_dump(mode="json")
    assert detail["uri"] == place.uri(bundle_folder(bundle))
    assert len(detail["files"]) == len(bundle.wheels) + len(bundle.files)
    for link in detail["files"]:
        answer = shop.call("GET", link["href"])
        assert answer.status_code == 200, link
        assert hashlib.sha256(answer.content).hexdigest() == link["sha256"]
        assert int(answer.headers["Content-Length"]) == link["sizeBytes"] == len(answer.content)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "sandbox" in answer.headers["Content-Security-Policy"]
        if link["path"].endswith(".png"):
            assert answer.headers["Content-Type"] == "image/png"
            assert "Content-Disposition" not in answer.headers
            assert "private" in answer.headers["Cache-Control"]
        else:
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert "html" not in answer.headers["Content-Type"]
    assert any(link["path"].endswith(".png") for link in detail["files"])
    manifest = shop.call("GET", f"{page['bundles'][0]['href']}/files/bundle.json")
    assert json.loads(manifest.content)["id"] == bundle.id


def test_nothing_but_a_bundle_s_own_files_can_be_read(shop: Api, published: dict[str, Bundle], tmp_path: Path) -> None:
    bundle = published["1.0"]
    (tmp_path / "store" / "secret.txt").write_text("not for everybody")
    (tmp_path / "store" / bundle_folder(bundle) / "stray.png").write_text("not of the bundle")
    own = f"/api/v1/bundles/{bundle.name}/{bundle.version}/{bundle.id}"
    for path in (
        "../../../../secret.txt",
        "%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "stray.png",
        "/etc/passwd",
        "",
        "%00",
    ):
        answer = shop.call("GET", f"{own}/files/{path}")
        assert answer.status_code in {404, 422}, path
        assert b"not for" not in answer.content
    for other in (f"/api/v1/bundles/{bundle.name}/1.1/{bundle.id}", f"{own[:-32]}{'0' * 32}"):
        problem(shop.call("GET", other), 404, "not-published")
    problem(shop.call("GET", f"/api/v1/bundles/{bundle.name}/../{bundle.id}"), 404, "not-found")


def test_a_file_that_the_store_lost_is_not_found_and_a_broken_bundle_is_said(
    shop: Api, published: dict[str, Bundle], tmp_path: Path
) -> None:
    bundle = published["1.0"]
    own = f"/api/v1/bundles/{bundle.name}/{bundle.version}/{bundle.id}"
    wheel = bundle.wheels[0]
    (tmp_path / "store" / stored_wheel(wheel)).unlink()
    problem(shop.call("GET", f"{own}/files/wheels/{wheel.filename}"), 404, "not-published")
    other = published["2.0"]
    manifest = tmp_path / "store" / bundle_folder(other) / "bundle.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"2.0", b"2.1"))
    told = problem(shop.call("GET", f"/api/v1/bundles/{other.name}/{other.version}/{other.id}"), 500, "broken-bundle")
    assert "vizfetch verify" in told["detail"]


def test_a_store_that_cannot_be_reached_holds_up_only_what_needs_it(
    redis: Redis, redis_settings: RedisSettings, tmp_path: Path
) -> None:
    assert redis.ping()
    (tmp_path / "file").write_text("in the way of the folder")
    away = {"MODERNE_AGENT_VISUALIZATION_STORAGE_URI": (tmp_path / "file" / "store").as_uri()}
    with serving(deployment_for(redis_settings, tmp_path, **away)) as api:
        answer = api.call("GET", f"/api/v1/bundles/acme-charts/1.0/{'0' * 32}")
        told = problem(answer, 503, "store-unavailable")
        assert answer.headers["Retry-After"]
        assert str(tmp_path) not in told["detail"]
        assert api.post("/batches", {"entries": ["acme"]})["total"] == 1
