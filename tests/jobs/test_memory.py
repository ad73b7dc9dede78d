import time

from redis import Redis

from jobs.memory import Memory
from jobs.models import PublishedBundle, Recollection

BUNDLE = PublishedBundle(
    id="x", name="a", version="1", uri="file:///b", wheels=(), size_bytes=0, uploaded_bytes=0, visualizations=0
)


def recollection(digest: str = "d") -> Recollection:
    return Recollection(projects=("a",), digest=digest, bundle=BUNDLE)


def test_what_was_remembered_last_is_recalled(redis: Redis) -> None:
    memory = Memory(redis)
    assert memory.recall("k") is None
    memory.remember("k", recollection("one"))
    memory.remember("k", recollection("two"))
    assert memory.recall("k") == recollection("two")
    assert Memory(redis, prefix="other").recall("k") is None


def test_what_was_of_no_use_for_long_is_forgotten(redis: Redis) -> None:
    memory = Memory(redis, kept_seconds=0.4)
    memory.remember("used", recollection())
    memory.remember("unused", recollection())
    for _ in range(4):
        time.sleep(0.15)
        assert memory.recall("used")
    assert memory.recall("unused") is None
    memory.remember("other", recollection())
    assert set(redis.zrange("vizfetch:memories", 0, -1)) == {"used", "other"}


def test_there_are_never_more_than_the_limit(redis: Redis) -> None:
    memory = Memory(redis, limit=3)
    for key in ("1", "2", "3"):
        memory.remember(key, recollection())
        time.sleep(0.002)
    assert memory.recall("1")
    time.sleep(0.002)
    memory.remember("4", recollection())
    assert [key for key in "1234" if memory.recall(key)] == ["1", "3", "4"]
    assert len(redis.keys("vizfetch:memory:*")) == 3


def test_a_document_of_another_version_is_as_good_as_none(redis: Redis) -> None:
    redis.set("vizfetch:memory:k", '{"version": 2, "something": "else"}')
    assert Memory(redis).recall("k") is None
