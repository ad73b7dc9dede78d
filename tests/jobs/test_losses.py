from datetime import UTC, datetime, timedelta

from redis import Redis

from jobs.losses import Losses


def test_a_loss_is_noticed_by_each_once_and_its_time_is_kept(redis: Redis) -> None:
    one, other = Losses(redis, "vizfetch"), Losses(redis, "vizfetch")
    assert [one.noticed(), other.noticed(), one.noticed()] == [False, False, False]
    assert one.last() is None
    redis.flushall()
    assert [one.noticed(), other.noticed()] == [True, True]
    assert [one.noticed(), other.noticed()] == [False, False]
    at = Losses(redis, "vizfetch").last()
    assert at
    assert abs(datetime.now(UTC) - at) < timedelta(seconds=10)
    assert redis.ttl("vizfetch:lost") > 0


def test_deployments_lose_their_own_data(redis: Redis) -> None:
    one, other = Losses(redis, "one"), Losses(redis, "other")
    assert [one.noticed(), other.noticed()] == [False, False]
    redis.delete("one:epoch")
    assert [one.noticed(), other.noticed()] == [True, False]
