"""A short form of ``make chaos``: a few jobs, a few kills, everything else the same."""

from pathlib import Path

import pytest

from tests.chaos.driver import Plan, run

SEED = 20261122


@pytest.mark.timeout(150)
def test_nothing_is_lost_published_twice_or_left_behind(tmp_path: Path) -> None:
    said: list[str] = []
    plan = Plan(
        SEED, jobs=10, kills=5, seconds=12, heal_seconds=60, batch=10, workers=2, lease_seconds=2, every_fault=False
    )
    figures = run(plan, tmp_path / "chaos", said.append)
    assert figures.wrong == [], "\n".join([*said, *figures.lines(plan.lease_seconds)])
    assert figures.jobs >= 10
    assert figures.kills > 0
    assert (figures.lost, figures.published_twice, figures.orphans) == (0, 0, 0)
