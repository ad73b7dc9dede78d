from config.settings import RetrySettings
from worker.attempt import backoff_seconds

RETRY = RetrySettings(max_attempts=5, min_backoff_seconds=2, max_backoff_seconds=30)


def test_the_pause_grows_with_every_failure_up_to_its_bound() -> None:
    for tries, longest in ((1, 4), (2, 8), (3, 16), (4, 30), (40, 30)):
        pauses = [backoff_seconds(RETRY, tries) for _ in range(200)]
        assert min(pauses) >= 2
        assert max(pauses) <= longest
        assert max(pauses) - min(pauses) > (longest - 2) / 2, "it must be spread, so that jobs do not return together"


def test_equal_bounds_give_that_pause() -> None:
    assert backoff_seconds(RetrySettings(min_backoff_seconds=3, max_backoff_seconds=3), 4) == 3
