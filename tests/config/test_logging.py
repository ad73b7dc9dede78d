import base64
import io
import json
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import pytest
import structlog
from cheroot.wsgi import Server

from config.logging import HANDLER_NAME, cheroot_error_log, configure_logging

SECRET = "planted-secret/1"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    for handler in [handler for handler in root.handlers if handler.name == HANDLER_NAME]:
        root.removeHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def documents(captured: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    output, errors = captured.readouterr()
    assert output == ""
    for form in (SECRET, quote(SECRET, safe=""), base64.b64encode(f"alice:{SECRET}".encode()).decode()):
        assert form not in errors
    return [json.loads(line) for line in errors.splitlines()]


def test_json_lines_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    structlog.contextvars.bind_contextvars(job="j1")
    structlog.get_logger("worker.fetch").info("job_published", wheels=36)
    (line,) = documents(capsys)
    assert (line["event"], line["job"], line["wheels"], line["level"]) == ("job_published", "j1", 36, "info")
    assert line["logger"] == "worker.fetch"
    assert str(line["timestamp"]).endswith("Z")


def test_readable_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(secrets=[SECRET])
    local_variable = SECRET
    try:
        int(local_variable)
    except ValueError:
        structlog.get_logger().exception("fetch_failed", token=SECRET)
    text = stream.getvalue()
    assert "fetch_failed" in text
    assert "ValueError" in text
    assert not text.startswith("{")
    assert SECRET not in text


def test_the_standard_library_takes_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(secrets=[SECRET])
    structlog.contextvars.bind_contextvars(job="j1")
    logging.getLogger("celery.worker").warning("lost %s", f"redis://:{SECRET}@h/0")
    logging.getLogger("kombu").debug("too quiet to be heard")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure_logging(secrets=[SECRET])
        warnings.warn(f"careful with {SECRET}", stacklevel=1)
    lost, warned = documents(capsys)
    assert (lost["event"], lost["logger"], lost["level"]) == ("lost redis://:***@h/0", "celery.worker", "warning")
    assert lost["job"] == "j1"
    assert "careful with ***" in str(warned["event"])


def test_secrets_are_masked_wherever_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(secrets=[SECRET, 'quote"and\\slash'])
    log = structlog.get_logger()
    header = base64.b64encode(f"alice:{SECRET}".encode()).decode()
    log.info("sent", headers={"Authorization": f"Basic {header}"}, items=[SECRET], other={"deep": {SECRET: b"x"}})
    log.info("named", url="redis://:planted-secret%2F1@h", awkward='quote"and\\slash')
    try:
        _ = dict[str, str]()[SECRET]
    except KeyError:
        logging.getLogger("celery").exception("failed")
    sent, named, failed = documents(capsys)
    assert sent["headers"] == {"Authorization": "Basic ***"}
    assert sent["items"] == ["***"]
    assert named["awkward"] == "***"
    assert "KeyError: '***'" in str(failed["exception"])


def test_the_last_call_holds_and_lines_are_not_doubled(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(json=False)
    configure_logging(json=True, level="WARNING")
    structlog.get_logger().info("unheard")
    structlog.get_logger().warning("heard")
    assert [line["event"] for line in documents(capsys)] == ["heard"]


def test_other_handlers_stay(capsys: pytest.CaptureFixture[str]) -> None:
    other = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(other)
    configure_logging()
    assert other in logging.getLogger().handlers
    logging.getLogger().removeHandler(other)
    assert documents(capsys) == []


def test_cheroot_speaks_through_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(secrets=[SECRET])

    def application(_environ: object, _start_response: object) -> list[bytes]:
        raise RuntimeError(SECRET)

    class Logged(Server):
        error_log = staticmethod(cheroot_error_log)

    server = Logged(("127.0.0.1", 0), application, numthreads=1)
    server.prepare()
    serving = threading.Thread(target=server.serve)
    serving.start()
    try:
        connection = HTTPConnection("127.0.0.1", server.bind_addr[1], timeout=10)
        connection.request("GET", "/")
        assert connection.getresponse().status == 500
        connection.close()
    finally:
        server.stop()
        serving.join(timeout=10)
    (line,) = (line for line in documents(capsys) if "exception" in line)
    assert line["logger"] == "cheroot"
    assert "RuntimeError: ***" in str(line["exception"])


def test_the_agent_stands_in_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(agent="here-1")
    structlog.get_logger().info("job_published")
    logging.getLogger("celery").warning("lost")
    assert [line["agent"] for line in documents(capsys)] == ["here-1", "here-1"]


def test_a_mask_leaves_a_line_of_json_and_numbers_what_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(secrets=["newline-secret", "12345678", "naïve"])
    raw = "naïve".encode()
    structlog.get_logger().info("told", text="first\newline-secret", pin=12345678, count=7, bare=raw, keys={3: {"x"}})
    structlog.get_logger().info("told", text="first\nnewline-secret", deep=({"a": [("newline-secret",)]},), none=None)
    first, second = documents(capsys)
    assert (first["pin"], first["count"], first["bare"], first["keys"]) == ("***", 7, "b'***'", {"3": ["x"]})
    assert (second["text"], second["deep"], second["none"]) == ("first\n***", [{"a": [["***"]]}], None)


def test_tokens_of_tasks_are_known_by_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    token = "abcdefghijklmnopqrstuvwxyz_-0123"
    structlog.get_logger().info(
        "told", at=f"http://127.0.0.1:4711/{token}/simple/", control=f"/control/sessions/{token}"
    )
    (line,) = documents(capsys)
    assert (line["at"], line["control"]) == ("http://127.0.0.1:4711/***/simple/", "/control/sessions/***")


def test_late_it_is_set_up_by_the_first_line_and_looks_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(secrets=[SECRET], agent="here-1", late=True)
    for _ in range(2):
        logging.getLogger("redis").warning("lost %s", SECRET)
    late = documents(capsys)
    configure_logging(secrets=[SECRET], agent="here-1")
    logging.getLogger("redis").warning("lost %s", SECRET)
    [plain] = documents(capsys)
    assert [{**line, "timestamp": ""} for line in late] == 2 * [{**plain, "timestamp": ""}]
    assert plain["event"] == "lost ***"


def _apart(program: str) -> tuple[str, dict[str, Any]]:
    """Run a program in an interpreter of its own; return what it printed, and its one line of the log."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout, json.loads(done.stderr)


def test_late_nothing_is_imported_before_the_first_line() -> None:
    program = (
        "import logging, sys; from config.logging import configure_logging; configure_logging(late=True);"
        "print('structlog' in sys.modules); logging.getLogger('redis').debug('not shown');"
        "print('structlog' in sys.modules); logging.getLogger('redis').warning('shown');"
        "print('structlog' in sys.modules)"
    )
    output, line = _apart(program)
    assert output.split() == ["False", "False", "True"]
    assert line["event"] == "shown"


def test_what_of_ours_logs_late_is_a_line_like_any_other() -> None:
    program = (
        "import sys; from config.audit import Audit, user; from config.logging import configure_logging;"
        "configure_logging(late=True, agent='here-1', secrets=['nowhere']);"
        "from pathlib import Path; audit = Audit(Path('/proc/nowhere/audit'));"
        "print('structlog' in sys.modules); audit.record(user(), 'batch_submit', 'started')"
    )
    output, line = _apart(program)
    assert output == "False\n"
    assert (line["event"], line["agent"], line["place"]) == ("audit_unwritten", "here-1", "/proc/***/audit")
