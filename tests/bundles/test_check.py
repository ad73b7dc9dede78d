import os
import random
import struct
import time
import zipfile
import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from bundles import archive as archive_module
from bundles.check import check_wheel, look_ahead
from bundles.digest import opened_digest
from bundles.errors import BrokenWheel, BundleError, HashMismatch, WrongTarget
from bundles.models import Origin
from bundles.proofs import Proofs
from tests.bundles.factory import TARGET
from tests.support.wheels import build_wheel, corrupt, library, link, record_hash, sha256


def _origin(file: Path, **changes: Any) -> Origin:
    return Origin(filename=file.name, index="pypi[0]", sha256=sha256(file)).model_copy(update=changes)


def _issues(file: Path) -> str:
    with pytest.raises(BrokenWheel) as caught:
        check_wheel(file, _origin(file), TARGET)
    assert caught.value.filename == file.name
    assert str(file.parent) not in str(caught.value)
    return "\n".join(caught.value.issues)


def test_sound_wheel_is_described(tmp_path: Path) -> None:
    file = build_wheel(
        tmp_path, "Acme.Charts", "1.0.0", requires=["a>=1", "b; extra=='x'"], extras=["X"], requires_python=">=3.8"
    )
    checked = check_wheel(file, _origin(file, yanked="a reason"), TARGET)
    assert checked.wheel.name == "acme-charts"
    assert checked.wheel.version == "1.0.0"
    assert checked.wheel.sha256 == sha256(file)
    assert checked.wheel.size_bytes == file.stat().st_size
    assert checked.wheel.index == "pypi[0]"
    assert checked.wheel.yanked == "a reason"
    assert checked.metadata.version == Version("1.0.0")
    assert [str(each) for each in checked.metadata.requires] == ["a>=1", 'b; extra == "x"']
    assert checked.metadata.extras == {"x"}


