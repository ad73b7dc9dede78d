"""Take pictures of the page with real data, for the documents.

    PYTHONPATH=. python -m bench.screenshots docs/images

Starts a Valkey, a scheduler and two workers, fetches real packages from the public index, some of which must fail, and
takes pictures of the three pages, light and dark, and as narrow as a telephone. Needs the network, Chromium, and some
minutes.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from PIL import Image
from playwright.sync_api import Browser, Page

from bench.mirror import mirror
from tests.support.browser import chromium
from tests.support.command import Deployment, free_port
from tests.support.valkey import valkey

_PREFIX = "MODERNE_AGENT_VISUALIZATION_"
_PACKAGE = "moderne-visualizations-misc"
_VERSIONS = ("2.2.0", "2.1.0", "2.0.0", "1.9.0")
_WRONG = (
    f"{_PACKAGE}==99.0",
    "moderne-visualizations-internal-charts",
    "pandas==2.2.3",
    "pandas>=3,<2",
    "torch==1.4.0",
)
_LIBRARIES = Path(__file__).with_name("libraries.txt")
_WIDE, _NARROW = (1360, 880), (390, 844)
_ON_ITS_WAY = 6
_START_WITHIN_SECONDS = 300


@dataclass(frozen=True)
class Site:
    """The scheduler whose pages are shown."""

    url: str

    def call(self, method: str, path: str, content: object = None) -> dict[str, object]:
        """Ask the API."""
        with requests.Session() as session:
            session.trust_env = False  # it is on this machine, whatever proxy that has
            answer = session.request(method, f"{self.url}/api/v1{path}", json=content, timeout=30)
        answer.raise_for_status()
        found: dict[str, object] = answer.json()
        return found

    def submit(self, requirements: Sequence[str], **more: object) -> str:
        """Submit a batch and return its id."""
        entries = [{"package": each, **more} for each in requirements]
        return str(self.call("POST", "/batches", {"entries": entries})["id"])

    def finish(self, batch: str) -> None:
        """Wait until a batch has ended."""
        while not self.call("GET", f"/batches/{batch}")["finished"]:
            time.sleep(0.5)

    def get_going(self, batch: str) -> None:
        """Wait until a batch is well on its way, so that there is something to see."""
        while True:
            counts = self.call("GET", f"/batches/{batch}")["counts"]
            if isinstance(counts, dict) and counts["running"] > 1 and counts["published"] >= _ON_ITS_WAY:
                return
            time.sleep(0.1)


@contextmanager
def site(place: Path, kept: Path) -> Iterator[Site]:
    """Run everything until the block is left; what is fetched from the public index stays in ``kept``."""
    port = str(free_port())
    # The public index by way of a mirror, and one that is down, which is asked for what the first does not have.
    with mirror(kept, record=True) as public, valkey(place / "valkey") as redis:
        settings = {
            f"{_PREFIX}REDIS_URL": redis.url.get_secret_value(),
            f"{_PREFIX}STORAGE_URI": (place / "store").as_uri(),
            f"{_PREFIX}CACHE_DIRECTORY": str(place / "cache"),
            f"{_PREFIX}CONCURRENCY": "2",
            f"{_PREFIX}RETRY_MAXATTEMPTS": "1",
            f"{_PREFIX}USEONLYCONFIGURED": "true",
            "MODERNE_AGENT_PYPI_0_URL": public.url,
            "MODERNE_AGENT_PYPI_1_URL": f"http://127.0.0.1:{free_port()}/simple",
            "MODERNE_AGENT_PYPI_1_SKIPVALIDATECONNECTIVITY": "true",
            f"{_PREFIX}API_PORT": "0",
        }
        deployment = Deployment(settings, place)
        with (
            deployment.service("scheduler", **{f"{_PREFIX}API_PORT": port}) as scheduler,
            deployment.service("worker", MODERNE_AGENT_NICKNAME="build-07") as one,
            deployment.service("worker", MODERNE_AGENT_NICKNAME="build-12") as other,
        ):
            scheduler.wait_for("scheduler_started", _START_WITHIN_SECONDS)
            for worker in (one, other):
                worker.wait_for("ready.", _START_WITHIN_SECONDS)
            yield Site(f"http://127.0.0.1:{port}")


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--mirror", type=Path, help="where to keep what was fetched, for the next time")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="vizfetch-screenshots-") as name,
        site(Path(name), options.mirror or Path(name) / "mirror") as here,
    ):
        for version in reversed(_VERSIONS):
            here.finish(here.submit([f"{_PACKAGE}=={version}"]))
        libraries = [line for line in _LIBRARIES.read_text().splitlines() if line and not line.startswith("#")]
        mixed = here.submit([*(f"{_PACKAGE}=={version}" for version in _VERSIONS), *_WRONG])
        here.finish(mixed)
        here.get_going(here.submit(libraries, requireSpecs=False))
        with chromium() as browser:
            _take_all(browser, here, mixed, options.directory)
    return 0


def _take_all(browser: Browser, here: Site, batch: str, directory: Path) -> None:
    # The first while something is going on.
    for name, path in {"overview": "/", "batch": f"/batches/{batch}", "catalogue": "/catalogue"}.items():
        for kind, scheme, size in (("light", "light", _WIDE), ("dark", "dark", _WIDE), ("narrow", "light", _NARROW)):
            _take(browser, f"{here.url}{path}", directory / f"page-{name}-{kind}.png", scheme, size)
    found = f"{here.url}/catalogue?q=sankey"
    _take(browser, found, directory / "page-visualization-light.png", "light", _WIDE, follow=".viz a")


def _take(
    browser: Browser, url: str, file: Path, scheme: str, size: tuple[int, int], *, follow: str | None = None
) -> None:
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
        reduced_motion="reduce",
        device_scale_factor=1.5 if size == _NARROW else 1,
    )
    page = context.new_page()
    page.goto(url)
    if follow:
        page.locator(follow).first.click()
    _settle(page)
    page.screenshot(path=file)
    context.close()
    # Without transparency and packed as tightly as PNG can. A palette would be smaller, and show other colours.
    with Image.open(file) as picture:
        picture.convert("RGB").save(file, optimize=True)
    print(f"{file} {file.stat().st_size // 1000} kB", flush=True)


def _settle(page: Page) -> None:
    page.wait_for_load_state("load")
    page.evaluate("document.fonts.ready")
    page.wait_for_function("[...document.images].every((each) => each.loading === 'lazy' || each.complete)")


if __name__ == "__main__":
    sys.exit(main())
