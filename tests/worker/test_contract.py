import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from config.settings import CacheSettings, Settings, Target
from worker import contract
from worker.contract import _pip, _venv, examine
from worker.findings import Finding, Verdict, worst

IN_SHELL = ["python3 in the shell", "python3 -m venv", "python3 -m pip"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(contract, "_PROBE_SECONDS", 90)  # what is asked here must not hang on how busy the machine is
    cache = CacheSettings(directory=tmp_path / "cache")
    return Settings(nickname="test", temporary_directory=tmp_path, min_free_space_bytes=1, cache=cache)


def failing(settings: Settings) -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(settings) if not finding.holds}


def pretend(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the shell find this as its python3."""
    directory.mkdir()
    python = directory / "python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


def test_every_point_of_a_fit_machine_says_what_was_found(settings: Settings) -> None:
    found = {finding.subject: finding for finding in examine(settings)}
    assert [finding.subject for finding in found.values() if not finding.holds] == []
    assert list(found) == [
        "operating system",
        "C library",
        "architecture",
        "interpreter",
        "shell",
        *IN_SHELL,
        "temporary directory",
        "programs",
        "free space",
        "cache directory",
    ]
    assert all(finding.found and not finding.advice for finding in found.values())
    assert "glibc" in found["C library"].found
    assert list(settings.temporary_directory.iterdir()) == [settings.cache.directory]


def test_it_takes_as_long_as_the_slowest_point(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No python3 goes on before all three are there."""
    (tmp_path / "seen").mkdir()
    wait = f"until [ $(ls {tmp_path}/seen | wc -l) -ge 3 ]; do sleep 0.05; done"
    pretend(tmp_path / "bin", f'touch {tmp_path}/seen/$$; {wait}; exec {sys.executable} "$@"', monkeypatch)
    assert failing(settings) == {}


def test_what_a_wrapper_says_before_python3_does_is_not_taken_for_its_answer(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path / "bin", f'echo Welcome to the cluster; exec {sys.executable} "$@"', monkeypatch)
    assert failing(settings) == {}


def test_what_cannot_be_shown_is_not(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path / "bin", "printf 'all \\033[31mred\\n' >&2; exit 3", monkeypatch)
    assert failing(settings)["python3 in the shell"].found == "python3 does not run (all ?[31mred)"
    pretend(tmp_path / "other", "head -c 300000 /dev/urandom", monkeypatch)
    found = failing(settings)["python3 in the shell"].found
    assert found.isprintable()
    assert len(found) < 300


def test_a_disk_where_only_names_have_room(settings: Settings) -> None:
    """As on a full one: nothing can be written into the files that can be made."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        found = failing(settings)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(found) == ["python3 -m venv", "temporary directory", "cache directory"]
    assert (found["python3 -m venv"].found, found["python3 -m venv"].advice) == (
        "was not tried",
        "Mend the temporary directory first.",
    )
    assert all("cannot be written" in found[name].found for name in ("temporary directory", "cache directory"))


def test_another_python_is_wrong_for_the_interpreter_and_for_the_shell(settings: Settings) -> None:
    found = failing(settings.model_copy(update={"target": Target(python="3.12")}))
    assert list(found) == ["interpreter", "python3 in the shell"]
    for finding in found.values():
        assert "moderne.agent.visualization.target.python is 3.12" in finding.found
        assert "Python 3.12" in finding.advice


def test_another_architecture(settings: Settings) -> None:
    (finding,) = failing(settings.model_copy(update={"target": Target(architecture="aarch64")})).values()
    assert finding.found == "this machine is x86_64, but moderne.agent.visualization.target.architecture is aarch64"


def test_the_machine_s_own_glibc_need_not_be_the_target_s(settings: Settings) -> None:
    assert failing(settings.model_copy(update={"target": Target(glibc="2.5")})) == {}
    assert failing(settings.model_copy(update={"target": Target(glibc="2.99")})) == {}


def test_another_system(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert failing(settings)["operating system"].found == "this is Darwin"


def test_musl_is_not_glibc(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def confstr(name: str) -> str:
        raise ValueError(f"unrecognized configuration name {name}")

    monkeypatch.setattr(os, "confstr", confstr)
    (finding,) = failing(settings).values()
    assert finding.subject == "C library"
    assert "glibc" in finding.advice


def test_no_shell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "SHELL", "/nonexistent/sh")
    (finding,) = failing(settings).values()
    assert finding.subject == "shell"
    assert "/nonexistent/sh" in finding.found


def test_no_python3_is_said_once(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = failing(settings).values()
    assert finding.subject == "python3 in the shell"
    assert "PATH" in finding.advice


def test_an_older_python3(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path / "bin", '[ "$1" = -c ] && echo 3.8 /usr/bin/python3 || true', monkeypatch)
    finding = failing(settings)["python3 in the shell"]
    assert "python3 is Python 3.8 (/usr/bin/python3)" in finding.found


@pytest.mark.parametrize(
    ("broken", "subject", "said"),
    [
        ("ensurepip", "python3 -m venv", "-venv"),
        ("venv", "python3 -m venv", "-venv"),
        ("-m pip", "python3 -m pip", "-pip"),
    ],
)
def test_a_python3_without_a_module(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, subject: str, said: str
) -> None:
    """As on a Debian without the package for it."""
    refusal = f'echo "No module named {broken}" >&2; exit 1'
    script = f'case "$*" in *"{broken}"*) {refusal};; esac; exec {sys.executable} "$@"'
    pretend(tmp_path / "bin", script, monkeypatch)
    (finding,) = failing(settings).values()
    assert (finding.subject, finding.found) == (subject, f"fails (No module named {broken})")
    assert said in finding.advice


def test_a_python3_that_hangs_is_not_waited_for(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path / "bin", "sleep 60", monkeypatch)
    monkeypatch.setattr(contract, "_PROBE_SECONDS", 0.3)
    begin = time.monotonic()
    found = failing(settings)
    assert time.monotonic() - begin < 5
    assert list(found) == ["python3 in the shell"], "venv and pip would say the same again"
    assert "did not end within" in found["python3 in the shell"].found
    assert "Install" not in found["python3 in the shell"].advice


@pytest.mark.parametrize("look", [_venv, _pip])
def test_a_module_that_hangs_is_not_taken_for_one_that_is_missing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look: Callable[[Settings], Finding]
) -> None:
    pretend(tmp_path / "bin", "sleep 60", monkeypatch)
    monkeypatch.setattr(contract, "_PROBE_SECONDS", 0.3)
    finding = look(settings)
    assert (finding.step, finding.found) == ("answer", "hangs (it did not end within 0 s)")
    assert "See why it hangs" in finding.advice


def test_no_secret_of_ours_is_in_the_environment_of_a_probe(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path / "bin", f'env >> {tmp_path}/seen; exec {sys.executable} "$@"', monkeypatch)
    monkeypatch.setenv("MODERNE_AGENT_PYPI_0_PASSWORD", "planted-index-password")
    assert failing(settings) == {}
    assert "planted" not in (tmp_path / "seen").read_text()


def test_a_temporary_directory_that_is_not_there(settings: Settings) -> None:
    found = failing(settings.model_copy(update={"temporary_directory": Path("/nonexistent")}))
    assert list(found) == ["python3 -m venv", "temporary directory"]
    finding = found["temporary directory"]
    assert finding.found == "/nonexistent cannot be written (No such file or directory)"
    assert "moderne.agent.visualization.temporaryDirectory" in finding.advice


def test_a_temporary_directory_where_programs_cannot_be_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file without its executable bit is refused as one on a file system mounted with noexec."""
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    (finding,) = failing(settings).values()
    assert finding.subject == "programs"
    assert "noexec" in finding.advice


def test_too_little_space(settings: Settings) -> None:
    (finding,) = failing(settings.model_copy(update={"min_free_space_bytes": 2**60})).values()
    assert "less than minFreeSpace (1048576TiB)" in finding.found


def test_a_cache_that_cannot_be_written(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = CacheSettings(directory=tmp_path / "file" / "cache")
    (finding,) = failing(settings.model_copy(update={"cache": cache})).values()
    assert "cannot be written (Not a directory)" in finding.found
    assert "moderne.agent.visualization.cache.directory" in finding.advice


def test_a_cache_of_another_user(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.cache.directory.mkdir()
    owner = os.getuid()
    if owner == 0:  # root's directories are trusted, so it must become another's
        owner = 54321
        os.chown(settings.cache.directory, owner, -1)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert f"belongs to another user (number {owner})" in failing(settings)["cache directory"].found


def test_what_has_to_be_mended_counts_more_than_what_may_come_back() -> None:
    down = Finding("a", Verdict.UNREACHABLE, "is down")
    bad = Finding("b", Verdict.WRONG, "is bad")
    good = Finding("c", Verdict.HOLDS, "is good")
    assert worst([good, down]) is Verdict.UNREACHABLE
    assert worst([down, good, bad]) is Verdict.WRONG
    assert worst([good, Finding("d", Verdict.WRONG, "is bad", required=False)]) is Verdict.HOLDS
