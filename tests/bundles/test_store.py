import json
import os
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from bundles.errors import StorageError
from bundles.store import ObjectStore, open_store
from config.settings import StorageSettings
from tests.support.seaweed import S3Server, seaweed


def test_bytes_come_back(store: ObjectStore) -> None:
    store.put_bytes("bundles/a/1.0/x/bundle.json", b"{}")
    assert store.read("bundles/a/1.0/x/bundle.json") == b"{}"
    assert store.size("bundles/a/1.0/x/bundle.json") == 2


def test_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put_bytes("empty", b"")
    assert store.size("empty") == 0
    assert store.read("empty") == b""


def test_missing_object(store: ObjectStore) -> None:
    assert store.size("nothing/here") is None
    with pytest.raises(FileNotFoundError, match="nothing/here"):
        store.read("nothing/here")
    with pytest.raises(FileNotFoundError, match="nothing/here"):
        list(store.chunks("nothing/here"))


@pytest.mark.parametrize("size_bytes", [0, 1, 5 * 2**20, 5 * 2**20 + 1, 17 * 2**20])
def test_files_of_every_size_come_back(store: ObjectStore, tmp_path: Path, size_bytes: int) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size_bytes))
    store.put_file("wheels/some.whl", source)
    assert store.size("wheels/some.whl") == size_bytes
    assert b"".join(store.chunks("wheels/some.whl")) == source.read_bytes()


def test_reading_can_start_in_the_middle(store: ObjectStore) -> None:
    content = os.urandom(3 * 2**20)
    store.put_bytes("x", content)
    assert b"".join(store.chunks("x", offset_bytes=2**20 + 7)) == content[2**20 + 7 :]
    with pytest.raises(StorageError, match="could not read x"):
        list(store.chunks("x", offset_bytes=len(content)))


def test_of_several_writers_of_a_new_object_one_succeeds(store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda number: store.put_new("x", str(number).encode()), range(8)))
    assert outcomes.count(True) == 1
    assert store.read("x") == str(outcomes.index(True)).encode()


def test_a_listing_tells_size_and_age(store: ObjectStore) -> None:
    store.put_bytes("a/b", b"123")
    [found] = store.objects("a")
    assert (found.path, found.size_bytes) == ("a/b", 3)
    assert abs(datetime.now(UTC) - found.modified) < timedelta(seconds=30)


def test_what_a_killed_writer_left_is_seen_and_can_be_removed(local_store: ObjectStore) -> None:
    local_store.put_bytes("wheels/x/a.whl", b"1")
    staged = Path(local_store.uri("wheels/x/a.whl#1").removeprefix("file://"))
    staged.write_bytes(b"half")
    assert list(local_store.paths("")) == ["wheels/x/a.whl"]
    [left] = local_store.unfinished()
    assert (left.path, left.size_bytes) == ("wheels/x/a.whl#1", 4)
    local_store.delete(left.path)
    local_store.delete(left.path)
    assert not staged.exists()
    assert local_store.size("wheels/x/a.whl") == 1


@pytest.mark.parametrize("name", ["torch-2.0+cu118-py3-none-any.whl", "1!2.0", "a b", "x%20y", "ü~@=&"])
def test_unusual_names_survive(store: ObjectStore, name: str) -> None:
    store.put_bytes(f"odd/{name}", b"1")
    assert list(store.paths("odd")) == [f"odd/{name}"]
    assert store.read(f"odd/{name}") == b"1"


def test_write_replaces(store: ObjectStore) -> None:
    store.put_bytes("x", b"long content")
    store.put_bytes("x", b"short")
    assert store.read("x") == b"short"


def test_paths_lists_one_folder_and_below(store: ObjectStore) -> None:
    for path in ("bundles/a/1/x", "bundles/a/2/y", "bundles/ab/1/z", "wheels/w"):
        store.put_bytes(path, b"1")
    assert sorted(store.paths("bundles/a")) == ["bundles/a/1/x", "bundles/a/2/y"]
    assert sorted(store.paths("bundles/a/")) == ["bundles/a/1/x", "bundles/a/2/y"]
    assert len(list(store.paths(""))) == 4
    assert list(store.paths("nothing")) == []


