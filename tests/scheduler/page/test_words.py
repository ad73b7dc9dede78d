from datetime import UTC, datetime, timedelta

import pytest

from jobs.models import JobState, Timings
from scheduler.page import charts, words

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s ago"), (0.9, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago")],
)
def test_how_long_ago_is_said_in_its_largest_unit(seconds: float, said: str) -> None:
    assert words.ago(NOW - timedelta(seconds=seconds), NOW) == said


def test_times_are_as_exact_as_they_are_short() -> None:
    assert [words.seconds(each) for each in (0.123, 12.34, 75.9)] == ["0.12 s", "12.3 s", "1 min 15 s"]


def test_long_names_may_be_broken_and_stay_text() -> None:
    assert words.breakable("org.a<b>.FooBar") == "org.<wbr>a&lt;b&gt;.<wbr>Foo<wbr>Bar"


def test_numbers_come_with_their_nouns() -> None:
    assert [words.plural(each, "job") for each in (0, 1, 10_000)] == ["0 jobs", "1 job", "10,000 jobs"]
    assert words.plural(2, "index", "indexes") == "2 indexes"


def test_a_bar_is_filled_from_left_to_right_without_gaps() -> None:
    parts = charts.progress({JobState.PUBLISHED: 1, JobState.FAILED: 1, JobState.QUEUED: 2})
    assert [(part.name, part.start, part.width) for part in parts if part.width] == [
        ("published", 0, 250),
        ("failed", 250, 250),
        ("queued", 500, 500),
    ]
    assert [part.width for part in charts.progress({})] == [0] * 5


def test_attempts_are_drawn_to_the_same_scale() -> None:
    long, short = Timings(queued=1, download=3), Timings(download=2)
    scale = charts.longest_seconds([long, short])
    assert scale == 4
    assert sum(part.width for part in charts.steps(short, scale)) == 500
    assert charts.longest_seconds([]) == 0
