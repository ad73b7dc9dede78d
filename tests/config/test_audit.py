import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from config.audit import Actor, Audit, audit_of, user
from config.secrets import Masker
from config.sources import load

ACTOR = Actor("alice", "10.0.0.1", "api")
SECRET = "planted-secret/1"


def read(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.read_text().splitlines() if line]


def test_start_and_end_of_what_was_done(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", "here-1")
    with audit.recorded(ACTOR, "batch_retry", batch="b-1", job=None) as also:
        also["changed"] = 3
    with pytest.raises(KeyError), audit.recorded(ACTOR, "collect"):
        raise KeyError(SECRET)
    begun, done, _, failed = read(tmp_path / "audit")
    common = {"action": "batch_retry", "who": "alice", "from": "10.0.0.1", "by": "api", "instance": "here-1"}
    assert {name: begun[name] for name in common} == common
    assert (begun["outcome"], begun["batch"], "changed" in begun, "job" in begun) == ("started", "b-1", False, False)
    assert (done["outcome"], done["batch"], done["changed"]) == ("succeeded", "b-1", 3)
    assert begun["time"].endswith("+00:00")
    assert (failed["outcome"], failed["reason"]) == ("failed", "KeyError")
    assert SECRET not in (tmp_path / "audit").read_text()
    assert (tmp_path / "audit").stat().st_mode & 0o777 & ~0o640 == 0


def test_secrets_are_masked(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", masker=Masker([SECRET]))
    audit.record(ACTOR, "fetch", "started", deep={"a": [SECRET]}, requirement=f"acme=={SECRET}")
    (line,) = read(tmp_path / "audit")
    assert (line["deep"], line["requirement"]) == ({"a": ["***"]}, "acme==***")


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit")
    audit.record(ACTOR, "one", "started")
    (tmp_path / "audit").rename(tmp_path / "audit.1")
    audit.record(ACTOR, "two", "started")
    assert [read(tmp_path / name)[0]["action"] for name in ("audit.1", "audit")] == ["one", "two"]


def test_many_may_write_at_once(tmp_path: Path) -> None:
    audits = [Audit(tmp_path / "audit", str(number)) for number in range(4)]

    def write(audit: Audit) -> None:
        for _ in range(100):
            audit.record(ACTOR, "fetch", "started", text="x" * 5000)

    threads = [threading.Thread(target=write, args=(audit,)) for audit in audits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read(tmp_path / "audit")) == 400


def test_a_full_disk_stops_nothing_and_is_said_once() -> None:
    audit = Audit(Path("/dev/full"))
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            audit.record(ACTOR, "fetch", "started")
    assert [line["event"] for line in logged] == ["audit_unwritten"]
    assert logged[0]["reason"] == "No space left on device"


def test_what_could_not_be_written_is_said_again_after_it_could(tmp_path: Path) -> None:
    place = tmp_path / "made later" / "audit"
    audit = Audit(place)
    with structlog.testing.capture_logs() as logged:
        audit.record(ACTOR, "one", "started")
        place.parent.mkdir()
        audit.record(ACTOR, "two", "started")
        audit.record(ACTOR, "three", "started")
        place.unlink()
        place.parent.rmdir()
        audit.record(ACTOR, "four", "started")
    assert [line["event"] for line in logged] == ["audit_unwritten"] * 2


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with structlog.testing.capture_logs() as logged:
        Audit(tmp_path / "pipe").record(ACTOR, "fetch", "started")
    assert [line["event"] for line in logged] == ["audit_unwritten"]


def test_where_the_settings_say(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    name = "MODERNE_AGENT_VISUALIZATION_AUDIT"
    audit_of(load([], {})).record(ACTOR, "nowhere", "started")
    audit_of(load([], {name: str(tmp_path / "audit")})).record(ACTOR, "file", "started")
    for word in ("stdout", "-"):
        audit_of(load([], {name: word})).record(user(), "service", "started")
        audit_of(load([], {name: word}), command=True).record(user(), "command", "started")
    output, errors = capfd.readouterr()
    assert [json.loads(line)["action"] for line in output.splitlines()] == ["service"] * 2
    assert [json.loads(line)["action"] for line in errors.splitlines()] == ["command"] * 2
    assert read(tmp_path / "audit")[0]["action"] == "file"
