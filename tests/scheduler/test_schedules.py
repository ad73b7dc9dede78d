from pathlib import Path

import pytest
from redis import Redis

from config.settings import Settings
from jobs.models import Priority
from jobs.schedules import Added, Schedules
from jobs.store import StatusStore
from scheduler.manifest import InvalidManifest, asked_for
from scheduler.schedules import add_schedule, name_for, run_due

SETTINGS = Settings(nickname="control", require_specs=False)
MANIFEST = """\
version: 1
visualizations:
  - package: acme-charts
  - {package: acme_charts, priority: high}
  - package: acme-maps
refresh: 1h
"""


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("nightly.yml", "nightly"),
        ("/somewhere/Team A (new).yaml", "Team-A-new-"),
        (".hidden.yml", "hidden"),
        ("äö.yml", "manifest"),
        (f"{'x' * 100}.yml", "x" * 64),
    ],
)
def test_a_schedule_is_named_after_its_file(file: str, name: str) -> None:
    assert name_for(Path(file)) == name


def test_what_is_due_becomes_a_batch_as_if_it_had_been_submitted(redis: Redis, tmp_path: Path) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text(MANIFEST)
    schedules, store = Schedules(redis), StatusStore(redis)
    asked = asked_for(["acme-plain"], file)
    assert add_schedule(schedules, "charts", asked, SETTINGS, priority=Priority.LOW) is Added.ADDED
    for _ in range(2):
        run_due(schedules)
    (batch,) = store.batches()
    found = [order.spec for order in store.orders(store.members(batch.id)).values()]
    assert [(spec.requirement, spec.priority, spec.require_specs) for spec in found] == [
        ("acme-charts", Priority.HIGH, False),
        ("acme-maps", Priority.LOW, False),
    ]


@pytest.mark.parametrize("name", ["", "a b", "-x", "a/b", "x" * 65, "a\nb", "é"])
def test_a_name_that_would_be_trouble_is_refused(redis: Redis, tmp_path: Path, name: str) -> None:
    file = tmp_path / "manifest.yml"
    file.write_text(MANIFEST)
    with pytest.raises(InvalidManifest, match="no name of a schedule"):
        add_schedule(Schedules(redis), name, asked_for([], file), SETTINGS)
    assert Schedules(redis).all() == []


def test_what_has_no_interval_is_refused(redis: Redis) -> None:
    with pytest.raises(InvalidManifest, match="refresh"):
        add_schedule(Schedules(redis), "charts", asked_for(["acme-charts"]), SETTINGS)