def test_index_without_a_promise_is_accepted(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a")
    assert check_wheel(file, _origin(file, sha256=None), TARGET).wheel.sha256 == sha256(file)


def test_file_from_nowhere_is_refused(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a")
    with pytest.raises(BrokenWheel, match="no index is known"):
        check_wheel(file, None, TARGET)


def test_other_bytes_than_promised(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a")
    with pytest.raises(HashMismatch) as caught:
        check_wheel(file, _origin(file, sha256="0" * 64), TARGET)
    assert caught.value.expected == "0" * 64
    assert caught.value.actual == sha256(file)


HOUR_NS = 3600 * 10**9


def _settled(file: Path) -> Path:
    """Let a file be written an hour ago."""
    os.utime(file, ns=(time.time_ns() - HOUR_NS, time.time_ns() - HOUR_NS))
    return file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are hashed, by their names."""
    names: list[str] = []

    def digest(stream: BufferedReader) -> str:
        names.append(Path(stream.name).parent.name)
        return opened_digest(stream)

    monkeypatch.setattr("bundles.check.opened_digest", digest)
    return names


def test_a_file_is_hashed_once_however_many_names_it_has(tmp_path: Path, hashed: list[str]) -> None:
    file = _settled(build_wheel(tmp_path, "a"))
    for number in range(3):
        other = tmp_path / str(number) / file.name
        other.parent.mkdir()
        other.hardlink_to(file)
        assert check_wheel(other, _origin(file), TARGET).wheel.sha256 == sha256(file)
    assert hashed == ["0"]


def test_a_file_that_was_written_to_is_hashed_again(tmp_path: Path) -> None:
    file, promised = _settled(build_wheel(tmp_path, "a")), _origin(tmp_path / "a-1.0-py3-none-any.whl")
    check_wheel(file, promised, TARGET)
    with file.open("r+b") as stream:
        stream.write(b"x")
    os.utime(file, ns=(time.time_ns(), time.time_ns() - HOUR_NS // 2))
    with pytest.raises(HashMismatch):
        check_wheel(file, promised, TARGET)


def test_what_was_just_written_is_hashed_each_time(tmp_path: Path, hashed: list[str]) -> None:
    """Two writes within a tick of the file system's clock leave the same time."""
    file = build_wheel(tmp_path, "a")
    for _ in range(2):
        check_wheel(file, _origin(file), TARGET)
    assert len(hashed) == 2


def test_what_was_looked_at_ahead_is_not_read_again(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _settled(build_wheel(tmp_path, "ahead"))
    look_ahead(file, Proofs())
    monkeypatch.setattr("bundles.check.open_archive", None)
    assert check_wheel(file, _origin(file), TARGET).wheel.name == "ahead"
    assert len(hashed) == 1


def test_what_may_still_be_written_is_not_looked_at_ahead(tmp_path: Path, hashed: list[str]) -> None:
    look_ahead(build_wheel(tmp_path, "a"), Proofs())
    assert hashed == []


def test_what_is_wrong_is_told_by_the_check_and_not_ahead(tmp_path: Path) -> None:
    broken = build_wheel(tmp_path, "a")
    corrupt(broken, "a/__init__.py")
    look_ahead(_settled(broken), Proofs())
    look_ahead(tmp_path / "gone-1.0-py3-none-any.whl", Proofs())
    assert "a/__init__.py" in _issues(broken)


@pytest.mark.parametrize(
    "tag", ["cp312-cp312-manylinux_2_17_x86_64", "cp311-cp311-manylinux_2_36_x86_64", "cp311-cp311-win_amd64"]
)
def test_tags_of_another_target(tmp_path: Path, tag: str) -> None:
    file = build_wheel(tmp_path, "a", tag=tag)
    with pytest.raises(WrongTarget, match=r"glibc 2\.35"):
        check_wheel(file, _origin(file), TARGET)


@pytest.mark.parametrize(
    ("platform", "needed", "reason"),
    [
        ("linux_x86_64", ["GLIBC_2.2.5", "GLIBC_2.36"], "it needs glibc 2.36"),
        ("linux_x86_64.manylinux_2_36_x86_64", ["GLIBC_2.36"], "it needs glibc 2.36"),
        ("linux_x86_64", ["libc.musl-x86_64.so.1"], "it needs musl"),
        ("linux_x86_64", ["GLIBC_2.2.5", "GLIBC_2.35", "GLIBC_PRIVATE"], None),
        ("linux_x86_64", ["x" * (2**20 - 75), "GLIBC_2.36"], "it needs glibc 2.36"),
        # Whoever gives it such a name has looked into it.
        ("manylinux_2_17_x86_64.linux_x86_64", ["GLIBC_2.36"], None),
    ],
)
def test_a_name_that_says_only_linux_is_not_believed(
    tmp_path: Path, platform: str, needed: list[str], reason: str | None
) -> None:
    file = build_wheel(tmp_path, "a", tag=f"cp311-cp311-{platform}", files={"a/native.so": library(*needed)})
    if reason is None:
        check_wheel(file, _origin(file), TARGET)
    else:
        with pytest.raises(WrongTarget, match=f"{reason}, the target has glibc 2.35"):
            check_wheel(file, _origin(file), TARGET)


@pytest.mark.parametrize(("requires", "fits"), [("<3.11", False), (">=3.12", False), (">=3.11.1", True), ("", True)])
def test_requires_python(tmp_path: Path, requires: str, fits: bool) -> None:  # noqa: FBT001 - a table's column
    file = build_wheel(tmp_path, "a", requires_python=requires)
    if fits:
        check_wheel(file, _origin(file), TARGET)
    else:
        with pytest.raises(WrongTarget, match="requires Python"):
            check_wheel(file, _origin(file), TARGET)


_TWICE = b"Metadata-Version: 2.1\nName: a\nVersion: 1.0\nRequires-Python: >=3.13\nRequires-Python: >=3.13\n"

_ENTRY_POINTS = [
    (b"[console_scripts]\nx = a\n", "has a script 'x' that calls 'a', and not a module's object"),
    (b"[console_scripts]\nx = a:b:c\n", "has a script 'x' that calls 'a:b:c'"),
    (b"[console_scripts]\nx = os; import y:z\n", "has a script 'x' that calls 'os; import y:z'"),
    (b"[console_scripts]\nx = a:b\n  c\n", "has a script 'x' that calls 'a:b\\nc'"),
    (b"[console_scripts]\nx : a:b\n", "entry_points.txt: Source contains parsing errors"),
    (b"[other]\nx\n", "entry_points.txt: Source contains parsing errors"),
    (b"[console_scripts]\nx = a:b\nx = a:c\n", "'x' in section 'console_scripts' already exists"),
    (b"x = a:b\n", "entry_points.txt: File contains no section headers"),
    (b"[console_scripts]\n.. = a:b\n", "has a script '..', which leads out of its folder"),
    (b"[console_scripts]\r../x = a:b\n", "has a script '../x', which leads out of its folder"),
    (b"[console_scripts]\nPython3.11 = a:b\n", "has a script 'Python3.11', which would replace Python itself"),
    (b"[console_scripts]\nx y = a:b\n", "has a script 'x y', of which installers make another name"),
    (b"[x]\na" + b" " * 1000 + b"b\n", "entry_points.txt is larger than 1048576 bytes, or a line than 1000"),
]
"""What pip or uv refuses to install, or takes for something else."""


def _second_name(first: str, second: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(first)
    info.extra = struct.pack("<HHBI", 0x7075, 5 + len(second), 1, zlib.crc32(first.encode())) + second.encode()
    return info


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"metadata_name": "other"}, "METADATA is of other 1.0, the file name says a 1.0"),
        ({"metadata_version": "2.0"}, "METADATA is of a 2.0, the file name says a 1.0"),
        ({"metadata": b"Metadata-Version: 2.1\nName: a\nName: b\nVersion: 1.0\n"}, "METADATA is of None"),
        ({"metadata": b"\xff\xfe"}, "METADATA cannot be read"),
        ({"without": ["METADATA"]}, "METADATA is missing"),
        ({"without": ["WHEEL"]}, "WHEEL is missing"),
        ({"without": ["RECORD"]}, "RECORD is missing"),
        ({"wheel_version": "2.0"}, "version 1 of the wheel format"),
        ({"requires": ["not a requirement!"]}, "Requires-Dist 'not a requirement!' is not valid"),
        ({"requires_python": "three"}, "Requires-Python 'three' is not valid"),
        ({"members": [("a-2.dist-info/METADATA", b"")]}, "has 2 .dist-info folders"),
        ({"members": [("a/extra.py", b"1")]}, "a/extra.py is not named in RECORD"),
        ({"record": {"a/gone.py": (record_hash(b""), "0")}}, "a/gone.py is named in RECORD but missing"),
        ({"record": {"a/__init__.py": (record_hash(b"other"), "5")}}, "a/__init__.py is not what RECORD says"),
        ({"record": {"a/__init__.py": ("", "")}}, "no hash for a/__init__.py"),
        ({"record": {"a/__init__.py": (record_hash(b"", "md5"), "0")}}, "or only a weak one"),
        ({"record": {"a/__init__.py": ("sha256", "x")}}, "RECORD: a/__init__.py"),
        ({"record": {"a/__init__.py": None}}, "a/__init__.py is not named in RECORD"),
        ({"members": [("../evil.py", b"1")]}, "'../evil.py' is not a plain relative path"),
        ({"members": [("/etc/evil", b"1")]}, "'/etc/evil' is not a plain relative path"),
        ({"members": [("a/../../evil", b"1")]}, "is not a plain relative path"),
        ({"members": [("a//b", b"1")]}, "is not a plain relative path"),
        ({"members": [("a\\b", b"1")]}, "is not a plain relative path"),
        ({"members": [("c:evil", b"1")]}, "is not a plain relative path"),
        ({"members": [("a/line\nbreak", b"1")]}, "is not a plain relative path"),
        ({"members": [(link("a/link"), b"/etc/passwd")]}, "'a/link' is a link"),
        ({"requires_python": f">={'1' * 5000}"}, "Requires-Python '>=1111"),
        ({"requires": [f"b>={'1' * 5000}"]}, "Requires-Dist 'b>=1111"),
        ({"requires": [f"b; {'(' * 1500}os_name == 'nt'{')' * 1500}"]}, 'Requires-Dist "b; ((('),
        ({"requires": ["b"] * 80_000}, "METADATA has more than 1048576 characters before its description"),
        ({"members": [("a/__init__.py/inner.py", b"1")]}, "'a/__init__.py' is a file and a folder"),
        ({"members": [("a/__init__.py/", b"")]}, "'a/__init__.py' is there 2 times"),
        ({"record": {"x" * 150_000: (record_hash(b""), "0")}}, "RECORD: field larger than field limit"),
        (
            {"files": {"a-1.0.dist-info/entry_points.txt": b"[gui_scripts]\n../../x = a:b\n"}},
            "has a script '../../x', which leads",
        ),
        ({"files": {"a-1.0.dist-info/entry_points.txt": b"\xff"}}, "entry_points.txt cannot be read"),
        *(({"files": {"a-1.0.dist-info/entry_points.txt": points}}, expected) for points, expected in _ENTRY_POINTS),
        ({"files": {"a-1.0.data/x": b""}}, "a-1.0.data/x is in none of the data folders"),
        ({"files": {"a-1.0.data/other/x": b""}}, "a-1.0.data/other/x is in none of the data folders"),
        ({"files": {"b-1.0.data/purelib/x": b""}}, "is in the data folder of another package"),
        ({"files": {"a-1.0.data/scripts/x/y": b""}}, "is not a script that installers make"),
        ({"files": {"a-1.0.data/scripts/python3": b""}}, "would replace Python itself"),
        ({"files": {"a-1.0.data/data/bin/python3.11": b""}}, "would replace Python itself"),
        ({"files": {"a-1.0.data/purelib/b-1.dist-info/METADATA": b""}}, "would be taken for another package"),
        ({"files": {"a-1.0.data/platlib/a/__init__.py": b""}}, "a/__init__.py would be installed 2 times"),
        ({"metadata": _TWICE}, "METADATA has Requires-Python twice"),
        ({"members": [("a/folder/", b"content")]}, "'a/folder/' is a folder with content of its own"),
        ({"members": [(_second_name("a/one", "a/two"), b"")]}, "'a/one' has a second name"),
        ({"compression": zipfile.ZIP_LZMA}, "compressed in a way that not every installer reads"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    assert expected in _issues(build_wheel(tmp_path, "a", **options))


def test_a_file_named_twice_in_record(tmp_path: Path) -> None:
    """A reader that takes the first row would check what another, that takes the last, does not."""
    file = build_wheel(tmp_path, "a", without=["RECORD"])
    with zipfile.ZipFile(file, "a") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
        rows = [f"{name},{record_hash(data)},{len(data)}" for name, data in contents.items()]
        rows += ["a-1.0.dist-info/RECORD,,", rows[0]]
        archive.writestr("a-1.0.dist-info/RECORD", "\n".join([f"a/__init__.py,{record_hash(b'')},0", *rows]))
    assert _issues(file) == "a/__init__.py is named in RECORD twice, and differently"


@pytest.mark.parametrize("before", [b"#!/bin/sh\n", b""])
@pytest.mark.parametrize("after", [b"PK", b""])
def test_an_archive_inside_of_something_else(tmp_path: Path, before: bytes, after: bytes) -> None:
    """pip finds an archive by its end, other installers by its beginning: they could see two different ones."""
    file = build_wheel(tmp_path, "a")
    file.write_bytes(before + file.read_bytes() + after)
    if before or after:
        assert "is not exactly one archive" in _issues(file)
    else:
        check_wheel(file, _origin(file), TARGET)


def test_an_archive_with_a_comment_or_in_zip64_is_as_good(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a")
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        archive.comment = b"made by a test"
        for name, data in contents.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    assert check_wheel(file, _origin(file), TARGET).file == file


def _rewritten(file: Path, old: bytes, new: bytes, *, last: bool = False) -> Path:
    """Change a wheel's bytes, once: of two equal places the first is before the content, the last in the list."""
    content = file.read_bytes()
    at = content.rfind(old) if last else content.find(old)
    file.write_bytes(content[:at] + new + content[at + len(old) :])
    return file


@pytest.mark.parametrize("flag", [0x20, 0x40])
def test_what_zipfile_does_not_read_no_installer_does(tmp_path: Path, flag: int) -> None:
    file = build_wheel(tmp_path, "a")
    content = bytearray(file.read_bytes())
    content[content.find(b"PK\x03\x04") + 6] |= flag
    content[content.find(b"PK\x01\x02") + 8] |= flag
    file.write_bytes(content)
    assert "in a way that not every installer reads" in _issues(file)


def test_a_name_that_ends_sooner_for_some_readers(tmp_path: Path) -> None:
    row = {"a/onextwo": None, "a/one": (record_hash(b"1"), "1")}
    file = build_wheel(tmp_path, "a", files={"a/onextwo": b"1"}, record=row)
    file.write_bytes(file.read_bytes().replace(b"a/onextwo", b"a/one\0two"))
    assert r"'a/one\x00two' is not a plain relative path" in _issues(file)


@pytest.mark.parametrize("said", [2, 9])
def test_a_number_of_files_that_is_not_theirs(tmp_path: Path, said: int) -> None:
    """Some readers take as many from the list as there should be, others all."""
    file = build_wheel(tmp_path, "a")
    _rewritten(file, struct.pack("<HH", 4, 4), struct.pack("<HH", said, said), last=True)
    assert f"lists 4 files and says that it has {said}" in _issues(file)


def test_what_stands_before_a_file_is_another_name_or_size(tmp_path: Path) -> None:
    """Readers that take an archive as it comes would unpack something else."""
    folder = zipfile.ZipInfo("a/dir/")
    named = _rewritten(build_wheel(tmp_path, "a", members=[(folder, b"")]), b"a/dir/", b"../../")
    assert "'a/dir/' has another name before its content than in the archive's list" in _issues(named)
    sized = build_wheel(tmp_path, "a", files={"a/x": b"x" * 40}, compression=zipfile.ZIP_STORED)
    _rewritten(sized, struct.pack("<II", 40, 40), struct.pack("<II", 20, 20))
    assert "'a/x' is of another kind or size before its content" in _issues(sized)


def test_a_file_that_the_list_does_not_name(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a")
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
            archive.writestr("a/hidden.py", b"1")
            archive.filelist.pop()
            del archive.NameToInfo["a/hidden.py"]
    assert "'a/__init__.py' is followed by bytes that are no part of it" in _issues(file)


def test_a_list_of_files_that_would_fill_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = build_wheel(tmp_path, "a", files={"a/of_this_test.py": b""})
    monkeypatch.setattr(archive_module, "MAX_DIRECTORY_BYTES", 100)
    monkeypatch.setattr(archive_module, "ZipFile", None)
    assert "its list of files has 3" in _issues(file)


def test_files_beside_the_package_are_as_good(tmp_path: Path) -> None:
    paths = ["purelib/x.py", "platlib/y.py", "headers/a.h", "scripts/a", "data/share/a/python3", "data/etc/a"]
    file = build_wheel(tmp_path, "a", files={f"a-1.0.data/{path}": path.encode() for path in paths})
    assert check_wheel(file, _origin(file), TARGET).file == file


def test_names_of_other_entry_points_are_not_files(tmp_path: Path) -> None:
    points = b"[console_scripts]\na = a:main\n# x/y\n[mime.types]\napplication/x-a = a:kind\n"
    file = build_wheel(tmp_path, "a", files={"a-1.0.dist-info/entry_points.txt": points})
    assert check_wheel(file, _origin(file), TARGET).file == file


def test_messages_are_short_and_safe_to_print(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a", metadata=f"Name: \x1b[31m{'b' * 9000}\nVersion: 1\n".encode())
    with pytest.raises(BrokenWheel) as caught:
        check_wheel(file, _origin(file), TARGET)
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000
    many = ".".join(f"x{number}" for number in range(18))
    file = build_wheel(tmp_path, "a", tag=f"{many}-{many}-{many}")
    with pytest.raises(WrongTarget) as wrong:
        check_wheel(file, _origin(file), TARGET)
    assert len(wrong.value.message) < 1000


@pytest.mark.parametrize(
    ("lines", "licenses"),
    [
        ([f"License-Expression: {' AND '.join(['MIT'] * 20_000)}", "License: MIT"], ("MIT",)),
        ([f"Classifier: License :: {number:03}" for number in range(500)], tuple(f"{n:03}" for n in range(20))),
        ([f"Classifier: License :: {'x' * 5000}"], ("x" * 100,)),
    ],
)
def test_licences_stay_of_a_size(tmp_path: Path, lines: list[str], licenses: tuple[str, ...]) -> None:
    file = build_wheel(tmp_path, "a", metadata="\n".join(["Name: a", "Version: 1.0", *lines, "", ""]).encode())
    assert check_wheel(file, _origin(file), TARGET).wheel.licenses == licenses


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicate_names(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a", members=[("a/__init__.py", b"another")])
    assert "'a/__init__.py' is there 2 times" in _issues(file)


def test_every_issue_is_reported_not_the_first(tmp_path: Path) -> None:
    file = build_wheel(
        tmp_path,
        "a",
        metadata_version="2.0",
        wheel_version="9.0",
        members=[("a/x", b"1"), ("a/y", b"2")],
        record={"a/gone": (record_hash(b""), "0")},
    )
    with pytest.raises(BrokenWheel) as caught:
        check_wheel(file, _origin(file), TARGET)
    assert len(caught.value.issues) == 5


def test_wrong_crc(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a", files={"a/data.bin": os.urandom(5000)})
    corrupt(file, "a/data.bin")
    assert "a/data.bin cannot be read" in _issues(file)


@pytest.mark.parametrize("kept", [0, 10, 300, -30])
def test_truncated_file(tmp_path: Path, kept: int) -> None:
    file = build_wheel(tmp_path, "a")
    file.write_bytes(file.read_bytes()[:kept])
    assert "not a readable archive" in _issues(file)


def test_something_else_under_a_wheels_name(tmp_path: Path) -> None:
    file = tmp_path / "a-1.0-py3-none-any.whl"
    file.write_bytes(b"<html>Please log in</html>")
    assert "not a readable archive" in _issues(file)


def test_name_that_is_not_a_wheels(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a").rename(tmp_path / "a.whl")
    assert "Invalid wheel filename" in _issues(file)


def test_wheel_of_one_package_under_the_name_of_another(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "evil").rename(tmp_path / "good-1.0-py3-none-any.whl")
    assert "does not belong to good 1.0" in _issues(file)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MAX_MEMBERS", 3)
    assert "more than 3" in _issues(build_wheel(tmp_path, "many"))


def test_expansion_is_bounded_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_module, "MAX_EXPANDED_BYTES", 2**20)
    file = build_wheel(tmp_path, "a", files={"a/zeros": bytes(2**21)})
    assert file.stat().st_size < 2**14
    assert _issues(file).startswith("unpacks to")


def test_signature_of_record_stands_outside_of_it(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a", members=[("a-1.0.dist-info/RECORD.jws", b"{}")])
    check_wheel(file, _origin(file), TARGET)
    signature = ("a-1.0.dist-info/RECORD.jws", b"{}")
    file = _rewritten(build_wheel(tmp_path, "a", members=[signature], compression=zipfile.ZIP_STORED), b"{}", b"[]")
    assert "RECORD.jws cannot be read: Bad CRC-32" in _issues(file)


def test_local_version_and_build_number(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a", "1.0+cu118", build="2")
    assert check_wheel(file, _origin(file), TARGET).wheel.version == "1.0+cu118"


def test_a_broken_wheel_is_not_taken_for_a_sound_one_of_the_same_name(tmp_path: Path) -> None:
    file = build_wheel(tmp_path, "a")
    check_wheel(file, _origin(file), TARGET)
    file = build_wheel(tmp_path, "a", metadata_version="2.0")
    assert "METADATA" in _issues(file)


def test_any_damage_is_noticed_or_harmless_but_never_an_unknown_error(tmp_path: Path) -> None:
    sound = build_wheel(tmp_path / "sound", "a", files={"a/data.txt": b"some text " * 50}).read_bytes()
    chance = random.Random(7)  # noqa: S311 - damage that can be repeated
    for _ in range(400):
        damaged = bytearray(sound)
        for _ in range(chance.randint(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        file = tmp_path / "a-1.0-py3-none-any.whl"
        file.write_bytes(damaged)
        try:
            checked = check_wheel(file, _origin(file), TARGET)
        except BundleError:
            continue
        assert checked.metadata.name == "a"
