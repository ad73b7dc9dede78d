import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from bundles import archive, check, proofs
from bundles.check import CheckedWheel, check_wheel
from bundles.errors import BrokenWheel, HashMismatch
from bundles.models import Origin
from bundles.proofs import Proofs
from config.settings import Target
from tests.support.wheels import build_wheel

SHA256 = "ab" * 32
KNOWN = b"something that was found out"


@pytest.fixture(autouse=True)
def another_process() -> Iterator[None]:
    """Forget what this process knows of wheels, as another one would not know it."""
    check._inspect.cache_clear()  # noqa: SLF001 - a cache has no public way to be emptied
    yield
    check._inspect.cache_clear()  # noqa: SLF001


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Count how often an archive is read to its end."""
    found: list[str] = []

    def counted(opened: ZipFile, info: str) -> list[str]:
        found.append(info)
        return archive.record_issues(opened, info)

    monkeypatch.setattr(check, "record_issues", counted)
    return found


def checked(file: Path, memory: Proofs | None) -> CheckedWheel:
    check._inspect.cache_clear()  # noqa: SLF001
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return check_wheel(file, Origin(filename=file.name, index="pypi[0]", sha256=digest), Target(), memory)


def test_what_one_process_proved_another_believes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, seen = build_wheel(tmp_path, "acme"), reads(monkeypatch)
    checked(wheel, Proofs(tmp_path / "memory"))
    checked(wheel, Proofs(tmp_path / "memory"))
    assert len(seen) == 1
    checked(wheel, Proofs(tmp_path / "elsewhere"))
    checked(wheel, None)
    assert len(seen) == 3


def test_other_content_under_the_same_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, seen = Proofs(tmp_path / "memory"), reads(monkeypatch)
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        checked(build_wheel(tmp_path / str(number), "acme", files={"acme/x.py": b"x" * number}), memory)
    assert len(seen) == 2


def test_what_is_wrong_is_found_each_time(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path, "acme", record={"acme/__init__.py": ("sha256=" + "A" * 43, "1")})
    for _ in range(2):
        with pytest.raises(BrokenWheel, match="not what RECORD says"):
            checked(wheel, Proofs(tmp_path / "memory"))


def test_a_proof_excuses_no_wrong_hash(tmp_path: Path) -> None:
    wheel, memory = build_wheel(tmp_path, "acme"), Proofs(tmp_path / "memory")
    checked(wheel, memory)
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    promised = Origin(filename=wheel.name, index="pypi[0]", sha256="0" * 64)
    with pytest.raises(HashMismatch):
        check_wheel(wheel, promised, Target(), memory)


def test_code_that_checks_otherwise_checks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel, seen = build_wheel(tmp_path, "acme"), reads(monkeypatch)
    checked(wheel, Proofs(tmp_path / "memory"))
    monkeypatch.setattr(proofs, "_code", lambda: "another")
    checked(wheel, Proofs(tmp_path / "memory"))
    assert len(seen) == 2


@pytest.mark.parametrize(
    "crash",
    [
        lambda _: b"",
        lambda whole: whole[:-1],
        lambda whole: whole[:5],
        lambda whole: bytes(len(whole)),
        lambda whole: whole + whole[-4:],
        lambda _: b"sound\n",
        lambda _: b'{"info": "acme-1.0.dist-info"}',
    ],
)
def test_what_a_crash_left_proves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash: Callable[[bytes], bytes]
) -> None:
    wheel, memory, seen = build_wheel(tmp_path, "acme"), Proofs(tmp_path / "memory"), reads(monkeypatch)
    checked(wheel, memory)
    [file] = (tmp_path / "memory").glob("*/*")
    whole = file.read_bytes()
    file.write_bytes(crash(whole))
    for _ in range(2):
        checked(wheel, memory)
        assert file.read_bytes() == whole
        assert len(seen) == 2


def test_what_was_proved_says_the_same_as_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = (
        b"Metadata-Version: 2.1\nName: Acme\nVersion: 1.0\nRequires-Dist: numpy>=1; extra == 'x'\nProvides-Extra: X\n"
        b"Requires-Python: >=3.9\nLicense: MIT\n\nAbout it.\n"
    )
    wheel, memory = build_wheel(tmp_path, "acme", metadata=metadata), Proofs(tmp_path / "memory")
    first = checked(wheel, memory)
    monkeypatch.setattr(check, "open_archive", lambda _: pytest.fail("it was opened"))
    assert checked(wheel, memory) == first
    assert [str(each) for each in first.metadata.requires] == ['numpy>=1; extra == "x"']
    assert str(first.metadata.requires_python) == ">=3.9"
    assert [*first.metadata.extras, *first.metadata.licenses] == ["x", "MIT"]


def test_under_a_name_that_is_not_its_own_a_proved_wheel_is_refused(tmp_path: Path) -> None:
    wheel, memory = build_wheel(tmp_path, "acme"), Proofs(tmp_path / "memory")
    checked(wheel, memory)
    with pytest.raises(BrokenWheel, match=r"does not belong to other 1\.0"):
        checked(wheel.rename(tmp_path / wheel.name.replace("acme", "other")), memory)


def test_a_wheel_that_says_too_much_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = reads(monkeypatch)
    wheel = build_wheel(tmp_path, "acme", requires=[f"package-{number}" for number in range(20_000)])
    for _ in range(2):
        checked(wheel, Proofs(tmp_path / "memory"))
    assert len(seen) == 2
    assert [each.stat().st_size for each in (tmp_path / "memory").glob("*/*")] == [0]


def test_an_error_in_the_block_is_the_block_s(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), Proofs(tmp_path).of(SHA256):
        raise OSError("mine")
    with Proofs(tmp_path).of(SHA256) as proof:
        assert not proof.known


def test_a_folder_that_cannot_be_used_remembers_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    memory = Proofs(tmp_path / "file" / "below")
    for _ in range(2):
        with memory.of(SHA256) as proof:
            assert not proof.known
            proof.note(KNOWN)


def _prove_slowly(directory: Path, held: float) -> None:
    with Proofs(directory).of(SHA256) as proof:
        (directory / "begun").touch()
        time.sleep(held)
        proof.note(KNOWN)


def test_two_that_meet_prove_it_once_and_nobody_waits_for_a_frozen_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for held, patience, proved in ((1.0, 30.0, True), (5.0, 0.2, False)):
        place = tmp_path / str(held)
        place.mkdir()
        monkeypatch.setattr(proofs, "_PATIENCE_SECONDS", patience)
        other = multiprocessing.get_context("spawn").Process(target=_prove_slowly, args=(place, held))
        other.start()
        while not (place / "begun").exists():
            time.sleep(0.02)
        with Proofs(place).of(SHA256) as proof:
            assert proof.known == (KNOWN if proved else b"")
        other.kill()
        other.join()


def test_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proofs, "_LIMIT", 3)
    for number in range(4):
        with Proofs(tmp_path).of(f"{number:064}") as proof:
            proof.note(KNOWN)
        time.sleep(0.02)
    again = Proofs(tmp_path)
    found = []
    for number in range(4):
        with again.of(f"{number:064}") as proof:
            found.append(proof.known)
    assert found == [b"", b"", KNOWN, KNOWN]


def test_what_code_proved_that_nobody_runs_any_more_is_forgotten(tmp_path: Path) -> None:
    for name, days in (("other", 29), ("old", 31)):
        (tmp_path / name).mkdir()
        (tmp_path / name / SHA256).write_bytes(KNOWN)
        at = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (at, at))
    with Proofs(tmp_path).of(SHA256) as proof:
        proof.note(KNOWN)
    left = {path.parent.name for path in tmp_path.glob("*/*")}
    assert "old" not in left
    assert "other" in left
    assert len(left) == 2


def test_a_folder_that_other_code_took_away_is_made_again(tmp_path: Path) -> None:
    memory = Proofs(tmp_path)
    [own] = tmp_path.iterdir()
    own.rmdir()
    for known in (b"", KNOWN):
        with memory.of(SHA256) as proof:
            assert proof.known == known
            proof.note(KNOWN)


def test_code_that_has_just_begun_is_run_by_somebody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Proofs(tmp_path)
    [own] = tmp_path.iterdir()
    os.utime(own, (0, 0))
    Proofs(tmp_path)
    monkeypatch.setattr(proofs, "_code", lambda: "another")
    Proofs(tmp_path)
    assert own.is_dir()


@pytest.mark.parametrize("library", ["packaging", "installer"])
def test_another_version_of_what_reads_for_it_is_other_code(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = proofs._code()  # noqa: SLF001
    monkeypatch.setattr(f"{library}.__version__", "0")
    assert proofs._code.__wrapped__() != before  # noqa: SLF001
