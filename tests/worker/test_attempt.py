from config.settings import RetrySettings
from worker.attempt import backoff_seconds, spread

RETRY = RetrySettings(max_attempts=5, min_backoff_seconds=2, max_backoff_seconds=30)


def test_the_pause_grows_with_every_failure_up_to_its_bound() -> None:
    for tries, longest in ((1, 4), (2, 8), (3, 16), (4, 30), (40, 30)):
        pauses = [backoff_seconds(RETRY, tries) for _ in range(200)]
        assert min(pauses) >= 2
        assert max(pauses) <= longest
        assert max(pauses) - min(pauses) > (longest - 2) / 2, "it must be spread, so that jobs do not return together"


def test_equal_bounds_give_that_pause() -> None:
    assert backoff_seconds(RetrySettings(min_backoff_seconds=3, max_backoff_seconds=3), 4) == 3


def test_those_who_were_told_to_wait_do_not_return_in_the_same_instant() -> None:
    returns = [spread(60) for _ in range(1000)]
    assert min(returns) >= 60
    assert max(returns) <= 90
    assert max(sum(second <= each < second + 1 for each in returns) for second in range(60, 90)) < 100
    assert spread(0) == 0
