from concurrent.futures import ThreadPoolExecutor

from redis import Redis

from jobs.store import StatusStore
from tests.scheduler.api.service import Api, problem

MANIFEST = """version: 1
visualizations:
  - package: acme-maps==2
    priority: high
    target: {python: "3.12"}
"""


def test_all_forms_together_become_one_batch(api: Api, store: StatusStore) -> None:
    asked = {
        "entries": ["Acme_Charts>=1", {"package": "acme-lines", "index": 0, "requireSpecs": False}],
        "requirements": "# ours\nacme-bars==1.0  # the old one\n",
        "manifest": MANIFEST,
        "priority": "low",
    }
    answer = api.call("POST", "/api/v1/batches", json=asked)
    assert answer.status_code == 201
    summary = answer.json()
    assert answer.headers["Location"] == f"/api/v1/batches/{summary['id']}"
    assert (summary["total"], summary["counts"]["queued"], summary["finished"]) == (4, 4, False)
    assert api.get(f"/batches/{summary['id']}") == summary
    jobs = store.batch(summary["id"]).jobs
    assert [job.requirement for job in jobs] == ["acme-charts>=1", "acme-lines", "acme-bars==1.0", "acme-maps==2"]
    specs = [order.spec for order in store.orders([job.id for job in jobs]).values()]
    assert [(spec.priority, spec.index, spec.target.python) for spec in specs] == [
        ("low", None, "3.11"),
        ("low", "pypi[0]", "3.11"),
        ("low", None, "3.11"),
        ("high", None, "3.12"),
    ]


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_queued(api: Api, store: StatusStore) -> None:
    asked = {
        "entries": ["acme-charts", "-r other.txt", {"package": "x @ https://files.example/x.whl"}],
        "requirements": "fine==1\n\nnot a requirement\n",
        "manifest": "version: 1\nvisualizations:\n  - package: ok\n    colour: blue\n",
    }
    told = problem(api.call("POST", "/api/v1/batches", json=asked), 422, "invalid-requirements")
    places = [text.split(": ")[0].split(" is ")[0].split(" names ")[0] for text in told["problems"]]
    assert places[:4] == ["entries[1]", "entries[2]", "requirements line 3", "manifest line 4"]
    assert store.batches() == []


def test_what_is_not_as_described_is_refused_with_its_place(api: Api) -> None:
    for asked, place in (
        ({"entries": [{"package": "a", "target": {"python": "2"}}]}, "body.entries.0"),
        ({"entries": "acme"}, "body.entries"),
        ({"packages": ["a"]}, "body.packages"),
        ({"entries": ["a"], "priority": "urgent"}, "body.priority"),
        ([], "body"),
    ):
        told = problem(api.call("POST", "/api/v1/batches", json=asked), 422, "invalid-request")
        assert any(text.startswith(place) for text in told["problems"]), told
    problem(api.call("POST", "/api/v1/batches", json={}), 422, "invalid-requirements")
    broken = api.call("POST", "/api/v1/batches", data="{", headers={"Content-Type": "application/json"})
    problem(broken, 400, "invalid-json")
    repeated = {"manifest": f"{MANIFEST}refresh: 1h\n"}
    assert (
        "schedule"
        in problem(api.call("POST", "/api/v1/batches", json=repeated), 422, "invalid-requirements")["problems"][0]
    )


def test_the_same_key_names_the_same_batch_also_when_asked_at_once(api: Api, store: StatusStore, redis: Redis) -> None:
    def submit(_: int) -> tuple[int, str]:
        answer = api.call("POST", "/api/v1/batches", json={"entries": ["acme"]}, headers={"Idempotency-Key": "k-1"})
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(submit, range(16)))
    assert len({batch for _, batch in answers}) == 1
    assert sorted(status for status, _ in answers) == [200] * 15 + [201]
    assert [batch.total for batch in store.batches()] == [1]
    other = api.call("POST", "/api/v1/batches", json={"entries": ["other"]}, headers={"Idempotency-Key": "k-1"})
    problem(other, 422, "idempotency-key-reused")
    (key,) = redis.keys("vizfetch:submission:*")
    assert 0 < redis.ttl(key) <= 24 * 3600


def test_a_submission_that_was_broken_off_is_completed_by_the_next(api: Api, redis: Redis) -> None:
    def submit() -> str:
        headers = {"Idempotency-Key": "k-2"}
        return str(api.call("POST", "/api/v1/batches", json={"entries": ["acme"]}, headers=headers).json()["id"])

    batch = submit()
    (key,) = redis.keys("vizfetch:submission:*")
    kept = redis.get(key)
    redis.flushall()
    redis.set(key, str(kept))
    assert submit() == batch
    assert api.get(f"/batches/{batch}")["total"] == 1


def test_schedules(api: Api) -> None:
    asked = {"manifest": f"{MANIFEST}refresh: 1h\n"}
    made = api.call("PUT", "/api/v1/schedules/nightly", json=asked)
    assert made.status_code == 201, made.text
    assert (made.json()["name"], made.json()["intervalSeconds"], made.json()["packages"]) == ("nightly", 3600, 1)
    assert api.call("PUT", "/api/v1/schedules/nightly", json=asked).status_code == 200
    assert [each["name"] for each in api.get("/schedules")["schedules"]] == ["nightly"]
    problem(api.call("PUT", "/api/v1/schedules/x", json={"manifest": MANIFEST}), 422, "invalid-requirements")
    assert api.call("DELETE", "/api/v1/schedules/nightly").status_code == 204
    problem(api.call("DELETE", "/api/v1/schedules/nightly"), 404, "unknown-schedule")
    assert api.get("/schedules") == {"schedules": []}
