from datetime import UTC, datetime

import pytest

from cli.output import print_batch
from jobs.models import Batch, Job, JobState, PublishedBundle


def test_status_says_how_many_bytes_were_new(capsys: pytest.CaptureFixture[str]) -> None:
    bundle = PublishedBundle(
        id="x",
        name="acme-charts",
        version="1.0",
        uri="file:///x",
        wheels=("a.whl", "b.whl"),
        size_bytes=87_300_000,
        uploaded_bytes=1_200_000,
        visualizations=3,
    )
    job = Job(
        id="j",
        batch="b",
        requirement="acme-charts",
        state=JobState.PUBLISHED,
        attempt=1,
        max_attempts=5,
        bundle=bundle,
        updated_at=datetime.now(UTC),
    )
    print_batch(Batch(id="b", counts={JobState.PUBLISHED: 1}, jobs=(job,)))
    lines = capsys.readouterr().out.splitlines()
    [heads] = [line.split() for line in lines if "visualizations" in line]
    [row] = [line.split() for line in lines if "acme-charts" in line]
    assert heads[-3:] == ["size", "new", "visualizations"]
    assert row[-5:] == ["87.3", "MB", "1.2", "MB", "3"]