def test_delete_can_be_repeated(store: ObjectStore) -> None:
    store.put_bytes("x/y", b"1")
    store.delete("x/y")
    store.delete("x/y")
    assert store.size("x/y") is None


def test_uri_is_below_the_settings_uri(store: ObjectStore, storage: StorageSettings) -> None:
    assert store.uri("bundles/a") == f"{storage.uri}/bundles/a"


def test_two_prefixes_do_not_see_each_other(storage: StorageSettings, store: ObjectStore) -> None:
    sibling = open_store(storage.model_copy(update={"uri": storage.uri + "-2"}))
    sibling.put_bytes("x", b"1")
    assert store.size("x") is None
    assert list(store.paths("")) == []


@pytest.mark.parametrize("path", ["../escape", "a//b", "a/./b"])
def test_paths_that_leave_the_store_are_refused(store: ObjectStore, path: str) -> None:
    with pytest.raises(StorageError, match="could not write"):
        store.put_bytes(path, b"1")


def test_many_threads_write_at_once(store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(2**20))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put_file(f"w/{number % 4}", source), range(32)))
    assert sorted(store.paths("w")) == ["w/0", "w/1", "w/2", "w/3"]
    assert all(store.size(path) == 2**20 for path in store.paths("w"))


def test_local_file_is_complete_or_absent(local_store: ObjectStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(64 * 2**20))
    seen: set[int | None] = set()
    listed: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.add(local_store.size("one"))
            listed.update(local_store.paths(""))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(3):
            local_store.put_file("one", source)
    finally:
        done.set()
        watcher.join()
    assert seen <= {None, 64 * 2**20}
    assert listed <= {"one"}


def test_local_folder_may_be_named_with_a_space(tmp_path: Path) -> None:
    spaced = open_store(StorageSettings(uri=f"file://{tmp_path}/two%20words"))
    spaced.put_bytes("x", b"1")
    assert (tmp_path / "two words" / "x").read_bytes() == b"1"


def test_local_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = open_store(StorageSettings(uri=f"file://{tmp_path}/file/store"))
    for write in (store.put_bytes, store.put_new):
        with pytest.raises(StorageError, match="could not write x: Not a directory"):
            write("x", b"1")
    with pytest.raises(StorageError, match="there is no folder"):
        list(store.paths("bundles"))
    store = open_store(StorageSettings(uri=f"file://{tmp_path}/file"))
    with pytest.raises(StorageError, match="could not write x"):
        store.put_new("x", b"1")


def test_reading_creates_nothing_and_tells_that_there_is_no_store(tmp_path: Path) -> None:
    store = open_store(StorageSettings(uri=f"file://{tmp_path}/mistyped"))
    assert store.size("x") is None
    with pytest.raises(FileNotFoundError):
        store.read("x")
    for listing in (store.paths("bundles"), store.objects(""), store.unfinished()):
        with pytest.raises(StorageError, match=r"could not list .*there is no folder .*/mistyped; is"):
            list(listing)
    store.delete("x/y")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write", ["put_file", "put_bytes", "put_new"])
