"""The machine's own Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

_ARGUMENTS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-gpu",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run it without a window until the block is left."""
    path = shutil.which("chromium")
    assert path, "There is no chromium: `make test` installs it, or `apt-get install chromium`."
    # Debian's start script looks for settings and crash reports in the home directory.
    environment: dict[str, str | float | bool] = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/nonexistent"),
    }
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            # Chromium's sandbox needs a user other than root, which containers of CI do not have.
            executable_path=path,
            chromium_sandbox=False,
            args=_ARGUMENTS,
            env=environment,
        )
        try:
            yield browser
        finally:
            browser.close()
