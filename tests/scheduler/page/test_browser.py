"""The pages in a real Chromium, of a real scheduler with a real worker and a real index."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Locator, Page, StorageState, expect

from config.settings import RedisSettings, Target
from jobs.connection import connect
from jobs.models import JobSpec
from jobs.store import StatusStore
from tests.integration.packages import PASSWORD, USERNAME, offer_packages
from tests.integration.services import READY
from tests.scheduler.api.service import TOKEN, Api, deployment_for, serving
from tests.support.browser import chromium
from tests.support.index_server import Basic, IndexServer
from tests.support.wheels import build_wheel

PATIENCE_MS = 30_000
"""Far longer than anything takes: what is waited for is waited for itself."""
SCHEMES = ("light", "dark")
_TIGHT = {"width": 390, "height": 844}


@dataclass(frozen=True)
class Stage:
    """Everything that runs."""

    api: Api
    index: IndexServer
    made: Path


@pytest.fixture(scope="module")
def stage(redis_settings: RedisSettings, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    made = tmp_path_factory.mktemp("made")
    with IndexServer(auth=Basic(USERNAME, PASSWORD)) as index:
        offer_packages(index, made)
        more = {
            "MODERNE_AGENT_VISUALIZATION_USEONLYCONFIGURED": "true",
            "MODERNE_AGENT_VISUALIZATION_CACHE_DIRECTORY": str(place / "cache"),
            "MODERNE_AGENT_VISUALIZATION_CACHE_PAGETTL": "0s",
            "MODERNE_AGENT_VISUALIZATION_TEMPORARYDIRECTORY": str(place),
            "MODERNE_AGENT_VISUALIZATION_MINFREESPACE": "1MiB",
            "MODERNE_AGENT_PYPI_0_URL": index.url,
            "MODERNE_AGENT_PYPI_0_USERNAME": USERNAME,
            "MODERNE_AGENT_PYPI_0_PASSWORD": PASSWORD,
        }
        deployment = deployment_for(redis_settings, place, TOKEN, **more)
        with (
            serving(deployment, token=TOKEN) as api,
            deployment.service("worker", MODERNE_AGENT_VISUALIZATION_API_PORT="0") as worker,
        ):
            worker.wait_for(READY)
            yield Stage(api, index, made)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    # Not for the whole session: while it runs, its loop is the one of this thread, and other tests run loops of theirs.
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def known(browser: Browser, stage: Stage) -> StorageState:
    """What a browser keeps of having logged in."""
    with complaining(browser) as context:
        log_in(context.new_page(), stage.api.url, TOKEN)
        return context.storage_state()


@pytest.fixture
def page(browser: Browser, stage: Stage, known: StorageState) -> Iterator[Page]:
    """The first page for somebody who has logged in; whatever a page complains of fails the test."""
    with complaining(browser, storage_state=known) as context:
        page = context.new_page()
        page.goto(stage.api.url)
        yield page


class complaining:  # noqa: N801 - reads as a word
    """A browser context that fails where a page breaks its own policy or has an error."""

    def __init__(self, browser: Browser, **options: object) -> None:
        self._context = browser.new_context(reduced_motion="reduce", **options)  # type: ignore[arg-type]
        self._said: list[str] = []

    def __enter__(self) -> BrowserContext:
        self._context.set_default_timeout(PATIENCE_MS)
        self._context.on("weberror", lambda error: self._said.append(str(error.error)))
        self._context.on("console", lambda line: self._said.append(line.text) if line.type == "error" else None)
        return self._context

    def __exit__(self, kind: object, *_: object) -> None:
        self._context.close()
        # The browser says of every answer that is no success that it is none; those are asked for below.
        said = [line for line in self._said if "Failed to load resource" not in line]
        assert kind is not None or said == []


def log_in(page: Page, url: str, token: str) -> None:
    page.goto(f"{url}/")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def submit(page: Page, *requirements: str) -> None:
    """Submit a batch on the page, and be led to it."""
    page.get_by_role("link", name="Overview").first.click()
    page.get_by_role("button", name="New batch").click()
    page.get_by_label("Packages, one on each line").fill("\n".join(requirements))
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/batches/b-*")


def row(page: Page, requirement: str) -> Locator:
    return page.locator("tbody tr").filter(has_text=requirement)


expect.set_options(timeout=PATIENCE_MS)


def test_logging_in_and_being_refused(browser: Browser, stage: Stage) -> None:
    with complaining(browser) as context:
        page = context.new_page()
        page.goto(f"{stage.api.url}/catalogue?q=bars")
        expect(page.get_by_label("Token")).to_be_focused()
        page.get_by_label("Token").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("not the token that the scheduler was given")
        page.get_by_label("Token").fill(TOKEN)
        with page.expect_request(lambda each: each.method == "POST") as sent:
            page.keyboard.press("Enter")
        assert sent.value.all_headers()["origin"] == stage.api.url  # by which we know of TLS in front
        expect(page.get_by_role("heading", name="Catalogue")).to_be_visible()
        assert page.url.endswith("/catalogue?q=bars")
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        assert TOKEN not in cookie["value"]
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        page.goto(f"{stage.api.url}/")
        expect(page.get_by_label("Token")).to_be_visible()


def test_a_batch_is_submitted_and_moves_by_itself_to_its_end(page: Page) -> None:
    submit(page, "acme-charts==1.2", "acme-maps", "acme-nothing-of-that-name")
    page.evaluate("window.stayed = true")
    expect(page.get_by_role("img", name="2 published, 1 failed").first).to_be_visible()
    expect(row(page, "acme-charts==1.2")).to_contain_text("Published")
    expect(row(page, "acme-charts==1.2")).to_contain_text("2 visualizations")
    expect(page.get_by_label("Why jobs failed")).to_contain_text("No index has the package acme-nothing-of-that-name")
    assert page.evaluate("window.stayed"), "the page was loaded anew"
    batch = urlsplit(page.url).path.rpartition("/")[2]
    page.get_by_role("link", name="Overview").first.click()
    expect(page.locator(f"#row-{batch}")).to_contain_text("1 failed")
    expect(page.get_by_label("Agents")).to_contain_text("Heartbeat")
    expect(page.get_by_label("Indexes")).to_contain_text("Well")


def test_a_failure_is_read_and_tried_again(page: Page, stage: Stage) -> None:
    submit(page, "acme-late", "acme-later")
    expect(page.get_by_role("button", name="Retry all 2 failed")).to_be_visible()
    row(page, "acme-later").get_by_role("link").click()
    sheet = page.get_by_role("dialog", name="Job")
    expect(sheet).to_contain_text("No index has the package acme-later")
    expect(sheet).to_contain_text("Looking in indexes")
    sheet.get_by_role("button", name="Close").click()

    for name in ("acme-late", "acme-later"):
        wheel = build_wheel(stage.made, name, "1.0", visualizations=["bars"])
        stage.index.add(wheel.name, wheel)
    page.get_by_label("Choose acme-later").check()
    expect(page.get_by_text("1 chosen")).to_be_visible()
    page.locator(".chosen").get_by_role("button", name="Retry").click()
    expect(page.locator("#toasts")).to_contain_text("1 job queued again")
    expect(row(page, "acme-later")).to_contain_text("Published")
    expect(row(page, "acme-late").first).to_contain_text("Failed")
    page.get_by_role("button", name="Retry all 1 failed").click()
    expect(page.get_by_role("img", name="2 published").first).to_be_visible()
    expect(page.get_by_role("button", name="Retry all")).to_have_count(0)


def test_what_is_running_is_cancelled_only_when_that_is_meant(page: Page, stage: Stage) -> None:
    stage.api.post("/batches", {"entries": [{"package": "acme-charts", "target": {"python": "3.12"}}]})
    page.get_by_role("link", name="Overview").first.click()
    page.locator(".batches a").first.click()
    expect(page.locator(".trouble-line")).to_contain_text("3.12")
    page.get_by_role("button", name="Cancel the rest").click()
    page.get_by_role("button", name="Leave it").click()
    expect(row(page, "acme-charts")).to_contain_text("Queued")
    page.get_by_role("button", name="Cancel the rest").click()
    page.get_by_role("button", name="Yes").click()
    expect(row(page, "acme-charts")).to_contain_text("Cancelled")


def test_a_mistake_in_a_batch_is_told_beside_what_was_written(page: Page) -> None:
    page.get_by_role("button", name="New batch").click()
    page.get_by_label("Packages, one on each line").fill("acme-charts\nhttps://evil.example/x.whl")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_role("alert")).to_contain_text("requirements line 2")
    expect(page.get_by_label("Packages, one on each line")).to_have_value("acme-charts\nhttps://evil.example/x.whl")


def test_a_visualization_is_found_while_typing(page: Page, stage: Stage) -> None:
    batch = stage.api.post("/batches", {"entries": ["acme-charts==1.2", "acme-maps"]})["id"]
    page.goto(f"{stage.api.url}/batches/{batch}")
    expect(page.get_by_role("img", name="2 published").first).to_be_visible()
    page.get_by_role("link", name="Catalogue").click()
    expect(page.get_by_role("heading", name="World")).to_be_visible()
    page.keyboard.press("/")
    page.keyboard.type("lines")
    expect(page.get_by_role("heading", name="World")).to_have_count(0)
    expect(page.get_by_label("Find a visualization")).to_be_focused()
    assert page.url.endswith("?q=lines")
    picture = page.locator(".viz img")
    expect(picture).to_have_js_property("complete", value=True)
    assert picture.evaluate("each => each.naturalHeight") == 30
    page.get_by_role("link", name="Lines").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Lines")
    expect(page.get_by_text("vizfetch pull acme-charts==1.2 ./acme-charts")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Find a visualization")).to_have_value("lines")


def test_ten_thousand_jobs_are_looked_through_page_by_page(
    page: Page, stage: Stage, redis_settings: RedisSettings
) -> None:
    nobodys = Target.model_validate({"python": "3.13"})
    specs = [JobSpec(requirement=f"acme-many-{number:05}", target=nobodys) for number in range(10_000)]
    batch = "b-many"
    with closing(connect(redis_settings)) as redis:
        store = StatusStore(redis)
        for start in range(0, len(specs), 1000):
            store.enqueue(batch, specs[start : start + 1000])
        store.cancel(store.members(batch))  # they are there to be looked at: nobody is to work on them
    page.goto(f"{stage.api.url}/batches/{batch}")
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_role("link", name="Next").click()
    expect(row(page, "acme-many-00050")).to_be_visible()
    page.get_by_role("link", name="Back").click()
    expect(row(page, "acme-many-00000")).to_be_visible()
    page.get_by_label("Find a package").fill("many-0777")
    expect(page.locator("tbody tr")).to_have_count(10)
    expect(page.locator("tbody tr").last).to_contain_text("acme-many-07779")


def test_what_was_known_stays_while_nobody_answers(page: Page) -> None:
    line = page.locator("#connection")
    page.context.set_offline(True)
    expect(line).to_contain_text("The scheduler does not answer. What is shown here is from")
    expect(page.get_by_label("Agents")).to_contain_text("Heartbeat")
    page.context.set_offline(False)
    expect(line).to_be_empty()


def test_colours_can_be_chosen_and_stay(page: Page) -> None:
    button = page.get_by_role("button", name="Colours")
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    button.click()
    button.click()
    expect(button).to_have_accessible_name("Colours: dark")
    dark = page.evaluate(back)
    assert dark != light
    page.reload()
    assert page.evaluate(back) == dark


def test_axe_finds_nothing_serious_in_both_colour_schemes(browser: Browser, stage: Stage) -> None:
    batch = stage.api.post("/batches", {"entries": ["acme-charts==1.2", "acme-maps", "acme-absent"]})["id"]
    with complaining(browser) as context:
        page = context.new_page()
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(f"{stage.api.url}/login")
            assert serious(page) == []
        log_in(page, stage.api.url, TOKEN)
        page.goto(f"{stage.api.url}/batches/{batch}")
        expect(page.get_by_role("img", name="2 published, 1 failed").first).to_be_visible()
        job = page.locator("td.package a").last.get_attribute("href")
        page.goto(f"{stage.api.url}/catalogue")
        detail = page.locator(".viz a").first.get_attribute("href")
        for path in ("/", f"/batches/{batch}", "/catalogue", str(job), str(detail), "/batches/b-none"):
            page.goto(f"{stage.api.url}{path}")
            for scheme in SCHEMES:
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                assert serious(page) == [], (path, scheme)
        page.set_viewport_size(_TIGHT)  # type: ignore[arg-type]
        for path in ("/", f"/batches/{batch}", "/catalogue"):
            page.goto(f"{stage.api.url}{path}")
            assert serious(page) == [], path
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                f"{path} is wider than the screen"
            )


def serious(page: Page) -> list[str]:
    """Return what axe finds that keeps people out, with where it is."""
    found = Axe().run(page).response["violations"]
    return [
        f"{each['id']}: {node['html']}: {node.get('failureSummary', '')}"
        for each in found
        if each["impact"] in {"serious", "critical"}
        for node in each["nodes"]
    ]
