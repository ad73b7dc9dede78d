"""What a job leaves to read: its lines in the agent's log, and what pip said."""

import getpass
import json
import socket
from pathlib import Path
from typing import Any

from jobs.store import StatusStore
from tests.integration.packages import PASSWORD
from tests.integration.services import READY, submit
from tests.support.command import Deployment, Service, eventually
from tests.support.index_server import IndexServer, Status

START_WITHIN_SECONDS = 60


def events(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def test_what_a_job_leaves_to_read(deployment: Deployment, store: StatusStore, index: IndexServer) -> None:
    index.misbehave("/simple/acme-base/", Status(503), times=8)
    named = {"MODERNE_AGENT_NICKNAME": "agent-7", "MODERNE_AGENT_VISUALIZATION_CONCURRENCY": "1"}
    with deployment.service("scheduler"), deployment.service("worker", **named) as worker:
        worker.wait_for(READY, START_WITHIN_SECONDS)
        batch = submit(deployment, "acme-charts==1.2", "acme-none")
        eventually(lambda: store.batch(batch).finished, 90, worker.log.read_text)
        lines = events(worker)
    jobs = {job.requirement: job for job in store.batch(batch).jobs}
    assert {line["agent"] for line in lines} == {"agent-7"}, "those of Celery, its children and the gateway too"
    assert {"celery.worker.consumer.connection", "worker.attempt"} <= {line["logger"] for line in lines}
    told = [line for line in lines if line["event"] in {"index_incident", "attempt_started", "attempt_published"}]
    assert {"index_incident", "attempt_started", "attempt_published"} == {line["event"] for line in told}
    assert {line["job"] for line in told} == {job.id for job in jobs.values()}
    assert {line["batch"] for line in told} == {batch}
    assert all(isinstance(line["attempt"], int) for line in told)

    good = jobs["acme-charts==1.2"]
    shown = deployment.run("logs", good.id)
    assert shown.exit_code == 0
    assert f"attempt {good.attempt}:" in shown.output
    assert "Would install acme-base-2.0 acme-charts-1.2" in shown.output
    assert "127.0.0.1" not in shown.output, "neither the gateway's address nor the task's token"
    assert PASSWORD not in shown.output
    document = deployment.run("logs", good.id, "--attempt", str(good.attempt), "--json").document
    assert (document["job"], document["batch"], document["state"]) == (good.id, batch, "published")
    assert [log["attempt"] for log in document["attempts"]] == [good.attempt]
    failed = deployment.run("logs", jobs["acme-none"].id).output
    assert "No matching distribution" in failed
    unkept = deployment.run("logs", good.id, "--attempt", "99")
    assert (unkept.exit_code, unkept.output) == (0, "")
    assert "nothing is kept" in unkept.errors
    assert deployment.run("logs", "j-" + "0" * 20).exit_code == 2


def test_who_did_what_and_how_it_ended(deployment: Deployment, store: StatusStore, tmp_path: Path) -> None:
    place = tmp_path / "audit.jsonl"
    audited = Deployment(
        {**deployment.variables, "MODERNE_AGENT_VISUALIZATION_AUDIT": str(place)}, deployment.directory
    )
    named = {"MODERNE_AGENT_NICKNAME": "agent-7"}
    with audited.service("scheduler"), audited.service("worker", **named) as worker:
        worker.wait_for(READY, START_WITHIN_SECONDS)
        batch = submit(audited, "acme-charts==1.2", "acme-none")
        eventually(lambda: store.batch(batch).finished, 60, worker.log.read_text)
        failed = next(job for job in store.batch(batch).jobs if job.requirement == "acme-none")
        audited.run("retry", failed.id)
        eventually(lambda: store.batch(batch).finished, 60, worker.log.read_text)
    audited.run("cancel", batch)
    audited.run("collect", "--dry-run")
    audited.run("collect")
    records = [json.loads(line) for line in place.read_text().splitlines()]
    assert PASSWORD not in place.read_text()
    commands = [(each["action"], each["outcome"]) for each in records if each["by"] == "command"]
    actions = ("batch_submit", "batch_retry", "batch_cancel", "collect")
    assert commands == [(action, outcome) for action in actions for outcome in ("started", "succeeded")]
    assert {(each["who"], each["from"]) for each in records if each["by"] == "command"} == {
        (getpass.getuser(), socket.gethostname())
    }
    fetches = [each for each in records if each["action"] == "fetch"]
    assert {(each["by"], each["who"]) for each in fetches} == {("agent", "agent-7")}
    ends = {(each["requirement"], each["attempt"]): each for each in fetches if each["outcome"] != "started"}
    assert len(fetches) == 2 * len(ends) == 6
    assert (ends["acme-charts==1.2", 1]["outcome"], ends["acme-none", 2]["outcome"]) == ("published", "failed")
    assert ends["acme-none", 1]["kind"] == "not_found"
    assert {each["batch"] for each in fetches} == {batch}
    assert ends["acme-charts==1.2", 1]["bundle"] == next(job.bundle.id for job in store.batch(batch).jobs if job.bundle)


def test_commands_that_only_ask_redis_do_not_wait_for_what_logs(deployment: Deployment, store: StatusStore) -> None:
    (job,) = store.batch(submit(deployment, "acme-charts")).jobs
    telling = Deployment({**deployment.variables, "PYTHONPROFILEIMPORTTIME": "1"}, deployment.directory)
    for command in (("status",), ("status", job.id), ("agents",), ("logs", job.id)):
        told = telling.run(*command).errors.splitlines()
        imported = {line.rpartition("|")[2].strip() for line in told if line.startswith("import time:")}
        assert "jobs.connection" in imported
        assert "structlog" not in imported, command
