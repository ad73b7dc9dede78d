import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import requests

from config.settings import RedisSettings
from jobs.models import Progress, PublishedBundle, Timings
from jobs.store import StatusStore
from scheduler.api.events import LISTENERS
from tests.scheduler.api.service import Api, deployment_for, problem, serving
from tests.support.command import eventually


def listen(api: Api, batch: str, **headers: str) -> requests.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.call("GET", f"/api/v1/batches/{batch}/events", headers=named, stream=True)


def events(answer: requests.Response) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif "data" in event:
            yield event
            event = {}


def test_progress_is_told_until_the_batch_is_finished(api: Api, store: StatusStore, batch: str) -> None:
    first, second, *rest = store.members(batch)
    store.cancel(rest)
    answer = listen(api, batch)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    told = events(answer)
    event = next(told)
    assert event["event"] == "progress"
    assert json.loads(event["data"]) == api.get(f"/batches/{batch}") | {"running": []}

    claimed = store.claim(first, 1, "agent-1", 60)
    assert claimed
    store.renew(claimed[0], 60, Progress(step="download", wheels=3, size_bytes=1000))
    running = json.loads(next(told)["data"])["running"]
    if running[0]["progress"] is None:  # between the two calls
        running = json.loads(next(told)["data"])["running"]
    (job,) = running
    assert (job["id"], job["worker"], job["progress"]["wheels"]) == (first, "agent-1", 3)

    bundle = PublishedBundle(
        id="0" * 32,
        name="acme",
        version="1",
        uri="file:///x",
        wheels=(),
        size_bytes=1,
        uploaded_bytes=1,
        visualizations=1,
    )
    store.finish_published(claimed[0], bundle, Timings())
    store.cancel([second])
    *_, last = told  # which ends
    assert last["event"] == "done"
    assert json.loads(last["data"])["counts"]["published"] == 1
    # Whoever comes again, as browsers do by themselves, is told to stay away, or what was missed.
    with listen(api, batch, Last_Event_ID=last["id"]) as nothing:
        assert nothing.status_code == 204
    (again,) = events(listen(api, batch, Last_Event_ID=event["id"]))
    assert (again["event"], again["id"], again["data"]) == ("done", last["id"], last["data"])


def test_whoever_comes_again_is_told_only_what_is_new(api: Api, store: StatusStore, batch: str) -> None:
    with listen(api, batch) as answer:
        known = next(events(answer))
    with listen(api, batch, Last_Event_ID=known["id"]) as answer:
        told = events(answer)
        store.cancel(store.members(batch)[:1])
        event = next(told)
    assert event["id"] != known["id"]
    assert json.loads(event["data"])["counts"]["cancelled"] == 1


def test_no_more_listen_than_may_and_seats_become_free(api: Api, batch: str) -> None:
    with ExitStack() as stack:
        for _ in range(LISTENERS):
            answer = stack.enter_context(listen(api, batch))
            assert answer.status_code == 200
        with listen(api, batch) as refused:
            problem(refused, 503, "too-many-listeners")
            assert int(refused.headers["Retry-After"]) > 0
        assert api.get(f"/batches/{batch}")["total"] == 25

    def free() -> bool:
        with listen(api, batch) as again:
            return again.status_code == 200

    eventually(free, 10)


def test_listeners_do_not_hold_up_the_end_of_the_service(
    redis_settings: RedisSettings, batch: str, tmp_path: Path
) -> None:
    with serving(deployment_for(redis_settings, tmp_path)) as api, listen(api, batch) as answer:
        told = events(answer)
        assert next(told)["event"] == "progress"
        begin = time.monotonic()
        assert api.scheduler.stop() == 0
        assert time.monotonic() - begin < 5
        assert list(told) == []
        assert "Traceback" not in api.scheduler.log.read_text()
