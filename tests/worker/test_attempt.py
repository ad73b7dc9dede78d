from typing import Any, cast

from redis import Redis

from config.settings import RetrySettings, Target
from config.sources import load
from jobs.models import Claim, FetchMessage, JobSpec, JobState
from jobs.store import StatusStore, StatusUnavailable
from worker.attempt import Lines, backoff_seconds, run_attempt, spread
from worker.fetch import Agent

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


class Forgetful(StatusStore):
    """Its first answer to a claim is lost on the way, after the claim was made."""

    lost = False

    def claim(
        self, job: str, attempt: int, worker: str, lease_seconds: float, *, claimant: str | None = None
    ) -> tuple[Claim, float] | None:
        found = super().claim(job, attempt, worker, lease_seconds, claimant=claimant)
        if not self.lost:
            self.lost = True
            raise StatusUnavailable
        return found


def test_a_claim_whose_answer_was_lost_costs_no_try(redis: Redis) -> None:
    store = Forgetful(redis)
    # For another agent, so that this one gives it back at once.
    spec = JobSpec(requirement="acme", target=Target(), index="pypi[7]")
    store.enqueue("b-1", [spec])
    job = spec.id("b-1")
    nothing = cast("Any", None)
    agent = Agent(load([], {}), nothing, nothing, nothing)
    run_attempt(FetchMessage(job=job, attempt=1), agent, Lines(store, nothing, nothing), stopping=lambda: False)
    assert (store.job(job).state, store.unfinished()) == (JobState.QUEUED, (1, 0))
    again = store.claim(job, 2, "agent", 30)
    assert again
    assert again[0].tries == 1
