import os
from concurrent.futures import Future
from pathlib import Path

import pytest

from bundles.proofs import Proofs
from tests.support.command import eventually
from tests.support.wheels import build_wheel, corrupt, sha256
from worker.ahead import checking_ahead
from worker.background import later


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    return directory


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The wheels that were looked at, by their names."""
    names: list[str] = []
    monkeypatch.setattr("worker.ahead.look_ahead", lambda file, _: names.append(file.name))
    return names


def _arrive(name: str, tmp_path: Path, place: Path) -> str:
    wheel = build_wheel(tmp_path, name)
    os.utime(wheel, (1e9, 1e9))  # nobody writes to it any more
    (place / wheel.name).hardlink_to(wheel)
    return wheel.name


def test_each_wheel_is_looked_at_once_when_it_arrives(tmp_path: Path, place: Path, looked_at: list[str]) -> None:
    (place / "a.txt").touch()
    with checking_ahead([place], Proofs()):
        for number, name in enumerate(("a", "b", "c"), 1):
            arrived = _arrive(name, tmp_path, place)
            eventually(lambda: len(looked_at) == number, explain=lambda: str(looked_at))  # noqa: B023 - called at once
            assert looked_at[-1] == arrived


def test_a_wheel_in_two_folders_is_looked_at_once(tmp_path: Path, place: Path, looked_at: list[str]) -> None:
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    with checking_ahead([place, chosen], Proofs()):
        first = _arrive("a", tmp_path, place)
        eventually(lambda: looked_at)
        (chosen / first).hardlink_to(place / first)
        second = _arrive("b", tmp_path, chosen)
        eventually(lambda: len(looked_at) > 1)
    assert looked_at == [first, second]


def test_what_is_broken_holds_up_nothing(tmp_path: Path, place: Path) -> None:
    proofs, known = Proofs(tmp_path / "proofs"), tmp_path / "proofs"
    broken = place / _arrive("broken", tmp_path, place)
    corrupt(broken, "broken/__init__.py")
    os.utime(broken, (1e9, 1e9))
    with checking_ahead([place], proofs):
        eventually(lambda: any(known.glob(f"*/{sha256(broken)}")))  # it was looked at
        sound = place / _arrive("sound", tmp_path, place)
        eventually(lambda: any(proof.read_bytes() for proof in known.glob("*/*")), explain=lambda: str(known))
    [proved] = (proof for proof in known.glob("*/*") if proof.read_bytes())
    assert proved.name == sha256(sound)


def test_it_ends_when_the_block_is_left(
    tmp_path: Path, place: Path, looked_at: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[Future[None]] = []
    monkeypatch.setattr("worker.ahead.later", lambda call: running.append(later(call)))
    with checking_ahead([place], Proofs()):
        first = _arrive("a", tmp_path, place)
        eventually(lambda: looked_at)
    running[0].result(timeout=30)
    _arrive("late", tmp_path, place)
    assert looked_at == [first]
