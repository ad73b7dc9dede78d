"""What the command line itself says, before any command does its work."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import pytest

from cli.main import main
from tests.support.command import VIZFETCH

SECRET = "planted-secret"
PASSWORD = "--moderne.agent.pypi[0].password"


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a command line without any settings; everything that it printed."""
    code = main(arguments, {})
    printed = capsys.readouterr()
    assert SECRET not in printed.out + printed.err
    return code, printed.out + printed.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--version") == (0, f"vizfetch {metadata.version('vizfetch')}\n")


@pytest.mark.parametrize(("arguments", "last"), [((), "keep the files."), (("schedule",), "stays.")])
def test_help_tells_the_whole_of_what_each_command_does(
    capsys: pytest.CaptureFixture[str], arguments: Sequence[str], last: str
) -> None:
    code, printed = told(capsys, *arguments, "--help")
    assert code == 0
    assert "..." not in printed.partition("Commands:")[2]
    assert printed.rstrip().endswith(last)


def test_help_loads_nothing_that_it_does_not_need() -> None:
    heavy = "{'rich', 'pydantic', 'redis', 'celery', 'yaml', 'requests'}"
    program = f"import sys; from cli.main import main; main(['--help'], {{}}); print({heavy} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    "arguments",
    [
        ("worker", PASSWORD, SECRET),
        (PASSWORD, SECRET, "worker"),
        ("worker", PASSWORD, f"-{SECRET}"),
        ("worker", PASSWORD, f"--{SECRET}"),
        (PASSWORD, f"--{SECRET}", "worker"),
        ("worker", f"-D{PASSWORD[2:]}", SECRET),
        ("status", PASSWORD, SECRET),
        ("fetch", "acme", PASSWORD, SECRET),
        ("-D", f"{PASSWORD[2:]}={SECRET}", "worker"),
        ("worker", f"MODERNE_AGENT_PYPI_0_PASSWORD={SECRET}"),
        ("fetch", "acme", f"{PASSWORD[2:]}={SECRET}"),
        ("worker", f"{PASSWORD}{SECRET}"),
        ("worker", f"--modern{PASSWORD[9:]}={SECRET}"),
        ("submit", "acme", f"--modern{PASSWORD[9:]}", SECRET),
        ("config", "--migrate", "--show-secrets", PASSWORD, SECRET),
        ("worker", f"\u2014{PASSWORD[2:]}={SECRET}"),
        ("worker", f"\u2013D{PASSWORD[2:]}={SECRET}"),
        ("worker", f"\u2014{PASSWORD[2:]}", SECRET),
        ("worker", f"'{PASSWORD}={SECRET}'"),
        ("submit", "acme", f"\u201c{PASSWORD}={SECRET}\u201d"),
        ("config", f" {PASSWORD}={SECRET}"),
    ],
)
def test_a_secret_that_stands_apart_from_its_name_is_not_repeated(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    code, text = told(capsys, *arguments)
    assert code == 78
    assert "argument" in text or "system property" in text


def test_a_switch_without_a_value_does_not_eat_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, "--moderne.agent.pypi[0].skipSsl", "worker")
    assert (code, "skipSsl: has no value" in text) == (78, True)


def test_a_usage_error_is_one_where_the_settings_are_written_well(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, "worker", "--moderne.agent.pypi[0].url=https://a", "--nonsense")
    assert (code, "No such option" in text) == (2, True)


def test_a_usage_error_does_not_repeat_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, "worker", f"pypi[0].password={SECRET} {SECRET}")
    assert (code, "pypi[0].password=…" in text) == (2, True)
    assert "acme==1.0" in told(capsys, "worker", "acme==1.0")[1]


def test_credentials_that_are_not_ascii_in_a_locale_that_knows_only_that(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "MODERNE_AGENT_PYPI_0_URL": "https://a.example/simple",
        "MODERNE_AGENT_PYPI_0_USERNAME": "zoë",
        "MODERNE_AGENT_PYPI_0_PASSWORD": "planted-grün",
    }
    encoded = {name.encode(): value.encode() for name, value in environment.items()}
    done = subprocess.run(
        [VIZFETCH, "config", "--migrate", "--show-secrets", "--moderne.agent.nickname=größe".encode()],
        env=encoded,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert ("username: zoë" in text, "password: planted-grün" in text, "nickname: größe" in text) == (True,) * 3
    wrong = subprocess.run(
        [VIZFETCH, "config"],
        env={**encoded, b"MODERNE_AGENT_PYPI_0_PASSWORD": b"planted-gr\xfcn"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert wrong.returncode == 78
    assert b"PASSWORD: holds bytes that are not UTF-8 text" in wrong.stderr
    assert b"planted" not in wrong.stderr


@pytest.mark.parametrize(("output", "code", "told"), [(">&-", 0, ""), ("> /dev/full", 1, "No space left on device")])
def test_an_output_that_takes_nothing_is_no_defect(output: str, code: int, told: str) -> None:
    done = subprocess.run(["/bin/sh", "-c", f"{VIZFETCH} --help {output}"], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert told in done.stderr
    assert "defect" not in done.stderr
    assert "Traceback" not in done.stderr
