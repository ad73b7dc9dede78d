"""Looking again at the pages of an earlier task: what counts as unchanged, and what never does."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from config.settings import Target
from tests.support.index_server import Basic, IndexServer, Reset, Slow, Status
from tests.worker.gateway.conftest import (
    PURE,
    LocalGateway,
    MakeGateway,
    MakeIndex,
    index_settings,
    page,
    tiny_wheel,
)
from worker.gateway.errors import GatewayError
from worker.gateway.revalidation import RevalidationRequest, Seen
from worker.gateway.startup import Rules

WHEEL = tiny_wheel("demo", "1.0")
NEWER = "demo-2.0-py3-none-any.whl"


@pytest.fixture
def index(make_index: MakeIndex) -> IndexServer:
    server = make_index(etags=True)
    server.add(PURE, WHEEL)
    return server


def first_look(gateway: LocalGateway, *projects: str) -> Seen:
    """Return what a task that asks for these projects as pip does has seen."""
    with gateway.session() as session:
        for project in projects:
            page(session, project)
        return session.seen()


def look(gateway: LocalGateway, *projects: str, **more: Any) -> Seen:
    return gateway.client.look_again(RevalidationRequest(target=Target(), projects=projects, **more))


def test_a_page_that_has_not_changed_is_asked_for_conditionally(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    before = first_look(gateway, "demo")
    assert before.digest
    index.requests.clear()
    assert look(gateway, "demo") == before
    (request,) = index.requests
    assert "If-None-Match" in request.headers


def test_a_page_that_is_fresh_is_not_asked_for(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index))
    before = first_look(gateway, "demo", "none")
    index.requests.clear()
    assert look(gateway, "none", "demo") == before
    assert index.requests == []


def test_what_a_client_is_told_is_compared(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    before = first_look(gateway, "demo")
    index.add(PURE, WHEEL, url=f"{index.origin}/files/{PURE}?signed=1")
    assert look(gateway, "demo") == before, "the same file elsewhere is the same file"
    index.add("demo-1.0-cp311-cp311-macosx_11_0_arm64.whl", WHEEL)
    assert look(gateway, "demo") == before, "what the target cannot load decides nothing"
    changes: list[tuple[str, dict[str, Any]]] = [
        (PURE, {"yanked": "broken"}),
        (PURE, {"sha256": "0" * 64}),
        (PURE, {"requires_python": ">=3.11"}),
        (NEWER, {}),
    ]
    for filename, options in changes:
        before = look(gateway, "demo")
        index.add(filename, WHEEL, **options)
        assert look(gateway, "demo").digest not in {None, before.digest}


def test_a_project_that_appears_on_an_index_before_is_a_change(
    index: IndexServer, make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    ahead = make_index(etags=True)
    gateway = make_gateway(index_settings(ahead, 0), index_settings(index, 1), page_ttl_seconds=0)
    before = first_look(gateway, "demo", "none")
    assert before.digest
    assert look(gateway, "demo", "none") == before
    ahead.add(PURE, WHEEL)
    taken_over = look(gateway, "demo", "none")
    assert taken_over.digest not in {None, before.digest}, "also with the same files"
    assert look(gateway, "demo", "none", index="pypi[1]") == before
    index.add("none-1.0-py3-none-any.whl", WHEEL)
    assert look(gateway, "demo", "none").digest not in {None, before.digest, taken_over.digest}


@pytest.mark.parametrize("fault", [Status(503), Status(403), Reset()])
def test_an_index_that_fails_proves_nothing(
    fault: Status | Reset, index: IndexServer, make_gateway: MakeGateway
) -> None:
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    before = first_look(gateway, "demo", "none")
    index.misbehave("/simple/demo", fault)
    assert look(gateway, "demo", "none").digest is None
    index.behave()
    assert look(gateway, "demo", "none") == before


def test_files_without_a_hash_prove_nothing(index: IndexServer, make_gateway: MakeGateway) -> None:
    index.add(NEWER, WHEEL, sha256=None)
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    assert first_look(gateway, "demo").digest is None
    assert look(gateway, "demo").digest is None


def test_a_file_that_has_become_old_enough_is_a_change(index: IndexServer, make_gateway: MakeGateway) -> None:
    uploaded = datetime.now(UTC) - timedelta(hours=1)
    index.add(NEWER, WHEEL, upload_time=uploaded.isoformat().replace("+00:00", "Z"))

    def seen(age_seconds: float) -> Seen:
        gateway = make_gateway(
            index_settings(index), page_ttl_seconds=600, rules=Rules(min_package_age_seconds=age_seconds)
        )
        return first_look(gateway, "demo")

    too_young, old_enough = seen(7200), seen(1800)
    assert too_young.digest
    assert old_enough.digest
    assert too_young.digest != old_enough.digest


def test_other_credentials_that_are_shown_another_page_see_a_change(
    make_index: MakeIndex, make_gateway: MakeGateway
) -> None:
    def gateway_of(password: str, *wheels: str) -> LocalGateway:
        server = make_index(auth=Basic("ada", password), etags=True)
        for wheel in wheels:
            server.add(wheel, WHEEL)
        return make_gateway(index_settings(server, username="ada", password=password))

    one, other = gateway_of("planted-one", PURE), gateway_of("planted-two", PURE, NEWER)
    assert first_look(one, "demo").digest != look(other, "demo").digest
    assert first_look(one, "demo") == look(gateway_of("planted-two", PURE), "demo")


def test_pages_are_looked_at_several_at_once(index: IndexServer, make_gateway: MakeGateway) -> None:
    names = [f"p{number}" for number in range(16)]
    for name in names:
        index.add(f"{name}-1.0-py3-none-any.whl", WHEEL)
    gateway = make_gateway(index_settings(index), page_ttl_seconds=0)
    before = first_look(gateway, *names)
    index.misbehave("/simple/", Slow(0.2))
    begin = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        assert set(pool.map(lambda _: look(gateway, *names), range(3))) == {before}
    assert time.monotonic() - begin < 16 * 0.2, "one after the other it would take longer"


def test_an_index_that_is_not_there_is_refused(index: IndexServer, make_gateway: MakeGateway) -> None:
    gateway = make_gateway(index_settings(index))
    with pytest.raises(GatewayError, match=r"no index is called pypi\[7\]"):
        look(gateway, "demo", index="pypi[7]")