def test_what_is_written_is_on_the_disk_when_the_call_returns(
    local_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    """The file before it gets its name, then all folders on the way: what a power cut leaves is whole."""
    root = _root(local_store)
    steps = _syncs(root, monkeypatch)
    (tmp_path / "source").write_bytes(b"1")
    getattr(local_store, write)("a/b/c", tmp_path / "source" if write == "put_file" else b"1")
    assert steps == ["content", f"/{root.name}/a/b", f"/{root.name}/a", f"/{root.name}", ""]


def test_many_objects_are_brought_to_the_disk_at_once(
    local_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = _root(local_store)
    steps = _syncs(root, monkeypatch)
    for name in ("d", "e/f"):
        local_store.put_bytes(f"a/b/{name}", b"1", settled=False)
    assert steps == ["content", "content"]
    for _ in range(2):
        steps.clear()
        local_store.settle("a/b")
        below = [f"/{root.name}/a/b", f"/{root.name}/a/b/e"]
        assert steps == [*below, f"/{root.name}/a", f"/{root.name}", ""]


def test_what_is_not_there_cannot_be_brought_to_the_disk(local_store: ObjectStore) -> None:
    with pytest.raises(StorageError, match=r"could not write a/b.*No such file"):
        local_store.settle("a/b")


def _root(store: ObjectStore) -> Path:
    return Path(store.uri("x").removeprefix("file://")).parent


def _syncs(root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows by what is brought to the disk: a folder, or content that has no name yet."""
    steps: list[str] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        unnamed = "#" in path.name and all("#" in each.name for each in path.parent.iterdir())
        steps.append("content" if unnamed else str(path).removeprefix(str(root.parent)))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return steps


def test_folders_that_come_and_go_are_in_nobodys_way(local_store: ObjectStore) -> None:
    def busy(number: int) -> None:
        for _ in range(100):
            local_store.put_bytes(f"wheels/x/{number}", b"1")
            local_store.delete(f"wheels/x/{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(busy, range(4)))
    assert list(local_store.paths("")) == []


def test_a_folder_that_a_link_leads_back_to_is_listed_once(local_store: ObjectStore) -> None:
    local_store.put_bytes("a/b", b"1")
    root = Path(local_store.uri("x").removeprefix("file://")).parent
    (root / "a" / "loop").symlink_to(root / "a")
    (root / "a" / "nowhere").symlink_to(root / "nothing")
    assert list(local_store.paths("")) == ["a/b"]


def test_wrong_secret_is_permission_denied_and_never_shown(s3_server: S3Server) -> None:
    settings = s3_server.storage().model_copy(update={"secret_key": SecretStr("planted-secret")})
    with pytest.raises(StorageError, match="permission denied") as caught:
        open_store(settings).put_bytes("x", b"1")
    assert "planted-secret" not in str(caught.value)
    assert s3_server.access_key not in str(caught.value)


def test_unknown_access_key_is_permission_denied_and_never_shown(s3_server: S3Server) -> None:
    settings = s3_server.storage().model_copy(update={"access_key": SecretStr("planted-key")})
    with pytest.raises(StorageError, match="permission denied") as caught:
        open_store(settings).read("x")
    assert "planted-key" not in str(caught.value)


def test_explicit_keys_are_not_mixed_with_the_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "left over from somewhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    store = open_store(s3_server.storage("keys"))
    store.put_bytes("x", b"1")
    assert store.read("x") == b"1"


def test_keys_from_the_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    settings = s3_server.storage("environment").model_copy(update={"access_key": None, "secret_key": None})
    store = open_store(settings)
    store.put_bytes("x", b"1")
    assert store.read("x") == b"1"


@pytest.mark.parametrize("head", ["team", "default"])
def test_keys_from_a_profile(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, head: str) -> None:
    (tmp_path / "credentials").write_text(
        f"[{head}]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    (tmp_path / "config").write_text("[profile team]\nregion = us-east-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    changes = {"access_key": None, "secret_key": None, "region": None, "profile": head}
    store = open_store(s3_server.storage("profile").model_copy(update=changes))
    store.put_bytes("x", b"1")
    assert store.read("x") == b"1"


def test_profile_without_keys_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(StorageError, match="profile 'team'"):
        open_store(StorageSettings(uri="s3://bucket", profile="team"))


def test_server_that_is_down_is_reported() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        settings = StorageSettings(
            uri="s3://bucket",
            endpoint_url=f"http://127.0.0.1:{held.getsockname()[1]}",
            access_key=SecretStr("a"),
            secret_key=SecretStr("b"),
        )
        with pytest.raises(StorageError, match="could not read x"):
            open_store(settings).read("x")


def test_plain_http_only_when_the_endpoint_says_so(s3_server: S3Server) -> None:
    settings = s3_server.storage().model_copy(
        update={"endpoint_url": s3_server.endpoint_url.replace("http://", "https://")}
    )
    with pytest.raises(StorageError):
        open_store(settings).read("x")


def test_tls_needs_a_known_authority_or_skip_ssl(tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    pem = tmp_path / "server.pem"
    pem.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    with seaweed(tmp_path, certificate=pem) as server:
        settings = server.storage()
        with pytest.raises(StorageError):
            open_store(settings).put_bytes("x", b"1")
        open_store(settings, authorities=authority.cert_pem.bytes()).put_bytes("x", b"1")
        assert open_store(settings.model_copy(update={"skip_ssl": True})).read("x") == b"1"


_FORK = """
import os, signal, sys
from bundles.store import open_store
from config.settings import StorageSettings
settings = StorageSettings.model_validate_json(sys.stdin.read())
store = open_store(settings)
if sys.argv[1] == "used":
    store.size("x")
if os.fork() == 0:
    signal.alarm(20)
    try:
        open_store(settings).put_bytes("x", b"1")
        print(store.read("x"), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(("before", "answer"), [("opened", "b'1'"), ("used", "before this process was forked")])
def test_fork_after_opening_is_fine_and_after_use_an_error_but_never_a_hang(
    storage: StorageSettings, before: str, answer: str
) -> None:
    # A folder has no threads, and so nothing that a fork could break.
    assert (answer if storage.uri.startswith("s3:") else "b'1'") in _python(_FORK, storage, before)


_MEASURE = """
import resource, sys
from pathlib import Path
from bundles.store import open_store
from config.settings import StorageSettings
store = open_store(StorageSettings.model_validate_json(sys.stdin.read()))
store.put_bytes("warm", b"1")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put_file("large", Path(sys.argv[1]))
with open(sys.argv[2], "wb") as copy:
    for chunk in store.chunks("large"):
        copy.write(chunk)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_bounded_for_a_large_file(storage: StorageSettings, tmp_path: Path) -> None:
    large, copy = tmp_path / "large", tmp_path / "copy"
    with large.open("wb") as output:
        output.truncate(400 * 2**20)
    grown_kib = int(_python(_MEASURE, storage, str(large), str(copy)))
    assert copy.stat().st_size == large.stat().st_size
    assert grown_kib < 64 * 1024


def _python(script: str, storage: StorageSettings, *arguments: str) -> str:
    """Run a script in a process of its own, with the settings on its standard input."""
    document = storage.model_dump(mode="json")
    for secret in ("access_key", "secret_key"):
        value = getattr(storage, secret)
        document[secret] = value and value.get_secret_value()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    return done.stdout


class _OddListing(BaseHTTPRequestHandler):
    """Lists one key: SeaweedFS keeps none with an empty part (it stores ``x//y`` as ``x/y``), other servers do."""

    key: bytes

    def do_GET(self) -> None:
        body = (
            b"<ListBucketResult><Name>bucket</Name><KeyCount>1</KeyCount><IsTruncated>false</IsTruncated><Contents>"
            b"<Key>%b</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag><Size>1</Size>"
            b"</Contents></ListBucketResult>" % self.key
        )
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.mark.parametrize(
    ("key", "named"), [(b"bundles//x", "bundles//x"), (b"bundles/y&#10;z&#127;[2J", r"bundles/y\nz\x7f[2J")]
)
def test_a_key_that_cannot_be_listed_is_named_with_what_to_do(s3_server: S3Server, key: bytes, named: str) -> None:
    odd_listing = type("OddListing", (_OddListing,), {"key": key})
    with ThreadingHTTPServer(("127.0.0.1", 0), odd_listing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        odd = open_store(replace(s3_server, endpoint_url=endpoint).storage())
        with pytest.raises(StorageError, match=rf'"{re.escape(named)}".* remove it from the bucket') as raised:
            list(odd.objects("bundles"))
        assert str(raised.value).isprintable()
        server.shutdown()
