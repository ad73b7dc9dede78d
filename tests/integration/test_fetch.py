"""``vizfetch fetch``: one machine, nothing else running."""

import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.integration.packages import PASSWORD
from tests.support.command import VIZFETCH, Deployment, children, eventually, words_of
from tests.support.index_server import Exchange, IndexServer, Slow, Stall, Status
from tests.support.wheels import build_wheel, sha256

_PATIENCE_SECONDS = 150
"""For a start on a machine that is busy."""
PIP = [sys.executable, "-m", "pip", "--isolated"]


def vizfetch_processes(tmp_path: Path) -> list[str]:
    """Return what runs on this machine that has to do with this test's directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        except OSError:
            continue
        if str(tmp_path).encode() in told and process.name != str(os.getpid()):
            found.append(told.decode(errors="replace"))
    return found


def left_over(*places: Path) -> list[str]:
    return [path.name for place in places for path in place.glob("vizfetch*")]


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory in which the name of a Unix socket is short enough, as it is not always in pytest's."""
    with tempfile.TemporaryDirectory(prefix="short-") as place:
        yield Path(place)


def test_a_package_is_fetched_checked_and_left_as_a_bundle_that_installs_offline(
    machine: Deployment, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    marked = 'acme-charts; platform_version != "none -at #all"'  # what pip would read as an option and a comment
    done = machine.run("fetch", marked, "--out", str(out), "--json")
    assert done.exit_code == 0, done.errors
    (job,) = done.document["jobs"]
    assert (job["state"], job["attempt"], job["error"]) == ("published", 1, None)
    bundle = job["bundle"]
    assert (bundle["name"], bundle["version"], bundle["visualizations"]) == ("acme-charts", "1.2", 2)
    assert bundle["wheels"] == ["acme_base-2.0-py3-none-any.whl", "acme_charts-1.2-py3-none-any.whl"]
    place = out / "bundles" / "acme-charts" / "1.2" / bundle["id"]
    assert {path.name for path in place.iterdir()} >= {"bundle.json", "pylock.toml", "requirements.txt"}
    site = tmp_path / "site"
    subprocess.run(
        [*PIP, "install", "--quiet", "--no-index", "--target", site, "--requirement", place / "pylock.toml"],
        check=True,
    )
    assert (site / "acme_charts" / "bars.ipynb").exists()
    assert (site / "acme_base").exists()


def test_people_see_the_steps_a_table_and_how_to_install(
    machine: Deployment, index: IndexServer, tmp_path: Path
) -> None:
    index.misbehave("/files/acme_charts", Stall(), times=1)
    slow = Deployment({**machine.variables, "MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "1s"}, machine.directory)
    done = slow.run("fetch", "acme-charts==1.0", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.errors
    assert "acme-charts==1.0: download" in done.errors
    assert "published" in done.output
    assert "pip install --no-index -r" in done.output
    assert "\x1b" not in done.output + done.errors


def test_a_wheel_is_fetched_and_checked_while_pip_still_chooses(
    machine: Deployment, index: IndexServer, tmp_path: Path
) -> None:
    """The page of what it needs is not shown before the check of the wheel has left its proof."""
    wheel = build_wheel(tmp_path / "made", "acme-early", "1.0", requires=["acme-base"], visualizations=["bars"])
    with ZipFile(wheel) as archive:
        metadata = archive.read("acme_early-1.0.dist-info/METADATA")
    index.add(wheel.name, wheel, metadata=metadata)
    proofs = tmp_path / "machine" / "cache" / "checked"

    class OnceChecked:
        def play(self, exchange: Exchange) -> None:
            eventually(lambda: any(proofs.glob(f"*/{sha256(wheel)}")), seconds=30)
            exchange.send(exchange.right.status, exchange.right.headers, exchange.right.body)

    index.misbehave("/simple/acme-base/", OnceChecked())
    patient = Deployment({**machine.variables, "MODERNE_AGENT_PYPI_0_CONNECTTIMEOUT": "60s"}, machine.directory)
    done = patient.run("fetch", "acme-early", "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 0, done.errors
    (job,) = done.document["jobs"]
    assert (job["state"], job["attempt"]) == ("published", 1)
    assert sum(request.path == f"/files/{wheel.name}" for request in index.seen("/files/")) == 1


def test_nothing_is_left_running_and_no_temporary_file(machine: Deployment, tmp_path: Path) -> None:
    machine.run("fetch", "acme-charts", "acme-plain", "--out", str(tmp_path / "out"))
    assert vizfetch_processes(tmp_path) == []
    assert left_over(tmp_path) == []


def test_a_temporary_directory_may_have_a_long_name(machine: Deployment, tmp_path: Path) -> None:
    long = tmp_path / ("long" * 30)
    long.mkdir()
    far = Deployment({**machine.variables, "TMPDIR": str(long)}, machine.directory)
    assert far.run("fetch", "acme-charts==1.0", "--out", str(tmp_path / "out")).exit_code == 0
    assert list(long.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing_either(
    machine: Deployment, index: IndexServer, tmp_path: Path, short: Path, number: signal.Signals
) -> None:
    index.misbehave("/files/acme_base", Stall())
    said = tmp_path / "said.txt"

    def told() -> str:
        logs = [said, *short.glob("vizfetch-machine-*/worker.log")]
        return "\n".join(log.read_text() for log in logs)

    with (
        said.open("wb") as output,
        subprocess.Popen(
            [VIZFETCH, "fetch", "acme-charts", "--out", str(tmp_path / "out")],
            env=machine.environment | {"TMPDIR": str(short)},
            stderr=output,
            start_new_session=True,
        ) as process,
    ):
        try:
            eventually(lambda: index.seen("/files/acme_base"), _PATIENCE_SECONDS, told)
            started = children(process.pid)
        finally:
            # As a terminal does: to the whole foreground group.
            os.killpg(process.pid, number)
        assert process.wait(30) == 128 + number
    assert "Traceback" not in said.read_text()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    eventually(lambda: left_over(short, tmp_path) == [])


def test_every_failure_says_why_and_what_to_do(machine: Deployment, tmp_path: Path) -> None:
    """One run for all kinds: a failed package does not disturb the others."""
    expected = {
        "acme-nothing": ("not_found", "No index has the package acme-nothing"),
        "acme-charts==9.9": ("not_found", "It has 1.2, 1.1, 1.0"),
        "acme-needy": ("not_found", "which `acme-needy` needs"),
        "acme-torn": ("resolution_conflict", "acme-maps 1.0 depends on acme-base==1.0"),
        "acme-mac": ("no_compatible_wheel", "wheel for another platform"),
        "acme-newer": ("python_incompatible", "another one"),
        "acme-plain": ("no_visualizations", "acme-plain 1.0"),
        "acme-changed": ("hash_mismatch", "acme_changed-1.0-py3-none-any.whl"),
    }
    done = machine.run("fetch", *expected, "acme-charts==1.0", "--out", str(tmp_path / "out"), "--json")
    assert done.exit_code == 1
    jobs = {job["requirement"]: job for job in done.document["jobs"]}
    assert jobs.pop("acme-charts==1.0")["state"] == "published"
    told = {requirement: job["error"] for requirement, job in jobs.items()}
    assert {requirement: error["kind"] for requirement, error in told.items()} == {
        requirement: kind for requirement, (kind, _) in expected.items()
    }
    for requirement, (_, words) in expected.items():
        assert words in told[requirement]["message"]
    assert {job["attempt"] for job in jobs.values()} == {1}
    assert PASSWORD not in done.output + done.errors


def without_asking_first(machine: Deployment, **variables: str) -> Deployment:
    skipped = {"MODERNE_AGENT_PYPI_0_SKIPVALIDATECONNECTIVITY": "true"}
    return Deployment({**machine.variables, **skipped, **variables}, machine.directory)


def test_a_wrong_password_is_said_by_the_name_of_its_setting(machine: Deployment, tmp_path: Path) -> None:
    wrong = without_asking_first(machine, MODERNE_AGENT_PYPI_0_PASSWORD="planted-wrong")
    done = wrong.run("fetch", "acme-charts", "--out", str(tmp_path / "out"), "--json")
    (job,) = done.document["jobs"]
    assert (done.exit_code, job["state"], job["attempt"]) == (1, "failed", 1)
    assert (job["error"]["kind"], job["error"]["index"]) == ("authentication", "pypi[0]")
    assert "moderne.agent.pypi[0].password" in job["error"]["message"]
    assert "planted-wrong" not in done.output + done.errors


def test_a_wrong_password_is_noticed_before_anything_is_fetched(machine: Deployment, tmp_path: Path) -> None:
    wrong = Deployment({**machine.variables, "MODERNE_AGENT_PYPI_0_PASSWORD": "planted-wrong"}, machine.directory)
    done = wrong.run("fetch", "acme-charts", "--out", str(tmp_path / "out"))
    assert (done.exit_code, done.output) == (78, "")
    assert "index pypi[0]: credentials: " in done.errors
    assert "moderne.agent.pypi[0].password" in done.errors


def test_an_index_that_is_away_is_noticed_before_anything_is_fetched(machine: Deployment, tmp_path: Path) -> None:
    away = Deployment({**machine.variables, "MODERNE_AGENT_PYPI_0_URL": "http://127.0.0.1:1/simple"}, machine.directory)
    done = away.run("fetch", "acme-charts", "--out", str(tmp_path / "out"))
    assert (done.exit_code, done.output) == (69, "")
    assert "index pypi[0]: connection: " in done.errors


def test_an_index_that_is_down_is_tried_again_and_then_blamed(
    machine: Deployment, index: IndexServer, tmp_path: Path
) -> None:
    index.misbehave("/simple/", Status(503))
    quick = without_asking_first(machine, MODERNE_AGENT_VISUALIZATION_RETRY_MAXATTEMPTS="2")
    done = quick.run("fetch", "acme-charts", "--out", str(tmp_path / "out"), "--json")
    (job,) = done.document["jobs"]
    assert (done.exit_code, job["state"], job["attempt"], job["maxAttempts"]) == (1, "failed", 2, 2)
    assert (job["error"]["kind"], job["error"]["index"]) == ("server_error", "pypi[0]")


def test_a_dependency_whose_page_fails_never_becomes_an_older_result(
    machine: Deployment, index: IndexServer, tmp_path: Path
) -> None:
    """Without a record of it, pip would fall back to acme-charts 1.1, whose files can be had."""
    index.misbehave("/files/acme_charts-1.2", Status(500), times=8)
    done = machine.run("fetch", "acme-charts", "--out", str(tmp_path / "out"), "--json")
    (job,) = done.document["jobs"]
    assert done.exit_code == 0, job
    assert job["bundle"]["version"] == "1.2"
    assert job["attempt"] > 1


class _StallButTellMetadata:
    def play(self, exchange: Exchange) -> None:
        (Slow(0) if exchange.path.endswith(".metadata") else Stall()).play(exchange)


def test_a_terminal_shows_what_came_and_it_is_checked_while_the_rest_is_awaited(
    machine: Deployment, index: IndexServer, tmp_path: Path
) -> None:
    # With metadata of its own, so that nobody needs the file before the wheels themselves are fetched.
    wheel = tmp_path / "made" / "acme_base-2.0-py3-none-any.whl"
    index.add(wheel.name, wheel, metadata=ZipFile(wheel).read("acme_base-2.0.dist-info/METADATA"))
    index.misbehave(f"/files/{wheel.name}", _StallButTellMetadata())
    terminal, ours = pty.openpty()
    process = subprocess.Popen(
        [VIZFETCH, "fetch", "acme-charts==1.0", "--out", str(tmp_path / "out")],
        env=machine.environment | {"TERM": "xterm", "COLUMNS": "120"},
        stdout=ours,
        stderr=ours,
        start_new_session=True,
    )
    os.close(ours)
    shown = ""

    def look() -> bool:
        nonlocal shown
        shown += os.read(terminal, 65536).decode(errors="replace")
        return re.search(r"acme-charts==1\.0: download, 1 wheels, \d+", shown) is not None

    try:
        eventually(look, explain=lambda: shown)
        came = sha256(tmp_path / "made" / "acme_charts-1.0-py3-none-any.whl")
        checked = tmp_path / "machine" / "cache" / "checked"
        eventually(lambda: any(proof.read_bytes() for proof in checked.glob(f"*/{came}")), explain=lambda: shown)
        assert process.poll() is None, "the rest is not awaited any more"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        os.close(terminal)


@pytest.mark.parametrize(
    ("name", "value", "exit_code", "said"),
    [
        ("VISUALIZATION_TARGET_PYTHON", "3.12", 78, "target.python"),
        ("VISUALIZATION_CACHE_DIRECTORY", "/proc/nowhere", 78, "/proc/nowhere"),
        ("VISUALIZATION_TEMPORARYDIRECTORY", "/nowhere", 78, "/nowhere"),
        ("VISUALIZATION_MINFREESPACE", "900000GiB", 78, "minFreeSpace"),
    ],
)
def test_a_machine_that_cannot_fetch_says_why(
    machine: Deployment, tmp_path: Path, name: str, value: str, exit_code: int, said: str
) -> None:
    unfit = Deployment({**machine.variables, f"MODERNE_AGENT_{name}": value}, machine.directory)
    done = unfit.run("fetch", "acme-charts", "--out", str(tmp_path / "out"))
    assert (done.exit_code, said in done.errors) == (exit_code, True), done.errors
    assert "defect" not in done.errors
    assert "Traceback" not in done.errors


def test_a_valkey_that_dies_ends_the_run_with_a_reason(machine: Deployment, index: IndexServer, tmp_path: Path) -> None:
    index.misbehave("/files/acme_base", Stall())
    said = tmp_path / "said.txt"
    with (
        said.open("wb") as output,
        subprocess.Popen(
            [VIZFETCH, "fetch", "acme-charts", "--out", str(tmp_path / "out")], env=machine.environment, stderr=output
        ) as process,
    ):
        eventually(lambda: index.seen("/files/acme_base"), _PATIENCE_SECONDS, said.read_text)
        found = children(process.pid)
        (valkey,) = [pid for pid in found if b"valkey-server" in b" ".join(words_of(pid))]
        os.kill(valkey, signal.SIGKILL)
        assert process.wait(30) == 1
    assert "embedded Valkey" in said.read_text()
    assert "Traceback" not in said.read_text()
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))


def test_a_command_that_is_killed_leaves_nothing_running(
    machine: Deployment, index: IndexServer, tmp_path: Path, short: Path
) -> None:
    index.misbehave("/files/acme_base", Stall())
    with subprocess.Popen(
        [VIZFETCH, "fetch", "acme-charts", "--out", str(tmp_path / "out")],
        env=machine.environment | {"TMPDIR": str(short)},
        stderr=subprocess.DEVNULL,
    ) as process:
        eventually(lambda: index.seen("/files/acme_base"), _PATIENCE_SECONDS)
        found = children(process.pid)
        process.kill()
    assert found, "there was nothing to be left"
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in found))
    eventually(lambda: left_over(short, tmp_path) == [])


@pytest.mark.parametrize(
    "there",
    [
        "vizfetch-machine-*",
        "vizfetch-machine-*/valkey",
        "vizfetch-machine-*/valkey.sock",
        "vizfetch-machine-*/worker.log",
        "machine/cache/*",
        "vizfetch-task-*",
    ],
)
def test_a_command_that_is_killed_while_it_starts_leaves_nothing(
    machine: Deployment, index: IndexServer, tmp_path: Path, short: Path, there: str
) -> None:
    """Killed as soon as each of its parts shows."""
    index.misbehave("/files/acme_base", Stall())
    with subprocess.Popen(
        [VIZFETCH, "fetch", "acme-charts", "--out", str(tmp_path / "out")],
        env=machine.environment | {"TMPDIR": str(short)},
        stderr=subprocess.DEVNULL,
    ) as process:
        shown = (short, tmp_path)
        eventually(
            lambda: any(list(place.glob(there)) for place in shown) or process.poll() is not None, _PATIENCE_SECONDS
        )
        assert process.poll() is None
        process.kill()
    eventually(lambda: vizfetch_processes(tmp_path) == [], _PATIENCE_SECONDS, lambda: str(vizfetch_processes(tmp_path)))
    assert left_over(short, tmp_path) == []
    assert list(tmp_path.glob("machine/cache/.pip-*")) == []
