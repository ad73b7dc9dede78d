from typing import Any

import pytest

from config.settings import Target
from jobs.errors import ErrorKind
from jobs.models import JobError, JobSpec, JobState, Timings
from jobs.store import StatusStore
from scheduler.api.cursors import text_of
from tests.scheduler.api.service import Api, problem

NAMES = [f"acme-{number * 7 % 25:02}" for number in range(25)]


def fail(store: StatusStore, job: str, kind: ErrorKind, index: str | None) -> None:
    claimed = store.claim(job, 1, "agent-1", 60)
    assert claimed
    error = JobError(kind=kind, retryable=kind.retryable, index=index, message=f"{kind} happened")
    assert store.finish_failed(claimed[0], error, Timings(queued=0.1))


def all_pages(api: Api, path: str, name: str, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    page = api.get(path, params=query)
    while True:
        assert len(page[name]) <= query["limit"]
        found += page[name]
        if page["next"] is None:
            return found
        page = api.get(path, params=query | {"cursor": page["next"]})


def names(jobs: list[dict[str, Any]]) -> list[str]:
    return [job["requirement"] for job in jobs]


@pytest.mark.parametrize("limit", [1, 7, 25, 200])
@pytest.mark.parametrize("descending", [False, True])
def test_pages_hold_every_job_once_in_order(api: Api, batch: str, limit: int, descending: bool) -> None:  # noqa: FBT001
    path = f"/batches/{batch}/jobs"
    submitted = all_pages(api, path, "jobs", limit=limit, descending=descending)
    assert names(submitted) == (NAMES[::-1] if descending else NAMES)
    by_name = all_pages(api, path, "jobs", limit=limit, descending=descending, sort="requirement")
    assert names(by_name) == sorted(NAMES, reverse=descending)
    for sort in ("state", "updated"):
        found = all_pages(api, path, "jobs", limit=limit, descending=descending, sort=sort)
        assert sorted(names(found)) == sorted(NAMES)


def test_jobs_are_filtered(api: Api, store: StatusStore, batch: str) -> None:
    members = store.members(batch)
    for job in members[3:9]:
        fail(store, job, ErrorKind.NOT_FOUND, "pypi[0]")
    fail(store, members[20], ErrorKind.TLS, "pypi[1]")
    store.cancel([members[0]])
    path = f"/batches/{batch}/jobs"
    failed = all_pages(api, path, "jobs", limit=3, state="failed")
    assert names(failed) == [*NAMES[3:9], NAMES[20]]
    assert failed[0] == store.job(members[3]).as_document()
    assert names(all_pages(api, path, "jobs", limit=4, kind="not_found", descending=True)) == NAMES[3:9][::-1]
    assert names(all_pages(api, path, "jobs", limit=4, index="pypi[1]")) == [NAMES[20]]
    assert names(all_pages(api, path, "jobs", limit=4, text="ACME-1", sort="requirement")) == [
        f"acme-{number}" for number in range(10, 20)
    ]
    assert all_pages(api, path, "jobs", limit=4, state="published") == []
    newest = api.get(path, params={"sort": "updated", "descending": True, "limit": 1})["jobs"]
    assert newest[0]["state"] == "cancelled"
    states = [job["state"] for job in all_pages(api, path, "jobs", limit=6, sort="state")]
    assert states == sorted(states)


def test_failures_are_told_by_their_reasons(api: Api, store: StatusStore, batch: str) -> None:
    members = store.members(batch)
    fail(store, members[0], ErrorKind.READ_TIMEOUT, "pypi[0]")
    for job in members[1:4]:
        fail(store, job, ErrorKind.NOT_FOUND, None)
    told = api.get(f"/batches/{batch}/failures")
    assert told["batch"] == batch
    assert [(each["kind"], each["index"], each["worthRetry"], each["count"]) for each in told["failures"]] == [
        ("not_found", None, False, 3),
        ("read_timeout", "pypi[0]", True, 1),
    ]
    assert sorted(told["failures"][0]["jobs"]) == sorted(members[1:4])


def test_batches_come_newest_first_and_expired_ones_not_at_all(api: Api, store: StatusStore) -> None:
    made = [f"b-{number}" for number in range(23)]
    for each in made:
        store.enqueue(each, [JobSpec(requirement="acme", target=Target())])
    listed = [batch.id for batch in store.batches(100)]
    assert sorted(listed) == sorted(made)
    found = all_pages(api, "/batches", "batches", limit=5)
    assert [batch["id"] for batch in found] == listed
    assert found[0] == api.get(f"/batches/{listed[0]}")


def test_a_batch_that_expires_between_two_pages_loses_no_other(api: Api, store: StatusStore) -> None:
    for number in range(6):
        store.enqueue(f"b-{number}", [JobSpec(requirement="acme", target=Target())])
    listed = [batch.id for batch in store.batches()]
    first = api.get("/batches", params={"limit": 2})
    store._redis.delete(f"vizfetch:batch:{listed[2]}")  # noqa: SLF001 - what Redis does when history expires
    second = api.get("/batches", params={"limit": 2, "cursor": first["next"]})
    assert [batch["id"] for batch in second["batches"]] == [listed[3], listed[4]]


@pytest.mark.parametrize(
    "cursor",
    ["x", "!!", "W10", "WzEsMl0", "eyJhIjoxfQ", "WyJzdWJtaXR0ZWQiLCAtMSwgMF0", "WyJzdWJtaXR0ZWQiLCAxZTQwLCAwXQ", "é"],
)
def test_what_is_no_cursor_is_refused(api: Api, batch: str, cursor: str) -> None:
    for path in ("/batches", f"/batches/{batch}/jobs", "/bundles"):
        told = problem(api.call("GET", f"/api/v1{path}", params={"cursor": cursor}), 422, "invalid-cursor")
        assert told["detail"].startswith("The cursor is not one that a page before gave")


@pytest.mark.parametrize("sort", ["submitted", "requirement", "state", "updated"])
def test_a_made_up_place_costs_no_more_than_a_look_at_every_job(api: Api, batch: str, sort: str) -> None:
    for position in (24, 25, 10**14):
        cursor = text_of(sort, "~" if sort in {"requirement", "state"} else position, position)
        for descending in (False, True):
            query = {"sort": sort, "descending": descending, "cursor": cursor}
            found = api.get(f"/batches/{batch}/jobs", params=query, timeout=10)["jobs"]
            if sort == "submitted":
                assert names(found) == (NAMES[:position][::-1] if descending else [])


def test_the_longest_requirements_can_be_paged_through(api: Api) -> None:
    marker = "; python_implementation==''"  # longer in its normal form
    long = [f"{'a' * (997 - len(marker))}-{number}{marker}" for number in range(12, 16)]
    assert {len(each) for each in long} == {1000}
    batch = api.post("/batches", {"entries": long})["id"]
    path = f"/batches/{batch}/jobs"
    for descending in (False, True):
        found = all_pages(api, path, "jobs", limit=1, sort="requirement", descending=descending)
        kept = names(found)
        assert kept == sorted(kept, reverse=descending)
        assert len(set(kept)) == len(long)
    assert min(map(len, kept)) > 1000


def test_a_cursor_of_another_order_is_refused(api: Api, batch: str) -> None:
    path = f"/batches/{batch}/jobs"
    following = api.get(path, params={"limit": 2, "sort": "requirement"})["next"]
    problem(api.call("GET", f"/api/v1{path}", params={"cursor": following}), 422, "invalid-cursor")
    assert api.get(path, params={"cursor": following, "sort": "requirement"})["jobs"], "in its own order it is one"


def test_what_is_unknown_is_not_found(api: Api) -> None:
    for path in ("/batches/b-none", "/batches/b-none/jobs", "/batches/b-none/failures", "/batches/b-none/events"):
        problem(api.call("GET", f"/api/v1{path}"), 404, "unknown-job")
    problem(api.call("GET", f"/api/v1/jobs/j-{'0' * 20}"), 404, "unknown-job")
    problem(api.call("GET", "/api/v1/jobs/b-1"), 422, "invalid-request")
    problem(api.call("GET", "/api/v1/batches/b-1:jobs"), 422, "invalid-request")
    problem(api.call("GET", "/api/v1/batches", params={"limit": 201}), 422, "invalid-request")
    problem(api.call("GET", "/api/v2"), 404, "not-found")
    refused = api.call("DELETE", "/api/v1/batches")
    problem(refused, 405, "method-not-allowed")
    assert refused.headers["Allow"] == "GET, POST"


def test_a_batch_is_retried_and_cancelled_in_whole_or_in_part(api: Api, store: StatusStore, batch: str) -> None:
    members = store.members(batch)
    for job in members[:4]:
        fail(store, job, ErrorKind.READ_TIMEOUT, None)
    fail(store, members[4], ErrorKind.TLS, None)
    assert api.post(f"/batches/{batch}/retry", {"kinds": ["tls"]}) == {"batch": batch, "jobs": [members[4]]}
    assert api.post(f"/batches/{batch}/retry", {"jobs": members[:2]})["jobs"] == members[:2]
    assert api.post(f"/batches/{batch}/retry", {})["jobs"] == members[2:4]
    assert api.post(f"/batches/{batch}/retry", {})["jobs"] == []
    assert api.post(f"/batches/{batch}/cancel", {"jobs": [members[9]]})["jobs"] == [members[9]]
    assert api.post(f"/batches/{batch}/cancel", {"jobs": [members[9]]})["jobs"] == []
    assert len(api.post(f"/batches/{batch}/cancel", {})["jobs"]) == 24
    assert api.get(f"/batches/{batch}")["finished"]
    store.enqueue("b-2", [JobSpec(requirement="other", target=Target())])
    (other,) = store.members("b-2")
    problem(api.call("POST", f"/api/v1/batches/{batch}/cancel", json={"jobs": [other]}), 404, "unknown-job")
    assert store.job(other).state is JobState.QUEUED
    assert api.post(f"/jobs/{other}/cancel", {}) == {"batch": "b-2", "jobs": [other]}
    assert api.post(f"/jobs/{other}/retry", {})["jobs"] == [other]
    # What a queued job waits for, the API's own scheduler notes in between.
    found, expected = api.get(f"/jobs/{other}"), store.job(other).as_document()
    assert {**found, "waiting": None} == {**expected, "waiting": None}
