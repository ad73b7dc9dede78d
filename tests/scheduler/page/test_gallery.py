import asyncio
import threading
from typing import cast

import pytest

from bundles.catalog import Entry
from bundles.errors import NotPublished
from bundles.models import Bundle
from jobs.catalog import Catalog
from jobs.models import CatalogEntry
from scheduler.api.shelf import Shelf
from scheduler.page import gallery
from tests.scheduler.entries import catalog_entry


class Published:
    def entries(self) -> list[CatalogEntry]:
        made = catalog_entry()
        return [made.model_copy(update={"name": f"acme-{number:02}"}) for number in range(20)]


class Slow:
    """A store that answers when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked: list[str] = []

    def bundle(self, entry: Entry) -> Bundle:
        self.asked.append(entry.name)
        self.go.wait(30)
        raise NotPublished(entry.name, entry.version)


def test_what_waits_to_be_read_is_dropped_when_serving_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "_PATIENCE_SECONDS", 0.0)
    slow = Slow()
    made = gallery.Gallery(cast("Catalog", Published()), cast("Shelf", slow))
    assert asyncio.run(made.search()).unread == 20
    made.close()
    slow.go.set()
    for thread in [each for each in threading.enumerate() if each.name.startswith("gallery")]:
        thread.join(30)
    assert len(slow.asked) <= 8
